"""What a strong JPEG compression leaves of a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from recognition.images.operation import Draws, Operation, Span
from recognition.images.planes import constant, luma_of

# Annex K of the JPEG standard, the tables libjpeg scales by quality.
_LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)


@dataclass(frozen=True)
class Jpeg(Operation):
    """The artifacts of JPEG with halved chroma."""

    quality: Span = (20.0, 80.0)
    stream: ClassVar[int] = 144

    def parameters(self, draw: Draws) -> list[Tensor]:
        return [draw(self.quality)]

    def apply(self, images: Tensor, *parameters: Tensor) -> Tensor:
        return jpeg_artifacts(images, *parameters)


def jpeg_artifacts(images: Tensor, quality: Tensor) -> Tensor:
    """Do to each image what JPEG of `quality` (1 to 100) with halved chroma does: 8x8 DCT, quantize, and back."""
    size = images.shape[3]
    padding = -size % 16
    planes = functional.pad(images.round(), (0, padding, 0, padding), mode="replicate")
    red, _, blue = planes.unbind(1)
    luma = luma_of(planes)[:, 0]
    chroma = torch.stack([(blue - luma) * 0.564, (red - luma) * 0.713], dim=1)
    chroma = functional.avg_pool2d(chroma, 2)
    scale = torch.where(quality < 50, 5000 / quality.clamp(min=1), 200 - 2 * quality)[:, None, None]
    luma = _quantize(luma[:, None] - 128, _table(_LUMA_TABLE, scale))[:, 0] + 128
    chroma = _quantize(chroma, _table(_CHROMA_TABLE, scale))
    # Weights 3/4 and 1/4, the triangle filter of libjpeg.
    chroma_blue, chroma_red = functional.interpolate(chroma, scale_factor=2, mode="bilinear").unbind(1)
    decoded = torch.stack(
        [luma + 1.402 * chroma_red, luma - 0.344136 * chroma_blue - 0.714136 * chroma_red, luma + 1.772 * chroma_blue],
        dim=1,
    )
    return decoded[:, :, :size, :size].clamp(0, 255)


def _table(table: tuple[tuple[int, ...], ...], scale: Tensor) -> Tensor:
    return ((constant(table, scale.device) * scale + 50) / 100).floor().clamp(1, 255)  # [n, 8, 8]


def _quantize(planes: Tensor, table: Tensor) -> Tensor:
    n, channels, height, width = planes.shape
    blocks = planes.reshape(n, channels, height // 8, 8, width // 8, 8)
    steps = table[:, None, None, :, None, :]
    coefficients = _transform(_transform(blocks, 3, inverse=False), 5, inverse=False)
    coefficients = (coefficients / steps).round() * steps
    return _transform(_transform(coefficients, 5, inverse=True), 3, inverse=True).reshape(planes.shape)


def _transform(blocks: Tensor, axis: int, *, inverse: bool) -> Tensor:
    """Apply the orthonormal DCT of length 8 along `axis`, as eight sums of eight terms."""
    matrix = [
        [math.sqrt((1 if k == 0 else 2) / 8) * math.cos(math.pi * (2 * x + 1) * k / 16) for x in range(8)]
        for k in range(8)
    ]
    lines = blocks.unbind(axis)
    rows = [list(column) for column in zip(*matrix)] if inverse else matrix
    outputs = []
    for row in rows:
        total = lines[0] * row[0]
        for line, weight in zip(lines[1:], row[1:]):
            total = total + line * weight
        outputs.append(total)
    return torch.stack(outputs, axis)
