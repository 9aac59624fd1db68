"""A synthetic face mask over mouth and nose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from recognition.images.operation import Draws, Operation, Span


@dataclass(frozen=True)
class Mask(Operation):
    """A mask of any color from white over surgical blue to black: one lightness, with a tint toward blue."""

    upper_edge: Span = (0.50, 0.60)
    """As a share of the side, from the top."""
    stream: ClassVar[int] = 128

    def parameters(self, draw: Draws) -> list[Tensor]:
        light, tint = draw((0.1, 1.0)), draw((0.0, 0.3))
        return [draw(self.upper_edge), light * (1 - tint), light * (1 - tint / 2), light]

    def apply(self, images: Tensor, *parameters: Tensor) -> Tensor:
        return wear_mask(images, *parameters)


def wear_mask(images: Tensor, upper_edge: Tensor, red: Tensor, green: Tensor, blue: Tensor) -> Tensor:
    """Draw a face mask over mouth and nose of an aligned face; colors are in [0, 1].

    The shape is a trapezoid in the ArcFace template: its upper edge lies between the eyes (about 0.46 of the side) and
    the tip of the nose (0.64), it is as wide as the face there and narrows to the chin, and a fold runs across.
    """
    size = images.shape[3]
    centers = (torch.arange(size, device=images.device) + 0.5) / size
    across, along = centers[None, None, :], centers[None, :, None]
    top = upper_edge[:, None, None] + 0.35 * (across - 0.5) ** 2  # the edge hangs a little toward the ears
    half_width = 0.40 - 0.20 * ((along - top).clamp(min=0) / (1 - top)) ** 2
    inside = ((along > top) & ((across - 0.5).abs() < half_width)).to(images.dtype)[:, None]
    shade = 1 - 0.15 * ((along * size / 9).frac() < 0.15).to(images.dtype) - 0.25 * (2 * (across - 0.5)) ** 2
    color = 255 * torch.stack([red, green, blue], dim=1)[:, :, None, None] * shade[:, None]
    return images * (1 - inside) + color.clamp(0, 255) * inside
