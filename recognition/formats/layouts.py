"""The layouts of packed image sets by name, and which of them a set has: its content tells."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from recognition.errors import DataError
from recognition.formats.record_index import RecordIndex
from recognition.registry import Registry

Slots = range | npt.NDArray[np.int64]  # positions in the index; the usual case, a range, costs no memory
ReadPayload = Callable[[int], bytes]
"""Position in the index -> the record's payload."""


@dataclass(frozen=True)
class Parts:
    """Which records are images (in the order of the file), identities (in the order of their keys), and the header."""

    name: str
    """Of the layout."""
    images: Slots
    identities: Slots
    header: int | None


class Layout(ABC):
    """How the records of a set are arranged: how that is recognized, and how such a set is written."""

    is_sorted: ClassVar[bool] = False
    """Images of an identity lie together, with rising labels."""
    has_identity_records: ClassVar[bool] = False
    """Each run of equal labels has a record after the images that holds its range of keys."""
    keeps_lists: ClassVar[bool] = False
    """A record holds a list of labels, the first of which is the class id."""
    first_key: ClassVar[int] = 0
    """Of the images, which are numbered from there."""

    @abstractmethod
    def find(self, index: RecordIndex, read_payload: ReadPayload) -> Parts | None:
        """Return the parts of a set of this layout, None for another; it reads a few dozen records at most."""

    def problem_of(self, payload: bytes) -> str | None:
        """Return what is wrong with a record that is no image, None when it is as it should be."""
        return None

    def after_images(self, starts: Sequence[int], stop: int) -> Iterator[tuple[int, bytes]]:
        """Yield (key, payload) of what follows the images; `starts` are the identities' first keys, `stop` the next."""
        yield from ()


LAYOUTS: Registry[type[Layout]] = Registry("layout")
"""Name -> layout. A set is shown to the last one first: those that are recognized by more come after the plainer."""

LAYOUTS.register_at("sequential", "recognition.formats.layout_sequential:Sequential")
LAYOUTS.register_at("multilabel", "recognition.formats.layout_multilabel:Multilabel")
LAYOUTS.register_at("insightface", "recognition.formats.layout_insightface:Insightface")


def find_layout(index: RecordIndex, read_payload: ReadPayload) -> Parts:
    """Sort the records of `index` into kinds; DataError for a set without an image, or with parts that disagree."""
    for name in reversed(list(LAYOUTS)):
        parts = LAYOUTS[name]().find(index, read_payload) if len(index) else None
        if parts is not None and len(parts.images):
            return parts
        if parts is not None:
            break
    raise DataError(f"has {len(index)} records and no image; expected at least one")
