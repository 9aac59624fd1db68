"""One optimizer step: forward, the sharded loss, backward, and the decision whether it counts."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from recognition.backbones.precision import autocast
from recognition.config.schema import Config
from recognition.distributed.replicate import holding_back
from recognition.distributed.world import World
from recognition.draws.hashing import mix
from recognition.feed.loader import Batch
from recognition.images.augment import Augmenter, flip_mask, recipe
from recognition.images.preprocess import to_network
from recognition.optim.groups import set_lr
from recognition.training.build import Parts
from recognition.training.distillation import mean_over_ranks
from recognition.training.kept_buffers import KeptBuffers
from recognition.training.scaler import LossScaler


@dataclass(frozen=True)
class StepResult:
    """Device scalars of one step, equal on all ranks; `refused` is 0 or 1."""

    refused: torch.Tensor
    values: dict[str, torch.Tensor]


class Stepper:
    """Takes optimizer steps; owns the loss scale and nothing else that outlives a step."""

    def __init__(self, config: Config, parts: Parts, world: World) -> None:
        self.config = config
        self.parts = parts
        self.world = world
        self.scaler = LossScaler(world.device, enabled=config.train.precision == "fp16")
        self.augment = Augmenter(recipe(config.augment), config.seed)
        self.embeddings = torch.zeros(0, config.backbone.embedding_size, device=world.device)
        """This rank's, of the last micro-batch [B, D]; for reports alone."""
        self._buffers = KeptBuffers(parts.backbone.buffers())
        self._layout = torch.channels_last if config.train.channels_last else torch.contiguous_format

    def step(
        self,
        batches: Sequence[Batch],
        *,
        step: int,
        epoch: int,
        lr: float,
        labels_on_host: Sequence[torch.Tensor] | None = None,
    ) -> StepResult:
        """Train on `batches` (one per micro-step, gradients averaged) as optimizer step `step`.

        `labels_on_host`: per micro-step those of all ranks, where the head asks for them.

        A step counts on every rank or on none: where a non-finite value appeared in any embedding, loss, gradient or
        center, backbone, buffers and optimizer state come out bit-identical to how they went in. With head.overlap the
        centers go by what the head has met alone, and may move where the backbone does not.
        Collectives: the head's, DDP's, and the optimizer's.
        """
        self._buffers.keep()
        optimizer, head = self.parts.optimizer, self.parts.head
        set_lr(optimizer, lr)
        optimizer.zero_grad(set_to_none=True)
        losses = []
        for index, batch in enumerate(batches):
            labels = None if labels_on_host is None else labels_on_host[index]
            losses.append(self._micro_step(batch, labels, index, len(batches), step=step, epoch=epoch))
        norm, overflow = self._unscale_and_clip_()
        # As torch.amp.GradScaler hands over what it has found; the head's own verdict and the other ranks' come on top.
        optimizer.grad_scale, optimizer.found_inf = None, overflow
        optimizer.step()
        refused = optimizer.refused.float()
        self._buffers.restore_(refused)
        self.scaler.update_(refused)
        if self.parts.average is not None:
            self.parts.average.update(step, refused)
        parts = {name: torch.stack([loss[name] for loss in losses]).mean() for name in losses[0]}
        found = {} if head.result is None else head.result.means()
        return StepResult(refused, {**parts, "grad_norm": norm, **found})

    def broken(self) -> list[str]:
        """Return what of state and last step is not finite on this rank, causes first. Copies to the host."""
        head, rows = self.parts.head, self.parts.head.state_rows()
        optimizer_states = self.parts.optimizer.state.values()
        suspects: dict[str, list[torch.Tensor]] = {
            "the centers": [rows["centers"]],
            "the centers' momentum": [tensor for name, tensor in rows.items() if name != "centers"],
            "the backbone's weights": list(self.parts.trained()),
            "the backbone's buffers": self._buffers.all,
            "the optimizer's state": [tensor for state in optimizer_states for tensor in state.values()],
            "the embeddings": [self.embeddings],
            "the loss gradient": [self.scaler.scale],
            "the centers' gradient": [p.grad for p in head.parameters() if p.grad is not None],
            "the backbone's gradient": [p.grad for p in self.parts.trained() if p.grad is not None],
        }
        return [name for name, tensors in suspects.items() if not all(map(_is_finite, tensors))]

    def _micro_step(
        self, batch: Batch, labels_on_host: torch.Tensor | None, index: int, count: int, *, step: int, epoch: int
    ) -> dict[str, torch.Tensor]:
        """Add the gradients of a micro-batch; return its losses by name, "loss" being that which is minimized."""
        flips = flip_mask(self.config.seed, epoch, batch.indices, self.config.data.flip)
        images = to_network(self.augment(batch.images, batch.indices, epoch), flips, memory_format=self._layout)
        # Gradients travel once per optimizer step, with the last micro-batch.
        is_last = index == count - 1
        # Dropout draws from torch's own generators: as f(seed, step, rank) they need no place in a checkpoint.
        torch.manual_seed(int(mix(torch.tensor(index), self.config.seed, step, self.world.rank)))
        with contextlib.nullcontext() if is_last else holding_back(self.parts.replica):
            with autocast(self.world.device, self.config.train.precision):
                output = self.parts.replica(images)
            embeddings, projected = (output, None) if self.parts.distillation is None else output
            self.embeddings = embeddings.detach()
            loss = None
            if self.parts.distillation is None or self.config.head.weight:
                loss = self.parts.head(embeddings, batch.labels, labels_on_host=labels_on_host)
            loss, values = self._with_teacher(loss, projected, batch)
            with contextlib.nullcontext() if is_last else self.parts.optimizer.no_overlap():
                loss.backward(self.scaler.scale / count)
        return values

    def _with_teacher(
        self, of_head: torch.Tensor | None, projected: torch.Tensor | None, batch: Batch
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return what is minimized, and for reports its value and its parts as means over the ranks.

        `of_head` is None where the head's loss takes no part, `projected` where there is no teacher.
        """
        distillation = self.parts.distillation
        if distillation is None:
            assert of_head is not None, "without a teacher the head has a loss"
            return of_head, {"loss": of_head.detach()}
        assert projected is not None, "a student gives both"
        images = batch.indices if batch.indices_on_host is None else batch.indices_on_host
        apart = distillation.loss(projected, images)
        shared = mean_over_ranks(apart.detach(), self.world)
        loss, value = distillation.weight * apart, distillation.weight * shared
        if of_head is not None:
            weight = self.config.head.weight
            loss, value = loss + weight * of_head, value + weight * of_head.detach()
        return loss, {"loss": value, "teacher_cosine": 1.0 - shared}

    def _unscale_and_clip_(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Divide all gradients by the loss scale, clip the backbone's norm, and return (norm, overflow flag)."""
        for parameter in (*self.parts.head.parameters(), *self.parts.head.proxies):
            if parameter.grad is not None:
                parameter.grad.div_(self.scaler.scale)
        grads = [p.grad for p in self.parts.trained() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads, foreach=True) / self.scaler.scale
        factor = 1.0 / self.scaler.scale
        if self.config.optim.clip_norm > 0:
            factor = factor * (self.config.optim.clip_norm / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(grads, factor)
        return norm, (~torch.isfinite(norm)).float()


def _is_finite(tensor: torch.Tensor) -> bool:
    return bool(tensor.isfinite().all()) if tensor.is_floating_point() else True
