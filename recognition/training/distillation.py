"""Distillation: a student that learns where a teacher's embeddings point, beside or in place of the head's loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from recognition.backbones.precision import full_precision
from recognition.distributed.collectives import all_reduce_sum_
from recognition.distributed.world import World
from recognition.training.teacher import Teacher


class Student(nn.Module):
    """A backbone, and what its embeddings [B, D] pass through to be compared with the teacher's [B, E].

    The projection is a matrix without bias, learned with the backbone; where D = E there is none, and the embeddings
    are the teacher's themselves. It is no part of the model that is published.
    """

    def __init__(self, backbone: nn.Module, embedding_size: int, teacher_size: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = None
        if embedding_size != teacher_size:
            self.projection = nn.Linear(embedding_size, teacher_size, bias=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings [B, D], and in float32 what the teacher's are compared with [B, E]."""
        embeddings = self.backbone(images)
        with full_precision(embeddings):
            projected = embeddings.float()
            return embeddings, projected if self.projection is None else self.projection(projected)


@dataclass
class Distillation:
    """What of a run belongs to its teacher."""

    teacher: Teacher
    student: Student
    weight: float
    """Of its loss."""

    def state(self) -> Mapping[str, Tensor]:
        """Return what is learned beside the backbone, by its name in a checkpoint."""
        return dict(self.parameters())

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the same."""
        if self.student.projection is not None:
            yield from self.student.projection.named_parameters("projection")

    def loss(self, projected: Tensor, images: Tensor) -> Tensor:
        """Return the mean of 1 - cosine over this rank's images (0-dim); `images` are their numbers, on the host."""
        targets = self.teacher.targets(images).to(projected.device, non_blocking=True)
        return (1.0 - functional.cosine_similarity(projected, targets, dim=1)).mean()


def named_trained(backbone: nn.Module, distillation: Distillation | None) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield all that gradient steps move but the centers, by name: the backbone's parameters, then the projection."""
    yield from backbone.named_parameters()
    if distillation is not None:
        yield from distillation.parameters()


def mean_over_ranks(value: Tensor, world: World) -> Tensor:
    """Return the mean of a 0-dim tensor over the ranks. Collective: one sum."""
    return all_reduce_sum_(value.clone(), world) / world.size
