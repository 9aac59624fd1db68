"""Weights and inputs made by formula, so that two implementations can be compared across machines and versions."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import torch
from torch import nn


def fill_by_formula(module: nn.Module) -> None:
    """Set every weight and buffer of `module` in place to sines of its key and position; no generator is involved.

    Scales keep activations near 1 through any depth; variances stay positive.
    """
    for key, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        wave = waves(tensor.shape, phase=zlib.crc32(key.encode()) % 1000)
        if tensor.ndim > 1:
            wave = wave * math.sqrt(2.0 / tensor[0].numel())
        elif key.endswith("running_var") or (key.endswith("weight") and "prelu" not in key):
            wave = 1.0 + 0.25 * wave
        else:
            wave = 0.2 * wave
        tensor.copy_(wave)


def waves(shape: Sequence[int], phase: float) -> torch.Tensor:
    """Return float32 numbers in [-1, 1] that depend on position and `phase` only."""
    positions = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(positions * 12.9898 + positions.square() * 1e-3 + phase).float().reshape(tuple(shape))


def relative_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return max |a - b| / max |b|."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
