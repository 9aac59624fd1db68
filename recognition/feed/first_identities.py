"""The first people of a set as a set of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recognition.draws.permutation import IntArray
from recognition.errors import ConfigError
from recognition.feed.bad_records import Origin
from recognition.feed.dataset import Dataset, Picture


class FirstIdentities:
    """The images of the class ids below `num_identities`, in the order of the set that holds them all."""

    def __init__(self, whole: Dataset, num_identities: int) -> None:
        if num_identities > whole.num_classes:
            raise ConfigError(
                f"data.max_identities: found {num_identities:,}, and the set has {whole.num_classes:,} people; "
                "expected fewer; lower it or leave it out"
            )
        self._whole = whole
        labels = whole.labels()
        self._images = np.flatnonzero((labels >= 0) & (labels < num_identities))
        self._labels = labels[self._images]
        self._is_prefix = np.array_equal(self._images, np.arange(len(self._images)))
        self.image_size = whole.image_size
        self.num_classes = num_identities
        used = np.unique(self._labels)
        self.num_needed, self.num_used = (int(used[-1]) + 1 if len(used) else 0), len(used)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Picture, int]:
        return self._whole[int(self._images[index])]

    def place(self, index: int) -> str:
        return self._whole.place(int(self._images[index]))

    def origin(self, index: int) -> Origin:
        return self._whole.origin(int(self._images[index]))

    def picture_size(self, index: int) -> tuple[int, int]:
        return self._whole.picture_size(int(self._images[index]))

    def state_classes(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def labels(self) -> IntArray:
        return self._labels

    def used_labels(self) -> IntArray:
        return np.unique(self._labels)

    def class_names(self) -> list[str] | None:
        names = self._whole.class_names()
        return None if names is None else names[: self.num_classes]

    def sets(self) -> Sequence[Dataset]:
        return [self]

    def read_ahead(self, spans: list[range]) -> None:
        if self._is_prefix:
            self._whole.read_ahead(spans)

    def fingerprint(self) -> dict[str, int | str]:
        """Return that of the whole set, and how much of it this is."""
        return {**self._whole.fingerprint(), "images": len(self), "classes": self.num_classes}
