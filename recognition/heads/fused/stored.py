"""What pass 2 by a kernel is handed: the rows that move, and the numbers of the step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Stored:
    """The rows that move, as they are stored; [C_r, D] unless said otherwise."""

    centers: Tensor
    shadow: Tensor
    """The centers in bf16: themselves where they are stored so."""
    momentum: Tensor | None
    momentum_scale: Tensor | None
    """[C_r] of int8 momentum."""
    inverse_norm: Tensor
    """[C_r]"""
    sample: Tensor | None
    """Which rows take part, sorted [n]; None for all."""


@dataclass(frozen=True)
class Numbers:
    """A step's numbers on the device, so that a kernel is one for all steps."""

    rates: Tensor
    """float32 [3]: learning rate, momentum, weight decay."""
    keys: Tensor
    """int64 [3]: what draws/rounding.py mixes in for the seed, the step, and the columns."""
    refused: Tensor
    """0-dim int32: nothing moves unless it is 0."""
