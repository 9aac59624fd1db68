"""Pixels -> what a backbone sees. Training, verification and export all pass through here.

The one place that knows the scale, the channel order (RGB) and how an image is flipped.
"""

from __future__ import annotations

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
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images are {images.dtype} {list(images.shape)}; expected torch.uint8 [B, H, W, 3] in RGB")
    if flip is not None:
        if flip.dtype != torch.bool or flip.shape != images.shape[:1]:
            raise ValueError(f"flip is {flip.dtype} {list(flip.shape)}; expected torch.bool [{images.shape[0]}]")
        mirrored = flip.to(images.device, non_blocking=True)[:, None, None, None]
        images = torch.where(mirrored, images.flip(2), images)
    planes = images.permute(0, 3, 1, 2)
    return planes.to(torch.float32, memory_format=memory_format).div_(PIXEL_STD).sub_(PIXEL_MEAN / PIXEL_STD)
