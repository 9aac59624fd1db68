"""The picture moves by whole pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from recognition.images.operation import Draws, Operation, Span
from recognition.images.planes import spread, take


@dataclass(frozen=True)
class Shift(Operation):
    """A move to the right and one down."""

    px: Span = (-4.0, 4.0)
    stream: ClassVar[int] = 32

    def parameters(self, draw: Draws) -> list[Tensor]:
        return [draw(self.px), draw(self.px)]

    def apply(self, images: Tensor, *parameters: Tensor) -> Tensor:
        return shift(images, *parameters)


def shift(images: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Move each image by whole pixels, rounded; what comes in from outside is black."""
    return _move(_move(images, right, 3), down, 2)


def _move(images: Tensor, by: Tensor, axis: int) -> Tensor:
    size = images.shape[axis]
    source = torch.arange(size, device=images.device) - by.round().long()[:, None]  # [n, S]
    moved = take(images, source.clamp(0, size - 1), axis)
    return moved * spread((source >= 0) & (source < size), axis)
