"""Landmarks that are off: the face is turned, enlarged and moved."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from recognition.images.operation import Draws, Operation, Span


@dataclass(frozen=True)
class Misalign(Operation):
    """A turn, a zoom and a move about the center, together."""

    degrees: Span = (-9.0, 9.0)
    zoom: Span = (0.9, 1.1)
    px: Span = (-6.0, 6.0)
    stream: ClassVar[int] = 160

    def parameters(self, draw: Draws) -> list[Tensor]:
        return [draw(span) for span in (self.degrees, self.zoom, self.px, self.px)]

    def apply(self, images: Tensor, *parameters: Tensor) -> Tensor:
        return misalign(images, *parameters)


def misalign(images: Tensor, degrees: Tensor, zoom: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Turn, enlarge and move each image about its center, as landmarks that are off would; outside is black.

    `degrees` turns clockwise, `zoom` above 1 enlarges, `right` and `down` are pixels.
    """
    size = images.shape[3]
    centers = (torch.arange(size, device=images.device) * 2 + 1) / size - 1  # [-1, 1], as grid_sample counts
    across = centers[None, None, :] - 2 * right[:, None, None] / size
    along = centers[None, :, None] - 2 * down[:, None, None] / size
    angle = (degrees * (math.pi / 180))[:, None, None]
    cosine, sine = angle.cos() / zoom[:, None, None], angle.sin() / zoom[:, None, None]
    source = torch.stack([across * cosine + along * sine, along * cosine - across * sine], dim=3)  # [n, S, S, 2]
    return functional.grid_sample(images, source, align_corners=False)
