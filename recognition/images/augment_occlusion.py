"""A gray rectangle covers a part of the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from recognition.images.operation import Draws, Operation, Span
from recognition.images.planes import window


@dataclass(frozen=True)
class Occlusion(Operation):
    """A rectangle anywhere in the picture, of any gray."""

    side: Span = (0.15, 0.4)
    """Of each of its two sides, as a share of the picture's."""
    stream: ClassVar[int] = 112

    def parameters(self, draw: Draws) -> list[Tensor]:
        width, height = draw(self.side), draw(self.side)
        return [draw() * (1 - width), draw() * (1 - height), width, height, draw()]

    def apply(self, images: Tensor, *parameters: Tensor) -> Tensor:
        return occlude(images, *parameters)


def occlude(images: Tensor, left: Tensor, top: Tensor, width: Tensor, height: Tensor, gray: Tensor) -> Tensor:
    """Cover a window with one gray in [0, 1]."""
    inside = window(images, left, top, width, height)
    return images * (1 - inside) + 255 * gray[:, None, None, None] * inside
