"""What an augmentation is: bounds, random parameters drawn per image, and what is done with them."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
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
        """Draw the parameters of `apply`, each [n]; as many draws whatever the values."""

    @abstractmethod
    def apply(self, images: Tensor, *parameters: Tensor) -> Tensor:
        """Return the images after it; what comes in stays as it is."""


class Draws:
    """The random numbers of one operation: the next of `rows`, each [n] in [0, 1), at every call."""

    def __init__(self, rows: Iterator[Tensor]) -> None:
        self._rows = rows

    def __call__(self, span: Span = (0.0, 1.0)) -> Tensor:
        """Return one number per image, uniform in `span`, float32 [n]."""
        low, high = span
        row = next(self._rows)
        return row if span == (0.0, 1.0) else low + (high - low) * row


def streams_of(operation: Operation) -> list[int]:
    """Return the streams an operation draws from: whether it happens, then its parameters in the order of its calls."""
    counted = itertools.count(1)
    operation.parameters(Draws(torch.zeros(1) for _ in counted))
    return list(range(operation.stream + 1, operation.stream + 1 + next(counted)))


def uniform(seed: int, epoch: int, indices: Tensor, stream: int) -> Tensor:
    """Return one number in [0, 1) per image, float32 [n], on the device of `indices`.

    24 random bits: every value is exact in float32 and 1.0 cannot occur.
    """
    return _in_unit(mix64(mix64(indices) ^ derive_key(seed, epoch, stream)))


def uniform_rows(indices: Tensor, keys: Tensor) -> Tensor:
    """Return `uniform` of the streams with `keys` (int64 [k]: derive_key(seed, epoch, stream)) as float32 [k, n].

    In as many kernels as one stream takes.
    """
    return _in_unit(mix64(mix64(indices) ^ keys[:, None]))


def _in_unit(hashes: Tensor) -> Tensor:
    return (hashes >> 40 & 0xFFFFFF).to(torch.float32) / (1 << 24)
