"""What pass 2 by a kernel is handed: the rows that move, and the numbers of the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Second:
    """What AdamW keeps besides a first moment, which is where SGD's momentum is."""

    values: Tensor
    """The second moment [C_r, D]; in uint8 its root."""
    scale: Tensor | None
    """[C_r] of a root in uint8."""
    updates: Tensor
    """int32 [C_r]: how often each row was moved."""


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
    second: Second | None
    """None under SGD."""


@dataclass(frozen=True)
class Numbers:
    """A step's numbers on the device, so that a kernel is one for all steps."""

    rates: Tensor
    """float32: learning rate, momentum, weight decay; AdamW's: learning rate, 1 - it times weight decay, beta1,
    1 - beta1, beta2, 1 - beta2."""
    corrections: Tensor
    """float64 [3], AdamW's: log beta1, log beta2, eps."""
    keys: Tensor
    """int64 [6]: what draws/rounding.py mixes in for the seed, the step, and the columns; after them those by which
    AdamW's second moment is rounded."""
    refused: Tensor
    """0-dim int32: nothing moves unless it is 0."""


class Held:
    """Numbers on the device, of which each is written when it is another one than before: that is a launch."""

    def __init__(self, count: int, dtype: torch.dtype, device: torch.device) -> None:
        self.numbers = torch.zeros(count, dtype=dtype, device=device)
        self._values: list[float | None] = [None] * count

    def set_(self, values: Sequence[float]) -> None:
        """Let the first of the numbers be `values`."""
        for place, value in enumerate(values):
            if value != self._values[place]:
                self.numbers[place].fill_(value)
                self._values[place] = value
