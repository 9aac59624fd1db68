"""All but a random window of the picture becomes black."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from recognition.images.operation import Draws, Operation, Span
from recognition.images.planes import window


@dataclass(frozen=True)
class Crop(Operation):
    """A window with a ratio of sides between 3/4 and 4/3."""

    area: Span = (0.2, 1.0)
    """Share of the picture that is left."""
    stream: ClassVar[int] = 16

    def parameters(self, draw: Draws) -> list[Tensor]:
        area, ratio = draw(self.area), torch.exp(draw((-math.log(4 / 3), math.log(4 / 3))))
        width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        return [draw() * (1 - width), draw() * (1 - height), width, height]

    def apply(self, images: Tensor, *parameters: Tensor) -> Tensor:
        return keep_window(images, *parameters)


def keep_window(images: Tensor, left: Tensor, top: Tensor, width: Tensor, height: Tensor) -> Tensor:
    """Blacken all outside a window; its parameters are shares of the side."""
    return images * window(images, left, top, width, height)
