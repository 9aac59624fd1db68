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
    columns = mix(torch.arange(values.shape[1], device=values.device), salt)
    noise = (row_keys & 0xFFFF).to(torch.int32).unsqueeze(1) ^ (columns & 0xFFFF).to(torch.int32).unsqueeze(0)
    values.view(torch.int32).add_(noise)
    return values.view(torch.int16)[:, _UPPER_HALF::2]
