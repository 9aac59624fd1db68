"""Pixel arithmetic that augmentations share, on whole batches and on the device; `Operation` states its rules."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

LUMA = (0.299, 0.587, 0.114)


def blur(images: Tensor, sigma: Tensor, *, radius: int = 4) -> Tensor:
    """Blur each image by a Gaussian of `sigma` pixels, cut at `radius`; 0 leaves it as it is."""
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    weights = torch.exp(-(offsets**2) / (2 * sigma.clamp(min=1e-3) ** 2)[:, None])  # [n, 2 radius + 1]
    weights = weights / weights.sum(1, keepdim=True)
    taps = weights[:, :, None, None, None].unbind(1)
    size = images.shape[3]
    for padding, axis in (((radius, radius, 0, 0), 3), ((0, 0, radius, radius), 2)):
        padded = functional.pad(images, padding, mode="replicate")
        # One kernel a tap, its product and sum rounded together: a product by itself would be written and read again.
        images = padded.narrow(axis, 0, size) * taps[0]
        for k in range(1, 2 * radius + 1):
            images.addcmul_(padded.narrow(axis, k, size), taps[k])
    return images


def window(images: Tensor, left: Tensor, top: Tensor, width: Tensor, height: Tensor) -> Tensor:
    """Return 1 inside a window and 0 outside, [n, 1, S, S]; its parameters [n] are shares of the side."""
    size = images.shape[3]
    centers = (torch.arange(size, device=images.device) + 0.5) / size
    across = (centers >= left[:, None]) & (centers < (left + width)[:, None])
    along = (centers >= top[:, None]) & (centers < (top + height)[:, None])
    return (spread(across, 3) * spread(along, 2)).to(images.dtype)


def luma_of(images: Tensor) -> Tensor:
    """Return the brightness [n, 1, S, S] of images [n, 3, S, S]."""
    red, green, blue = images.unbind(1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[:, None]


def mix_channels(images: Tensor, matrices: Tensor) -> Tensor:
    """Return the images [n, 3, S, S] with each pixel's channels multiplied by its image's matrix [n, 3, 3]."""
    columns = matrices[:, :, :, None, None].unbind(2)
    mixed = images[:, :1] * columns[0]
    return mixed.addcmul_(images[:, 1:2], columns[1]).addcmul_(images[:, 2:], columns[2])


@functools.cache  # a copy to a GPU in every step would make the host wait
def constant(table: tuple[Any, ...], device: torch.device) -> Tensor:
    """Return a table of numbers as a tensor that stays on the device."""
    return torch.tensor(table, device=device)


def take(images: Tensor, source: Tensor, axis: int) -> Tensor:
    """Return images with element i along `axis` taken from `source` [n, S]."""
    index = source[:, None, None, :] if axis == 3 else source[:, None, :, None]
    return images.gather(axis, index.expand_as(images))


def spread(values: Tensor, axis: int) -> Tensor:
    """Return values [n, S] shaped to go along an axis (3 or 2) of images."""
    return values[:, None, None, :] if axis == 3 else values[:, None, :, None]
