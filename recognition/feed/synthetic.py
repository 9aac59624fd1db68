"""Pictures made up on the spot, for runs that need no data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recognition.draws.hashing import derive_key
from recognition.draws.permutation import IntArray
from recognition.feed.bad_records import Origin
from recognition.feed.dataset import Dataset, Picture


class SyntheticDataset:
    """Made-up pictures that need no disk: each class is a coarse pattern, each image that pattern under noise."""

    def __init__(self, num_images: int, num_classes: int, image_size: int) -> None:
        self._num_images = num_images
        self.image_size = image_size
        self.num_classes = num_classes
        self.num_needed = self.num_used = min(num_classes, num_images)

    def __len__(self) -> int:
        return self._num_images

    def __getitem__(self, index: int) -> tuple[Picture, int]:
        label = index % self.num_classes
        shape = (self.image_size, self.image_size, 3)
        pattern = _stream(0, label).integers(0, 192, (8, 8, 3), dtype=np.uint8)
        noise = _stream(1, index).integers(0, 64, shape, dtype=np.uint8)
        cells = np.arange(self.image_size) * 8 // self.image_size
        return pattern[cells][:, cells] + noise, label

    def picture_size(self, index: int) -> tuple[int, int]:
        return self.image_size, self.image_size

    def state_classes(self, num_classes: int) -> None:
        """Do nothing: it was made with the number that the config states."""

    def used_labels(self) -> IntArray:
        return np.arange(self.num_used)

    def class_names(self) -> list[str] | None:
        return None

    def sets(self) -> Sequence[Dataset]:
        return [self]

    def place(self, index: int) -> str:
        return f"synthetic image {index}"

    def origin(self, index: int) -> Origin:
        return Origin("synthetic", index, index)

    def fingerprint(self) -> dict[str, int | str]:
        """Return all that there is to it."""
        return {"images": self._num_images, "classes": self.num_classes, "image size": self.image_size}

    def labels(self) -> IntArray:
        return np.arange(self._num_images) % self.num_classes

    def read_ahead(self, spans: list[range]) -> None:
        """Do nothing: there is no disk."""


def _stream(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(derive_key(*key) & ((1 << 63) - 1)))
