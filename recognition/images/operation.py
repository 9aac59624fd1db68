"""What an augmentation is: bounds, random parameters drawn per image, and what is done with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from recognition.draws.hashing import derive_key, mix64

Span = tuple[float, float]
STREAMS_EACH = 16
"""Random streams an operation may use: its own number for whether it happens, those after it for its parameters."""


class Operation(ABC):
    """One augmentation, with the bounds of its parameters as fields.

    It works on whole batches, on the device: images [n, 3, S, S] float32 in [0, 255], parameters [n], one per image.
    It is made of sums, products and gathers of single elements, never of a matrix product, whose order of sums could
    change with n: an image comes out the same to the last bit in whatever batch it is.
    """

    stream: ClassVar[int]
    """The first of its STREAMS_EACH random streams; no other operation has it, and it never changes."""

    @abstractmethod
    def parameters(self, draw: Draws) -> list[Tensor]:
        """Draw the parameters of `apply`, each [n]."""

    @abstractmethod
    def apply(self, images: Tensor, *parameters: Tensor) -> Tensor:
        """Return the images after it; what comes in stays as it is."""


class Draws:
    """The random numbers of one operation, one stream after the other."""

    def __init__(self, seed: int, epoch: int, indices: Tensor, first_stream: int) -> None:
        self._seed, self._epoch, self._indices = seed, epoch, indices
        self._stream = first_stream

    def __call__(self, span: Span = (0.0, 1.0)) -> Tensor:
        """Return one number per image, uniform in `span`, float32 [n]."""
        self._stream += 1
        low, high = span
        return low + (high - low) * uniform(self._seed, self._epoch, self._indices, self._stream)


def uniform(seed: int, epoch: int, indices: Tensor, stream: int) -> Tensor:
    """Return one number in [0, 1) per image, float32 [n], on the device of `indices`.

    24 random bits: every value is exact in float32 and 1.0 cannot occur.
    """
    bits = mix64(mix64(indices) ^ derive_key(seed, epoch, stream)) >> 40 & 0xFFFFFF
    return bits.to(torch.float32) / (1 << 24)
