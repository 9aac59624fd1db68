"""A Gaussian blur."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from recognition.images.operation import Draws, Operation, Span
from recognition.images.planes import blur


@dataclass(frozen=True)
class Blur(Operation):
    """A blur of the same width in both directions."""

    sigma: Span = (0.5, 1.5)
    """In pixels."""
    stream: ClassVar[int] = 64

    def parameters(self, draw: Draws) -> list[Tensor]:
        return [draw(self.sigma)]

    def apply(self, images: Tensor, *parameters: Tensor) -> Tensor:
        return blur(images, *parameters)
