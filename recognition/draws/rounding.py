"""Random numbers that are a function of their place, and the stochastic rounding that uses them."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

_UPPER_HALF = 1 if sys.byteorder == "little" else 0
_GOLDEN = -7046029254386353131  # 2^64 / golden ratio, as a signed int64


def mix(values: Tensor, *keys: int) -> Tensor:
    """Return a number in [0, 2^63) that looks random for each of `values` under `keys` (splitmix64's finalizer)."""
    mixed = values.to(torch.int64)
    for key in keys:
        mixed = _finalize(mixed + (key * _GOLDEN + 0x632BE59BD9B4E019) % 2**64 - 2**63)
    return mixed & 0x7FFFFFFFFFFFFFFF


def _finalize(values: Tensor) -> Tensor:
    values = (values ^ _shifted(values, 30)) * -4658895280553007687
    values = (values ^ _shifted(values, 27)) * -7723592293110705685
    return values ^ _shifted(values, 31)


def _shifted(values: Tensor, bits: int) -> Tensor:
    return (values >> bits) & ((1 << (64 - bits)) - 1)


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
