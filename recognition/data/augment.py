"""Augmentation drawn per image from (seed, epoch, index): equal for any batch size, number of workers or of ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from recognition.data.hashing import derive_key, mix64

# One number per kind of draw, so that no two use the same stream.
_FLIP = 1


def flip_mask(seed: int, epoch: int, indices: Tensor, probability: float) -> Tensor:
    """Return which of the images are mirrored, bool [n] on the device of `indices` (int64 [n])."""
    return uniform(seed, epoch, indices, _FLIP) < probability


def uniform(seed: int, epoch: int, indices: Tensor, stream: int) -> Tensor:
    """Return one number in [0, 1) per image, float32 [n], on the device of `indices`.

    24 random bits: every value is exact in float32 and 1.0 cannot occur.
    """
    bits = mix64(mix64(indices) ^ derive_key(seed, epoch, stream)) >> 40 & 0xFFFFFF
    return bits.to(torch.float32) / (1 << 24)
