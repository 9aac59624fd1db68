"""The head every published trainer has: normalized copies of all centers, full logits, autograd, torch's optimizer.

Written from its equations, as what the sharded head is measured against.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from recognition.distributed.collectives import all_reduce_max_, all_reduce_sum_, gather_rows, gather_stack
from recognition.distributed.shards import class_range
from recognition.distributed.world import World


class MaterializedHead(nn.Module):
    """Margin-softmax as the published trainers have it, from its equations."""

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        world: World,
        margins: tuple[float, float, float],
        scale: float,
        settings: dict[str, Any],
        kind: str = "sgd",
    ) -> None:
        super().__init__()
        self.world, self.margins, self.scale = world, margins, scale
        self.range = class_range(num_classes, world.rank, world.size)
        self.weight = nn.Parameter(torch.empty(len(self.range), embedding_size, device=world.device))
        nn.init.normal_(self.weight, std=0.01)
        self.optimizer: torch.optim.Optimizer
        self.optimizer = (torch.optim.AdamW if kind == "adamw" else torch.optim.SGD)([self.weight], **settings)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss over the global batch."""
        gathered = gather_rows(embeddings, self.world)
        local = gather_stack(labels, self.world).flatten() - self.range.start
        rows = ((local >= 0) & (local < len(self.range))).nonzero().flatten()
        cosine = functional.linear(functional.normalize(gathered), functional.normalize(self.weight)).clamp(-1, 1)
        m1, m2, m3 = self.margins
        own = local[rows]
        if m3:
            cosine[rows, own] = cosine[rows, own] - m3
        else:
            with torch.no_grad():  # the angle of every logit, in place, as arcface_torch takes it
                cosine.acos_()
                cosine[rows, own] = cosine[rows, own] * m1 + m2
                cosine.cos_()
        loss: Tensor = _StoredSoftmax.apply(cosine * self.scale, rows, own, self.world)
        return loss

    def step(self) -> None:
        """Move the centers."""
        self.optimizer.step()
        self.optimizer.zero_grad()


class _StoredSoftmax(torch.autograd.Function):
    """Cross-entropy of sharded logits that are overwritten by their probabilities."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, rows: Tensor, own: Tensor, world: World) -> Tensor:
        largest = all_reduce_max_(logits.amax(1, keepdim=True), world)
        probabilities = logits.sub_(largest).exp_()
        probabilities.div_(all_reduce_sum_(probabilities.sum(1, keepdim=True), world))
        target = logits.new_zeros(len(logits))
        target[rows] = probabilities[rows, own]
        ctx.save_for_backward(probabilities, rows, own)
        return all_reduce_sum_(target, world).clamp_min_(1e-30).log_().mean().neg_()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        probabilities, rows, own = ctx.saved_tensors
        probabilities[rows, own] -= 1
        return probabilities.div_(len(probabilities)).mul_(gradient), None, None, None
