"""Heads whose passes are kernels, in Triton's interpreter, beside heads of plain operations."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import pytest
import torch
from torch import Tensor

from recognition.heads.fused.path import FusedPath
from recognition.heads.fused.shapes import OnChip, Shapes, Tile
from recognition.heads.sharded_softmax import ShardedSoftmax
from tests.helpers.heads import batch, make_head, optimizer_of, take_step

BF16 = 2.0**-7
SMALL = Shapes(
    Tile(16, 32, 64, 4, 2),
    sums=OnChip(16, 16, 4, 1),
    descend=OnChip(16, 16, 4, 1),
    descend_small=OnChip(16, 32, 4, 1),
    adamw=OnChip(16, 16, 4, 1),
    adamw_small=OnChip(16, 32, 4, 1),
)
"""Tiles so small that a few classes and rows are several of them, and a tail."""


def fused_head(num_classes: int, dim: int = 128, *, variant: Any = "chunks", **changes: Any) -> ShardedSoftmax:
    """Return a head whose products are float32 in kernels of small tiles."""
    head = make_head(num_classes, dim, mode="kernels", products="bf16", **changes)
    give_path(head, variant=variant)
    return head


def give_path(head: ShardedSoftmax, low: torch.dtype = torch.float32, variant: Any = "chunks") -> None:
    """Let kernels of small tiles, whose products take `low`, make the head's passes."""
    from recognition.heads.fused import pass1, pass2, pass2_adamw

    assert head._loop.fused is not None
    head._loop.fused = FusedPath(head._loop, pass1, pass2, pass2_adamw, SMALL, variant=variant, low=low)


def plain_head(num_classes: int, dim: int = 128, **changes: Any) -> ShardedSoftmax:
    """Return the same head of plain operations."""
    return make_head(num_classes, dim, mode="device", products="float32", **changes)


def trained(
    head: ShardedSoftmax, size: int, steps: int = 3, accumulated: int = 1, kind: str = "sgd", lr: float = 0.5
) -> tuple[list[float], torch.Tensor]:
    """Take steps; return their losses, and the last one's gradient of the embeddings."""
    if kind == "adamw":
        # A step is a gradient over its own size. With a large eps it is small where the gradient is a rounding error.
        optimizer: torch.optim.Optimizer = head.optimizer(kind="adamw", lr=lr, weight_decay=0.05, eps=0.1)
    else:
        optimizer = optimizer_of(head, lr=lr)
    losses, gradient = [], torch.empty(0)
    for step in range(steps):
        for number in range(accumulated - 1):
            (head(*batch(head, size, 100 + step + number)) / accumulated).backward()
        loss, gradient, refused = take_step(head, optimizer, batch(head, size, step))
        assert not refused
        losses.append(loss)
    return losses, gradient


def assert_same(one: ShardedSoftmax, other: ShardedSoftmax, size: int, tolerance: float = 1e-5, **how: Any) -> None:
    """Train both heads, and compare losses, gradients and all that they keep, relative to the largest element."""
    losses, gradient = trained(one, size, **how)
    other_losses, other_gradient = trained(other, size, **how)
    assert losses == pytest.approx(other_losses, rel=tolerance)
    assert torch.allclose(gradient, other_gradient, rtol=0, atol=tolerance * float(gradient.abs().max()))
    for name, rows in one.state_rows().items():
        found = other.state_rows()[name]
        difference = (rows.float() - found.float()).abs()
        is_level = rows.dtype in (torch.int8, torch.uint8)
        if (is_level or rows.dtype == torch.bfloat16) and tolerance < BF16:
            # Rounded the other way, where the exact value lay between two: by one, and rarely.
            assert float(difference.max()) <= (1.0 if is_level else BF16 * float(rows.abs().max())), name
            assert float((difference > 0).float().mean()) < 0.02, name
            continue
        allowed = 2.0 if is_level else tolerance * float(rows.float().abs().max())
        assert float(difference.max()) <= allowed, name


def need_triton() -> None:
    """Skip where Triton is not installed; fail there in CI."""
    if importlib.util.find_spec("triton") is None:
        told = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        told("Triton is not installed (make kernels); its interpreter would run the kernels on a CPU")


def spoil(head: ShardedSoftmax, rows: Tensor, place: str) -> float:
    """Make a value that is not finite: in a "center", an "image" of `rows`, or the "factor" of the loss, returned."""
    if place == "center":
        head.state_rows()["centers"][3, 1] = torch.nan
    if place == "image":
        rows.data[2, 5] = torch.nan
    return torch.inf if place == "factor" else 1.0
