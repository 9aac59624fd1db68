"""Stochastic rounding by random numbers that are a function of their place."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from recognition.draws.hashing import mix

_UPPER_HALF = 1 if sys.byteorder == "little" else 0


def stochastic_bf16_bits(values: Tensor, *, row_keys: Tensor, salt: int) -> Tensor:
    """Return float32 `values` [n, D] as the bits of bfloat16 (an int16 view), rounded at random; destroys them.

    A value is rounded up with the probability that keeps its mean. The 16 random bits of an element are the exclusive
    or of a number of its row and one of its column: uniform for each element and independent between any two of a row
    or a column, at the cost of one walk over the block.
    """
    values.view(torch.int32).add_(_noise(values, row_keys, salt))
    return values.view(torch.int16)[:, _UPPER_HALF::2]


def stochastic_levels_(values: Tensor, *, row_keys: Tensor, salt: int, highest: int) -> Tensor:
    """Round floats [n, D] in [0, `highest`] in place to whole numbers at random, and return them.

    As `stochastic_bf16_bits` does, but what is above zero becomes at least one.
    """
    lowest = (values > 0).to(values.dtype)
    values.add_(_noise(values, row_keys, salt), alpha=2**-16).floor_()
    return torch.maximum(values, lowest, out=values).clamp_(max=highest)


def _noise(values: Tensor, row_keys: Tensor, salt: int) -> Tensor:
    """Return 16 random bits for each element, as int32."""
    columns = mix(torch.arange(values.shape[1], device=values.device), salt)
    return (row_keys & 0xFFFF).to(torch.int32).unsqueeze(1) ^ (columns & 0xFFFF).to(torch.int32).unsqueeze(0)
