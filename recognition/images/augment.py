"""Augmentation drawn per image from (seed, epoch, index): equal for any batch size, number of workers or of ranks.

Runs on the device, on the uint8 batches as they arrive, before `to_network`, which also does the flip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recognition.config.schema import AugmentConfig
from recognition.draws.hashing import derive_key
from recognition.images.operation import Draws, Operation, Span, streams_of, uniform, uniform_rows
from recognition.registry import Registry

_FLIP = 1  # its random stream; operations begin at 16

AUGMENTATIONS: Registry[type[Operation]] = Registry("augmentation")
"""Key of the config's section `augment` -> the operation it is the probability of. They apply in this order."""

AUGMENTATIONS.register_at("crop", "recognition.images.augment_crop:Crop")
AUGMENTATIONS.register_at("misalign", "recognition.images.augment_misalign:Misalign")
AUGMENTATIONS.register_at("shift", "recognition.images.augment_shift:Shift")
AUGMENTATIONS.register_at("low_resolution", "recognition.images.augment_low_resolution:LowResolution")
AUGMENTATIONS.register_at("blur", "recognition.images.augment_blur:Blur")
AUGMENTATIONS.register_at("color", "recognition.images.augment_color:Color")
AUGMENTATIONS.register_at("gray", "recognition.images.augment_gray:Gray")
AUGMENTATIONS.register_at("occlusion", "recognition.images.augment_occlusion:Occlusion")
AUGMENTATIONS.register_at("mask", "recognition.images.augment_mask:Mask")
AUGMENTATIONS.register_at("jpeg", "recognition.images.augment_jpeg:Jpeg")

Bounds = Mapping[str, Span]
"""Field of an operation -> what it is in a preset, where that is not its default."""

PRESETS: Mapping[str, Mapping[str, tuple[float, Bounds]]] = {
    "none": {},
    # The DALI pipeline of arcface_torch: resize to 0.5-0.8 and back, blur of window 3 or 5, hue and saturation, gray.
    "arcface_dali": {
        "low_resolution": (0.1, {"ratio": (0.5, 0.8)}),
        "blur": (0.2, {"sigma": (0.8, 1.1)}),
        "color": (
            0.2,
            {
                "brightness": (1.0, 1.0),
                "contrast": (1.0, 1.0),
                "saturation": (1.0, 1.2),
                "hue_degrees": (0.0, 20.0),
            },
        ),
        "gray": (0.1, {}),
    },
    # AdaFace, arXiv:2204.00964, section 4.1: crop, rescaling and photometric jittering, each with probability 0.2.
    "adaface": {"crop": (0.2, {}), "low_resolution": (0.2, {}), "color": (0.2, {})},
}


@dataclass(frozen=True)
class Chance:
    """An operation and how often it happens."""

    probability: float
    operation: Operation


Recipe = Mapping[str, Chance]
"""Name -> operation, in the order in which they apply; those that never happen are in it too."""


def recipe(config: AugmentConfig) -> Recipe:
    """Return the preset with the probabilities that the config states in place of its own."""
    preset = PRESETS[config.preset]
    chances = {}
    for name in AUGMENTATIONS:
        probability, bounds = preset.get(name, (0.0, {}))
        stated: float | None = getattr(config, name)
        chances[name] = Chance(probability if stated is None else stated, AUGMENTATIONS[name](**bounds))
    return chances


class Augmenter:
    """Applies a recipe to batches on their own device; no value comes back to the host on CUDA."""

    def __init__(self, recipe: Recipe, seed: int) -> None:
        self._seed = seed
        self._active = [chance for chance in recipe.values() if chance.probability > 0]
        self.streams = [stream for chance in self._active for stream in streams_of(chance.operation)]
        """All that is drawn for an image, in this order; drawn at once."""
        self._keys: tuple[int, Tensor] | None = None  # an epoch, and its keys on the device

    def __call__(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        """Return uint8 [B, S, S, 3] augmented by f(seed, epoch, index); `images` stay as they are."""
        if not self._active:
            return images
        rows = iter(uniform_rows(indices, self._keys_of(epoch, indices.device)))
        planes = images.permute(0, 3, 1, 2).float()
        for chance in self._active:
            chosen = next(rows) < chance.probability
            planes = _where_chosen(planes, chosen, chance.operation, chance.operation.parameters(Draws(rows)))
        return planes.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

    def _keys_of(self, epoch: int, device: torch.device) -> Tensor:
        """Return the key of each stream; they are sent to the device once an epoch."""
        if self._keys is None or self._keys[0] != epoch or self._keys[1].device != device:
            keys = [derive_key(self._seed, epoch, stream) for stream in self.streams]
            self._keys = epoch, torch.tensor(keys, device=device)
        return self._keys[1]


def flip_mask(seed: int, epoch: int, indices: Tensor, probability: float) -> Tensor:
    """Return which of the images are mirrored, bool [n] on the device of `indices` (int64 [n])."""
    return uniform(seed, epoch, indices, _FLIP) < probability


def _where_chosen(planes: Tensor, chosen: Tensor, operation: Operation, parameters: list[Tensor]) -> Tensor:
    if planes.device.type != "cpu":
        # Picking the rows would need their number on the host; a GPU does the rest in less time than that takes.
        return torch.where(chosen[:, None, None, None], operation.apply(planes, *parameters), planes)
    rows = chosen.nonzero().squeeze(1)
    if not len(rows):
        return planes
    return planes.index_copy(0, rows, operation.apply(planes[rows], *(parameter[rows] for parameter in parameters)))
