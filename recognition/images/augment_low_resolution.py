"""The picture is scaled down and up again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from recognition.images.operation import Draws, Operation, Span
from recognition.images.planes import blur, spread, take

_BOX = 0.29  # deviation of a box of side one: 1 / sqrt(12)
_RADIUS = 8


@dataclass(frozen=True)
class LowResolution(Operation):
    """Fewer pixels on the same side."""

    ratio: Span = (0.2, 1.0)
    """Side of the smaller picture as a share of this one's."""
    stream: ClassVar[int] = 48

    def parameters(self, draw: Draws) -> list[Tensor]:
        return [draw(self.ratio)]

    def apply(self, images: Tensor, *parameters: Tensor) -> Tensor:
        # Weights beyond 6.5 deviations are under 1e-9 of the largest: what they add is rounded away.
        widest = _BOX * math.sqrt(max(0.0, 1 / self.ratio[0] ** 2 - 1))
        return lower_resolution(images, *parameters, radius=min(_RADIUS, math.ceil(6.5 * widest)))


def lower_resolution(images: Tensor, ratio: Tensor, *, radius: int = _RADIUS) -> Tensor:
    """Scale each image down to `ratio` of its side (0 < ratio <= 1) and back up, both smoothly."""
    size = images.shape[3]
    # A pixel of the smaller picture is the mean of a box; this is the deviation of that box.
    images = blur(images, _BOX * (1 / ratio**2 - 1).clamp(min=0).sqrt(), radius=radius)
    # Each pixel lies between two of the smaller picture, and each of these between two of this one: [n, S] all.
    small = (torch.arange(size, device=images.device) + 0.5) * ratio[:, None] - 0.5
    last = (size * ratio).floor().clamp(min=1)[:, None] - 1
    small = small.clamp(min=0).minimum(last)
    first = small.floor()
    share = small - first
    near = _between(first, ratio, size)
    far = _between(first.add(1).minimum(last), ratio, size)
    for axis in (3, 2):
        images = torch.lerp(_sample(images, near, axis), _sample(images, far, axis), spread(share, axis))
    return images


def _between(small: Tensor, ratio: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two pixels between which a pixel of the smaller picture lies, and the share of the second, [n, S]."""
    at = ((small + 0.5) / ratio[:, None] - 0.5).clamp(0, size - 1)
    first = at.floor()
    index = first.long()
    return index, (index + 1).clamp(max=size - 1), at - first


def _sample(images: Tensor, between: tuple[Tensor, Tensor, Tensor], axis: int) -> Tensor:
    """Return the values between pixels along an axis."""
    near, far, share = between
    return torch.lerp(take(images, near, axis), take(images, far, axis), spread(share, axis))
