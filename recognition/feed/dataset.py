"""What training reads: labeled pictures with an index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from recognition.draws.permutation import IntArray
from recognition.feed.bad_records import Origin

Picture = npt.NDArray[np.uint8]


class Pictures(Protocol):
    """What the loader's processes read: pictures by number. It is pickled to them."""

    image_size: int
    """Side S of the images in pixels."""

    def __getitem__(self, index: int) -> tuple[Picture, int]:
        """Return (uint8 [S, S, 3] RGB, a number of its own); DataError unless the image is whole and of this size."""
        ...


class Dataset(Pictures, Protocol):
    """What training reads: images by number, each with its class id."""

    num_classes: int
    num_needed: int
    """Classes that the labels need: the highest class id plus one."""
    num_used: int
    """Classes with an image."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Picture, int]:
        """Return (uint8 [S, S, 3] RGB, class id); DataError unless the image is whole, of this size and in range."""
        ...

    def place(self, index: int) -> str:
        """Return the words by which an error names image `index`."""
        ...

    def origin(self, index: int) -> Origin:
        """Return the same as file, record and key."""
        ...

    def picture_size(self, index: int) -> tuple[int, int]:
        """Return (height, width) of image `index` as its file states them; DataError when it cannot be read."""
        ...

    def state_classes(self, num_classes: int) -> None:
        """Take the number of classes that the config states, which covers the labels."""
        ...

    def labels(self) -> IntArray:
        """Return all class ids [n]."""
        ...

    def used_labels(self) -> IntArray:
        """Return the different class ids, rising."""
        ...

    def class_names(self) -> list[str] | None:
        """Return the people's names by class id, "" for one without; None where the set does not say them."""
        ...

    def read_ahead(self, spans: list[range]) -> None:
        """Ask for the images of `spans` in the background, where the storage can do that."""
        ...

    def fingerprint(self) -> dict[str, int | str]:
        """Return what ranks compare to see whether they have the same data."""
        ...

    def sets(self) -> Sequence[Dataset]:
        """Return the sets that it was opened from, in order: itself where it is one."""
        ...
