"""Tell the layouts of packed image sets apart by content, and images from insightface's identity records.

insightface   key 0 holds (N + 1, N + K + 1); keys 1..N are images; keys N + 1..N + K each hold an identity's key range
sequential    every record is an image with its label in the header
multilabel    every record is an image with a list of labels, the first of which is the class id
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from recognition.errors import DataError
from recognition.formats.record_index import BLOCK, RecordIndex, is_increasing
from recognition.formats.recordio import MARKER_BYTES, is_marker, parse_header

LayoutName = Literal["insightface", "sequential", "multilabel"]
Slots = range | npt.NDArray[np.int64]  # positions in the index; the usual case, a range, costs no memory


@dataclass(frozen=True)
class Layout:
    """Which records are images (in the order of the file), identities (in the order of their keys), and the header."""

    name: LayoutName
    images: Slots
    identities: Slots
    header: int | None


def find_layout(index: RecordIndex, read_payload: Callable[[int], bytes]) -> Layout:
    """Sort the records of `index` into kinds; `read_payload(slot)` is called a few dozen times at most.

    The identity records are those of the highest keys that have an identity record's size: what key 0 says about them
    is float32, so it is only compared, and it may be missing. Raises DataError when both are there and disagree.
    """
    header = _find_header(index.keys, read_payload)
    by_key = _slots_by_key(index.keys, header)
    first = _first_identity(index, by_key, read_payload)
    identities, images = _as_range(by_key[first:]), by_key[:first]
    if header is not None:
        _compare_with_header(parse_header(read_payload(header)).labels, index.keys, identities)
    if isinstance(images, np.ndarray):
        images = _as_range(np.sort(images))
    if len(images) == 0:
        raise DataError(f"has {len(index)} records and no image; expected at least one")
    if header is not None or len(identities):
        return Layout("insightface", images, identities, header)
    has_list = parse_header(read_payload(images[0])).flag > 0
    return Layout("multilabel" if has_list else "sequential", images, identities, None)


def _as_range(slots: Slots) -> Slots:
    if len(slots) == 0:
        return range(0)
    start = int(slots[0])
    is_range = isinstance(slots, range) or np.array_equal(slots, np.arange(start, start + len(slots)))
    return range(start, start + len(slots)) if is_range else slots


def _find_header(keys: npt.NDArray[np.int64], read_payload: Callable[[int], bytes]) -> int | None:
    slots: list[int] = np.flatnonzero(keys == 0).tolist()
    for slot in slots:
        if is_marker(read_payload(slot)):
            return slot
    return None


def _slots_by_key(keys: npt.NDArray[np.int64], header: int | None) -> Slots:
    """Return the slots of all records but the header in the order of their keys."""
    start = 1 if header == 0 else 0
    stop = len(keys) - 1 if header == len(keys) - 1 else len(keys)
    if header in (None, start - 1, stop) and is_increasing(keys[start:stop]):
        return range(start, stop)
    order = np.argsort(keys, kind="stable")
    return order if header is None else order[1:]


def _first_identity(index: RecordIndex, by_key: Slots, read_payload: Callable[[int], bytes]) -> int:
    """Return from which position in `by_key` on the records are identities; its length when there are none."""
    if len(by_key) == 0 or not is_marker(read_payload(by_key[-1])):
        return len(by_key)
    # The last record may be followed by something unlisted, so its size is not asked for; it is a marker as seen above.
    first = len(by_key) - 1
    while first > 0:
        block = by_key[max(0, first - BLOCK) : first]
        slots = slice(block.start, block.stop) if isinstance(block, range) else block
        sizes = index.bounds[1:][slots] - index.bounds[:-1][slots]
        others = np.flatnonzero(sizes != MARKER_BYTES)
        if len(others):
            first += int(others[-1]) + 1 - len(block)
            break
        first -= len(block)
    # A tiny image may have the same size: among these, images come first.
    return bisect_left(by_key, True, lo=first, key=lambda slot: is_marker(read_payload(slot)))


def _compare_with_header(said: tuple[float, ...], keys: npt.NDArray[np.int64], identities: Slots) -> None:
    first, stop = (int(keys[identities[0]]), int(keys[identities[-1]]) + 1) if len(identities) else (0, 0)
    if said != (float(np.float32(first)), float(np.float32(stop))):
        raise DataError(
            f"key 0 announces identity records {said[0]:.0f} to {said[1]:.0f}, the index has {first} to {stop}; "
            "the .idx is incomplete or of another file"
        )
