"""Heads small enough to look at, and one step of one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recognition.distributed.world import World
from recognition.heads.optimizer import HeadOptimizer
from recognition.heads.sharded_softmax import ShardedSoftmax

ALONE = World(0, 1, 0, torch.device("cpu"))
SGD: dict[str, float] = {"momentum": 0.9, "weight_decay": 5e-4}


def make_head(
    num_classes: int, dim: int = 16, *, world: World = ALONE, seed: int = 3, **changes: Any
) -> ShardedSoftmax:
    """Make the head of one rank; without a process group it can be looked at, not trained."""
    return ShardedSoftmax(num_classes, dim, world=world, seed=seed, **changes)


def batch(head: ShardedSoftmax, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return `size` embeddings that want a gradient, and their labels; each rank's own."""
    generator = torch.Generator().manual_seed(100 * seed + head.world.rank)
    dim = head.centers.shape[1] - head.margin.has_bias
    embeddings = torch.randn(size, dim, generator=generator, dtype=head.state.dtype)
    return embeddings.requires_grad_(), torch.randint(0, head.num_classes, (size,), generator=generator)


def optimizer_of(head: ShardedSoftmax, lr: float = 0.1) -> torch.optim.Optimizer:
    """Return what moves the head's centers, whatever its update."""
    if head.update == "autograd":
        return torch.optim.SGD(head.parameters(), lr=lr, **SGD)
    momentum = 0.0 if head.state.momentum is None else SGD["momentum"]
    return head.optimizer(lr=lr, momentum=momentum, weight_decay=SGD["weight_decay"])


def adamw_of(head: ShardedSoftmax, lr: float = 0.01) -> HeadOptimizer:
    """Return AdamW on the head's centers."""
    return head.optimizer(kind="adamw", lr=lr, weight_decay=0.05)


def make_trained(num_classes: int, dim: int = 16, *, kind: str = "sgd", **changes: Any) -> tuple[ShardedSoftmax, Any]:
    """Make a head of one rank and the optimizer, of `kind`, of its centers."""
    head = make_head(num_classes, dim, **changes)
    return head, adamw_of(head) if kind == "adamw" else optimizer_of(head)


def take_step(
    head: ShardedSoftmax,
    optimizer: torch.optim.Optimizer,
    rows: tuple[Tensor, Tensor],
    *,
    factor: float = 1.0,
) -> tuple[float, Tensor, bool]:
    """Take one step; return the loss, the embeddings' gradient, and whether it was refused."""
    embeddings, labels = rows
    loss = head(embeddings, labels)
    (loss * factor).backward()
    optimizer.step()
    optimizer.zero_grad()
    assert embeddings.grad is not None
    assert head.result is not None
    refused = optimizer.refused if isinstance(optimizer, HeadOptimizer) else head.result.refused
    return loss.item(), embeddings.grad, bool(refused)


def snapshot(head: ShardedSoftmax) -> dict[str, Tensor]:
    """Return copies of everything the head keeps."""
    return {name: tensor.clone() for name, tensor in {**head.state_rows(), **head.margin_state()}.items()}


def bits(tensor: Tensor) -> Tensor:
    """Return a tensor's bytes, in which NaN equals NaN."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def same_bits(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Whether two snapshots are the same."""
    return all(torch.equal(bits(left[name]), bits(right[name])) for name in left | right)
