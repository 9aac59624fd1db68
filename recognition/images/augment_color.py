"""Brightness, contrast, saturation and hue."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from recognition.images.operation import Draws, Operation, Span
from recognition.images.planes import LUMA, luma_of

_TO_YIQ = (LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
_FROM_YIQ = ((1.0, 0.956, 0.619), (1.0, -0.272, -0.647), (1.0, -1.106, 1.703))


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
        return jitter_color(images, *parameters)


def jitter_color(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Multiply brightness, contrast about the mean luma, and saturation, and turn the hue by degrees in YIQ."""
    images = (images * _factor(brightness)).clamp(0, 255)
    # The mean of an image is taken over its own pixels in a fixed order, whatever the batch.
    mean = (
        luma_of(images).flatten(1).double().sum(1).div(images.shape[2] * images.shape[3]).float()[:, None, None, None]
    )
    images = (mean + (images - mean) * _factor(contrast)).clamp(0, 255)
    luma, in_phase, quadrature = _mix(images, _TO_YIQ)
    angle = (hue * (math.pi / 180))[:, None, None]
    gain = saturation[:, None, None]
    turned = (in_phase * angle.cos() - quadrature * angle.sin(), in_phase * angle.sin() + quadrature * angle.cos())
    planes = torch.stack([luma, turned[0] * gain, turned[1] * gain], dim=1)
    return torch.stack(_mix(planes, _FROM_YIQ), dim=1).clamp(0, 255)


def _mix(images: Tensor, matrix: tuple[tuple[float, float, float], ...]) -> tuple[Tensor, ...]:
    first, second, third = images.unbind(1)
    return tuple(row[0] * first + row[1] * second + row[2] * third for row in matrix)


def _factor(values: Tensor) -> Tensor:
    return values[:, None, None, None]
