"""Pixels -> what a backbone sees. Training, verification and export all pass through here.

The one place that knows the scale, the channel order (RGB) and how an image is flipped.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

COLOR_ORDER = "RGB"
PIXEL_MEAN = PIXEL_STD = 127.5
"""A byte x becomes (x - mean) / std, which is x / 127.5 - 1."""


def to_network(
    images: torch.Tensor,
    flip: torch.Tensor | None = None,
    *,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> torch.Tensor:
    """Turn images [B, H, W, 3] uint8 RGB into float32 [B, 3, H, W] with x / 127.5 - 1, so 0 -> -1 and 255 -> 1.

    `flip` [B] bool marks the images to be mirrored left to right. Runs on the images' device, where bytes should be
    sent first: they are a quarter of the floats. Raises ValueError for another type or shape.
    """
    planes = _mirrored(images, flip).permute(0, 3, 1, 2)
    return planes.to(torch.float32, memory_format=memory_format).div_(PIXEL_STD).sub_(PIXEL_MEAN / PIXEL_STD)


def _mirrored(images: torch.Tensor, flip: torch.Tensor | None) -> torch.Tensor:
    """Return uint8 images [B, H, W, 3], those that `flip` marks left to right."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images are {images.dtype} {list(images.shape)}; expected torch.uint8 [B, H, W, 3] in RGB")
    if flip is not None:
        if flip.dtype != torch.bool or flip.shape != images.shape[:1]:
            raise ValueError(f"flip is {flip.dtype} {list(flip.shape)}; expected torch.bool [{images.shape[0]}]")
        mirrored = flip.to(images.device, non_blocking=True)[:, None, None, None]
        images = torch.where(mirrored, images.flip(2), images)
    return images


Channels = tuple[float, float, float]
"""A number for each channel, in the order in which the channels are fed."""


@dataclass(frozen=True)
class PixelScale:
    """How a network wants the bytes x of its images: (x - mean) / std by channel. The default is `to_network`'s way."""

    mean: Channels = (PIXEL_MEAN,) * 3
    std: Channels = (PIXEL_STD,) * 3
    color: str = COLOR_ORDER
    """"RGB" or "BGR"."""

    def feed(self, images: torch.Tensor, flip: torch.Tensor | None = None) -> torch.Tensor:
        """Turn images [B, H, W, 3] uint8 RGB into float32 [B, 3, H, W]; `flip` as for `to_network`."""
        if self == PixelScale():
            return to_network(images, flip)
        planes = _mirrored(images, flip).permute(0, 3, 1, 2)
        ordered = planes if self.color == COLOR_ORDER else planes.flip(1)
        mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (self.mean, self.std))
        return (ordered - mean) / std

    def __str__(self) -> str:
        mean, std = ("/".join(f"{value:g}" for value in dict.fromkeys(values)) for values in (self.mean, self.std))
        return f"{self.color} as (x - {mean}) / {std}"


BYTES = PixelScale((0.0,) * 3, (1.0,) * 3)
"""The bytes as they are: for networks that scale them inside."""
UNIT = PixelScale((0.0,) * 3, (255.0,) * 3)
"""From 0 to 1."""
