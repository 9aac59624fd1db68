"""The color is lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from recognition.images.operation import Draws, Operation
from recognition.images.planes import luma_of


@dataclass(frozen=True)
class Gray(Operation):
    """The luma in all three channels."""

    stream: ClassVar[int] = 96

    def parameters(self, draw: Draws) -> list[Tensor]:
        return []

    def apply(self, images: Tensor, *parameters: Tensor) -> Tensor:
        return gray(images, *parameters)


def gray(images: Tensor) -> Tensor:
    """Take the color out."""
    return luma_of(images).expand_as(images)
