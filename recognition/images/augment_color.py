"""Brightness, contrast, saturation and hue."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from recognition.images.operation import Draws, Operation, Span
from recognition.images.planes import LUMA, constant, luma_of, mix_channels

_TO_YIQ = (LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
_FROM_YIQ = ((1.0, 0.956, 0.619), (1.0, -0.272, -0.647), (1.0, -1.106, 1.703))


def _through_yiq(pairs: tuple[tuple[float, int, int], ...]) -> tuple[tuple[float, ...], ...]:
    """Return the matrix RGB -> RGB that adds `weight` times component `source` of YIQ to component `target`."""
    return tuple(
        tuple(sum(weight * row[target] * _TO_YIQ[source][c] for weight, target, source in pairs) for c in range(3))
        for row in _FROM_YIQ
    )


# A turn by an angle and a gain g of the two components of color, as one matrix: the first of these, which keeps the
# luma, + g cos(angle) times the second + g sin(angle) times the third.
_PARTS = (
    _through_yiq(((1.0, 0, 0),)),
    _through_yiq(((1.0, 1, 1), (1.0, 2, 2))),
    _through_yiq(((1.0, 2, 1), (-1.0, 1, 2))),
)

_NEVER: Span = (1.0, 1.0)
"""Bounds of a factor that changes nothing."""


@dataclass(frozen=True)
class Color(Operation):
    """The four together, each by a factor or an angle of its own."""

    brightness: Span = (0.5, 1.5)
    contrast: Span = (0.5, 1.5)
    saturation: Span = (0.5, 1.5)
    hue_degrees: Span = (0.0, 0.0)
    stream: ClassVar[int] = 80

    def parameters(self, draw: Draws) -> list[Tensor]:
        return [draw(span) for span in (self.brightness, self.contrast, self.saturation, self.hue_degrees)]

    def apply(self, images: Tensor, *parameters: Tensor) -> Tensor:
        brightness, contrast, saturation, hue = parameters
        return jitter_color(
            images,
            None if self.brightness == _NEVER else brightness,
            None if self.contrast == _NEVER else contrast,
            saturation,
            hue,
        )


def jitter_color(
    images: Tensor, brightness: Tensor | None, contrast: Tensor | None, saturation: Tensor, hue: Tensor
) -> Tensor:
    """Multiply brightness, contrast about the mean luma, and saturation, and turn the hue by degrees in YIQ.

    None is a factor of one for every image.
    """
    if brightness is not None:
        images = (images * _factor(brightness)).clamp_(0, 255)
    if contrast is not None:
        # The mean of an image is taken over its own pixels in a fixed order, whatever the batch.
        num_pixels = images.shape[2] * images.shape[3]
        mean = _factor(luma_of(images).flatten(1).double().sum(1).div(num_pixels).float())
        images = (mean + (images - mean) * _factor(contrast)).clamp_(0, 255)
    keep, cosine, sine = constant(_PARTS, images.device)
    angle = hue * (math.pi / 180)
    turn = keep + _matrix(angle.cos() * saturation) * cosine + _matrix(angle.sin() * saturation) * sine
    return mix_channels(images, turn).clamp_(0, 255)


def _matrix(values: Tensor) -> Tensor:
    return values[:, None, None]


def _factor(values: Tensor) -> Tensor:
    return values[:, None, None, None]
