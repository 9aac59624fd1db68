"""What can happen to a face on its way into a data set, on whole batches and on the device.

Every operation takes images [n, 3, S, S] float32 in [0, 255] and parameters [n], one per image. They are sums, products
and gathers of single elements, never a matrix product, whose order of sums could change with n: an image comes out the
same to the last bit in whatever batch it stands.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

LUMA = (0.299, 0.587, 0.114)
_TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
_FROM_YIQ = ((1.0, 0.956, 0.619), (1.0, -0.272, -0.647), (1.0, -1.106, 1.703))

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


def shift(images: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Move each image by whole pixels, rounded; what comes in from outside is black."""
    return _move(_move(images, right, 3), down, 2)


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


def _move(images: Tensor, by: Tensor, axis: int) -> Tensor:
    size = images.shape[axis]
    source = torch.arange(size, device=images.device) - by.round().long()[:, None]  # [n, S]
    moved = _take(images, source.clamp(0, size - 1), axis)
    return moved * _along((source >= 0) & (source < size), axis)


def keep_window(images: Tensor, left: Tensor, top: Tensor, width: Tensor, height: Tensor) -> Tensor:
    """Blacken all outside a window; its parameters are shares of the side."""
    return images * _window(images, left, top, width, height)


def occlude(images: Tensor, left: Tensor, top: Tensor, width: Tensor, height: Tensor, gray: Tensor) -> Tensor:
    """Cover a window with one gray in [0, 1]."""
    inside = _window(images, left, top, width, height)
    return images * (1 - inside) + 255 * gray[:, None, None, None] * inside


def _window(images: Tensor, left: Tensor, top: Tensor, width: Tensor, height: Tensor) -> Tensor:
    size = images.shape[3]
    centers = (torch.arange(size, device=images.device) + 0.5) / size
    across = (centers >= left[:, None]) & (centers < (left + width)[:, None])
    along = (centers >= top[:, None]) & (centers < (top + height)[:, None])
    return (_along(across, 3) * _along(along, 2)).to(images.dtype)


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
        share = _along(small - first, axis)
        near = _sample(images, (first + 0.5) / ratio[:, None] - 0.5, axis)
        far = _sample(images, (first.add(1).minimum(last) + 0.5) / ratio[:, None] - 0.5, axis)
        images = near + (far - near) * share
    return images


def _sample(images: Tensor, at: Tensor, axis: int) -> Tensor:
    """Return the values at fractional positions [n, S] along an axis."""
    size = images.shape[axis]
    at = at.clamp(0, size - 1)
    first = at.floor()
    near = _take(images, first.long(), axis)
    far = _take(images, (first.long() + 1).clamp(max=size - 1), axis)
    return near + (far - near) * _along(at - first, axis)


def blur(images: Tensor, sigma: Tensor, *, radius: int = 4) -> Tensor:
    """Blur each image by a Gaussian of `sigma` pixels, cut at `radius`; 0 leaves it as it is."""
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    weights = torch.exp(-(offsets**2) / (2 * sigma.clamp(min=1e-3) ** 2)[:, None])  # [n, 2 radius + 1]
    weights = weights / weights.sum(1, keepdim=True)
    size = images.shape[3]
    for padding, axis in (((radius, radius, 0, 0), 3), ((0, 0, radius, radius), 2)):
        padded = functional.pad(images, padding, mode="replicate")
        images = sum(
            (padded.narrow(axis, k, size) * weights[:, k, None, None, None] for k in range(2 * radius + 1)),
            start=torch.zeros_like(images),
        )
    return images


def gray(images: Tensor) -> Tensor:
    """Take the color out."""
    return _luma(images).expand_as(images)


def jitter_color(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Multiply brightness, contrast about the mean luma, and saturation, and turn the hue by degrees in YIQ."""
    images = (images * _factor(brightness)).clamp(0, 255)
    # The mean of an image is taken over its own pixels in a fixed order, whatever the batch.
    mean = _luma(images).flatten(1).double().sum(1).div(images.shape[2] * images.shape[3]).float()[:, None, None, None]
    images = (mean + (images - mean) * _factor(contrast)).clamp(0, 255)
    luma, in_phase, quadrature = _mix(images, _TO_YIQ)
    angle = (hue * (math.pi / 180))[:, None, None]
    gain = saturation[:, None, None]
    turned = (in_phase * angle.cos() - quadrature * angle.sin(), in_phase * angle.sin() + quadrature * angle.cos())
    planes = torch.stack([luma, turned[0] * gain, turned[1] * gain], dim=1)
    return torch.stack(_mix(planes, _FROM_YIQ), dim=1).clamp(0, 255)


def jpeg_artifacts(images: Tensor, quality: Tensor) -> Tensor:
    """Do to each image what JPEG of `quality` (1 to 100) with halved chroma does: 8x8 DCT, quantize, and back."""
    size = images.shape[3]
    padding = -size % 16
    planes = functional.pad(images.round(), (0, padding, 0, padding), mode="replicate")
    red, _, blue = planes.unbind(1)
    luma = _luma(planes)[:, 0]
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
    return ((torch.tensor(table, device=scale.device) * scale + 50) / 100).floor().clamp(1, 255)  # [n, 8, 8]


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


def _luma(images: Tensor) -> Tensor:
    red, green, blue = images.unbind(1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[:, None]


def _mix(images: Tensor, matrix: tuple[tuple[float, float, float], ...]) -> tuple[Tensor, ...]:
    first, second, third = images.unbind(1)
    return tuple(row[0] * first + row[1] * second + row[2] * third for row in matrix)


def _take(images: Tensor, source: Tensor, axis: int) -> Tensor:
    """Return images with element i along `axis` taken from `source` [n, S]."""
    index = source[:, None, None, :] if axis == 3 else source[:, None, :, None]
    return images.gather(axis, index.expand_as(images))


def _along(values: Tensor, axis: int) -> Tensor:
    return values[:, None, None, :] if axis == 3 else values[:, None, :, None]


def _factor(values: Tensor) -> Tensor:
    return values[:, None, None, None]
