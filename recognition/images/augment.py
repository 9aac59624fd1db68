"""Augmentation drawn per image from (seed, epoch, index): equal for any batch size, number of workers or of ranks.

Runs on the device, on the uint8 batches as they arrive, before `to_network`, which also does the flip.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from recognition.config.schema import AugmentConfig
from recognition.draws.hashing import derive_key, mix64
from recognition.images import pixel_ops

# One number per kind of draw, so that no two use the same stream. An operation's parameters follow its own number.
_FLIP = 1
_STREAMS = {
    "crop": 16,
    "misalign": 160,
    "shift": 32,
    "low_resolution": 48,
    "blur": 64,
    "color": 80,
    "gray": 96,
    "occlusion": 112,
    "mask": 128,
    "jpeg": 144,
}

Span = tuple[float, float]


@dataclass(frozen=True)
class Recipe:
    """How often each operation happens, and within which bounds its parameters are drawn, uniformly.

    The operations apply in this order.
    """

    crop: float = 0.0
    crop_area: Span = (0.2, 1.0)
    """Share of the picture that is left, with a ratio of sides between 3/4 and 4/3; the rest becomes black."""
    misalign: float = 0.0
    misalign_degrees: Span = (-9.0, 9.0)
    misalign_zoom: Span = (0.9, 1.1)
    misalign_px: Span = (-6.0, 6.0)
    shift: float = 0.0
    shift_px: Span = (-4.0, 4.0)
    low_resolution: float = 0.0
    low_resolution_ratio: Span = (0.2, 1.0)
    blur: float = 0.0
    blur_sigma: Span = (0.5, 1.5)
    color: float = 0.0
    brightness: Span = (0.5, 1.5)
    contrast: Span = (0.5, 1.5)
    saturation: Span = (0.5, 1.5)
    hue_degrees: Span = (0.0, 0.0)
    gray: float = 0.0
    occlusion: float = 0.0
    occlusion_side: Span = (0.15, 0.4)
    mask: float = 0.0
    jpeg: float = 0.0
    jpeg_quality: Span = (20.0, 80.0)


PRESETS = {
    "none": Recipe(),
    # The DALI pipeline of arcface_torch: resize to 0.5-0.8 and back, blur of window 3 or 5, hue and saturation, gray.
    "arcface_dali": Recipe(
        low_resolution=0.1,
        low_resolution_ratio=(0.5, 0.8),
        blur=0.2,
        blur_sigma=(0.8, 1.1),
        color=0.2,
        brightness=(1.0, 1.0),
        contrast=(1.0, 1.0),
        saturation=(1.0, 1.2),
        hue_degrees=(0.0, 20.0),
        gray=0.1,
    ),
    # AdaFace, arXiv:2204.00964, section 4.1: crop, rescaling and photometric jittering, each with probability 0.2.
    "adaface": Recipe(crop=0.2, low_resolution=0.2, color=0.2),
}


def recipe(config: AugmentConfig) -> Recipe:
    """Return the preset with the probabilities that the config states in place of its own."""
    base = PRESETS[config.preset]
    stated = {name: getattr(config, name) for name in _STREAMS}
    return replace(base, **{name: value for name, value in stated.items() if value is not None})


class Augmenter:
    """Applies a recipe to batches on their own device; no value comes back to the host on CUDA."""

    def __init__(self, recipe: Recipe, seed: int) -> None:
        self.recipe = recipe
        self._seed = seed

    def __call__(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        """Return uint8 [B, S, S, 3] augmented by f(seed, epoch, index); `images` stay as they are."""
        active = [name for name in _STREAMS if getattr(self.recipe, name) > 0]
        if not active:
            return images
        planes = images.permute(0, 3, 1, 2).float()
        for name in active:
            draws = _Draws(self._seed, epoch, indices, _STREAMS[name])
            chosen = draws() < getattr(self.recipe, name)
            operation, parameters = _OPERATIONS[name](self.recipe, draws)
            planes = _where_chosen(planes, chosen, operation, parameters)
        return planes.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def flip_mask(seed: int, epoch: int, indices: Tensor, probability: float) -> Tensor:
    """Return which of the images are mirrored, bool [n] on the device of `indices` (int64 [n])."""
    return uniform(seed, epoch, indices, _FLIP) < probability


def uniform(seed: int, epoch: int, indices: Tensor, stream: int) -> Tensor:
    """Return one number in [0, 1) per image, float32 [n], on the device of `indices`.

    24 random bits: every value is exact in float32 and 1.0 cannot occur.
    """
    bits = mix64(mix64(indices) ^ derive_key(seed, epoch, stream)) >> 40 & 0xFFFFFF
    return bits.to(torch.float32) / (1 << 24)


class _Draws:
    """The random numbers of one operation, one stream after the other."""

    def __init__(self, seed: int, epoch: int, indices: Tensor, first_stream: int) -> None:
        self._seed, self._epoch, self._indices = seed, epoch, indices
        self._stream = first_stream

    def __call__(self, span: Span = (0.0, 1.0)) -> Tensor:
        self._stream += 1
        low, high = span
        return low + (high - low) * uniform(self._seed, self._epoch, self._indices, self._stream)


Operation = Callable[..., Tensor]


def _where_chosen(planes: Tensor, chosen: Tensor, operation: Operation, parameters: list[Tensor]) -> Tensor:
    if planes.device.type != "cpu":
        # Picking the rows would need their number on the host; a GPU does the rest in less time than that takes.
        return torch.where(chosen[:, None, None, None], operation(planes, *parameters), planes)
    rows = chosen.nonzero().squeeze(1)
    if not len(rows):
        return planes
    return planes.index_copy(0, rows, operation(planes[rows], *(parameter[rows] for parameter in parameters)))


def _crop(recipe: Recipe, draw: _Draws) -> tuple[Operation, list[Tensor]]:
    area, ratio = draw(recipe.crop_area), torch.exp(draw((-math.log(4 / 3), math.log(4 / 3))))
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    return pixel_ops.keep_window, [draw() * (1 - width), draw() * (1 - height), width, height]


def _misalign(recipe: Recipe, draw: _Draws) -> tuple[Operation, list[Tensor]]:
    spans = (recipe.misalign_degrees, recipe.misalign_zoom, recipe.misalign_px, recipe.misalign_px)
    return pixel_ops.misalign, [draw(span) for span in spans]


def _shift(recipe: Recipe, draw: _Draws) -> tuple[Operation, list[Tensor]]:
    return pixel_ops.shift, [draw(recipe.shift_px), draw(recipe.shift_px)]


def _low_resolution(recipe: Recipe, draw: _Draws) -> tuple[Operation, list[Tensor]]:
    return pixel_ops.lower_resolution, [draw(recipe.low_resolution_ratio)]


def _blur(recipe: Recipe, draw: _Draws) -> tuple[Operation, list[Tensor]]:
    return pixel_ops.blur, [draw(recipe.blur_sigma)]


def _color(recipe: Recipe, draw: _Draws) -> tuple[Operation, list[Tensor]]:
    spans = (recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue_degrees)
    return pixel_ops.jitter_color, [draw(span) for span in spans]


def _gray(recipe: Recipe, draw: _Draws) -> tuple[Operation, list[Tensor]]:
    return pixel_ops.gray, []


def _occlusion(recipe: Recipe, draw: _Draws) -> tuple[Operation, list[Tensor]]:
    width, height = draw(recipe.occlusion_side), draw(recipe.occlusion_side)
    return pixel_ops.occlude, [draw() * (1 - width), draw() * (1 - height), width, height, draw()]


def _mask(recipe: Recipe, draw: _Draws) -> tuple[Operation, list[Tensor]]:
    # From white over surgical blue to black: one lightness, with a tint toward blue.
    light, tint = draw((0.1, 1.0)), draw((0.0, 0.3))
    return pixel_ops.wear_mask, [draw((0.50, 0.60)), light * (1 - tint), light * (1 - tint / 2), light]


def _jpeg(recipe: Recipe, draw: _Draws) -> tuple[Operation, list[Tensor]]:
    return pixel_ops.jpeg_artifacts, [draw(recipe.jpeg_quality)]


_OPERATIONS: dict[str, Callable[[Recipe, _Draws], tuple[Any, list[Tensor]]]] = {
    "crop": _crop,
    "shift": _shift,
    "low_resolution": _low_resolution,
    "blur": _blur,
    "color": _color,
    "gray": _gray,
    "occlusion": _occlusion,
    "mask": _mask,
    "jpeg": _jpeg,
    "misalign": _misalign,
}
