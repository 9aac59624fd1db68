"""The picture is scaled down and up again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from recognition.images.operation import Draws, Operation, Span
from recognition.images.planes import blur, spread, take


@dataclass(frozen=True)
class LowResolution(Operation):
    """Fewer pixels on the same side."""

    ratio: Span = (0.2, 1.0)
    """Side of the smaller picture as a share of this one's."""
    stream: ClassVar[int] = 48

    def parameters(self, draw: Draws) -> list[Tensor]:
        return [draw(self.ratio)]

    def apply(self, images: Tensor, *parameters: Tensor) -> Tensor:
        return lower_resolution(images, *parameters)


def lower_resolution(images: Tensor, ratio: Tensor) -> Tensor:
    """Scale each image down to `ratio` of its side (0 < ratio <= 1) and back up, both smoothly."""
    size = images.shape[3]
    # A pixel of the smaller picture is the mean of a box; this is the deviation of that box.
    images = blur(images, 0.29 * (1 / ratio**2 - 1).clamp(min=0).sqrt(), radius=8)
    for axis in (3, 2):
        small = (torch.arange(size, device=images.device) + 0.5) * ratio[:, None] - 0.5  # [n, S] in small pixels
        last = (size * ratio).floor().clamp(min=1)[:, None] - 1
        small = small.clamp(min=0).minimum(last)
        first = small.floor()
        share = spread(small - first, axis)
        near = _sample(images, (first + 0.5) / ratio[:, None] - 0.5, axis)
        far = _sample(images, (first.add(1).minimum(last) + 0.5) / ratio[:, None] - 0.5, axis)
        images = near + (far - near) * share
    return images


def _sample(images: Tensor, at: Tensor, axis: int) -> Tensor:
    """Return the values at fractional positions [n, S] along an axis."""
    size = images.shape[axis]
    at = at.clamp(0, size - 1)
    first = at.floor()
    near = take(images, first.long(), axis)
    far = take(images, (first.long() + 1).clamp(max=size - 1), axis)
    return near + (far - near) * spread(at - first, axis)
