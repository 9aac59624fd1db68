"""insightface's layout: images sorted by identity, and after them a record for each identity.

Key 0 holds (N + 1, N + K + 1); keys 1..N are images, of which those of an identity lie together, with rising labels;
keys N + 1..N + K each hold an identity's range of keys. The bytes are those of insightface's RecBuilder.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from recognition.errors import DataError
from recognition.formats.layouts import Layout, Parts, ReadPayload, Slots
from recognition.formats.record_index import BLOCK, RecordIndex, is_increasing
from recognition.formats.recordio import MARKER_BYTES, is_marker, pack_payload, parse_header


class Insightface(Layout):
    """Sorted by identity, with identity records."""

    is_sorted = True
    has_identity_records = True
    first_key = 1

    def find(self, index: RecordIndex, read_payload: ReadPayload) -> Parts | None:
        """Return the parts when there is a record of key 0 that is no image, or an identity record.

        The identity records are those of the highest keys that have an identity record's size: what key 0 says about
        them is float32, so it is only compared, and it may be missing. Raises DataError when both are there and
        disagree.
        """
        header = _find_header(index.keys, read_payload)
        by_key = _slots_by_key(index.keys, header)
        first = _first_identity(index, by_key, read_payload)
        identities, images = _as_range(by_key[first:]), by_key[:first]
        if header is not None:
            said = parse_header(read_payload(header)).labels
            if not _is_as_said(said, index.keys, identities):
                announced = _announced(said, index, by_key, read_payload)
                identities, images = _as_range(by_key[announced:]), by_key[:announced]
        elif not len(identities):
            return None
        if isinstance(images, np.ndarray):
            images = _as_range(np.sort(images))
        return Parts("insightface", images, identities, header)

    def problem_of(self, payload: bytes) -> str | None:
        """Return what to say of a record that is no range of keys."""
        if is_marker(payload):
            return None
        header = parse_header(payload)
        holds = "a scalar label" if header.flag == 0 else f"{header.flag} labels"
        return (
            f"holds {holds}; expected an identity record with the range of its keys (flag 2, no image); "
            "convert_rec --to insightface writes them anew"
        )

    def after_images(self, starts: Sequence[int], stop: int) -> Iterator[tuple[int, bytes]]:
        """Yield a record for each identity, and then that of key 0."""
        for key, span in enumerate(zip(starts, [*starts[1:], stop]), stop):
            yield key, _marker(key, span, id2=0)
        yield 0, _marker(0, (stop, stop + len(starts)), id2=1)


def _marker(key: int, span: tuple[int, int], *, id2: int) -> bytes:
    # float32, as every reader expects: above 2^24 the ends are rounded, so ours takes them from the index.
    return pack_payload((float(span[0]), float(span[1])), b"", record_id=key, id2=id2)


def _as_range(slots: Slots) -> Slots:
    if len(slots) == 0:
        return range(0)
    start = int(slots[0])
    is_range = isinstance(slots, range) or np.array_equal(slots, np.arange(start, start + len(slots)))
    return range(start, start + len(slots)) if is_range else slots


def _find_header(keys: npt.NDArray[np.int64], read_payload: ReadPayload) -> int | None:
    for slot in np.flatnonzero(keys == 0).tolist():
        if is_marker(read_payload(slot)):
            return int(slot)
    return None


def _slots_by_key(keys: npt.NDArray[np.int64], header: int | None) -> Slots:
    """Return the slots of all records but the header in the order of their keys."""
    start = 1 if header == 0 else 0
    stop = len(keys) - 1 if header == len(keys) - 1 else len(keys)
    if header in (None, start - 1, stop) and is_increasing(keys[start:stop]):
        return range(start, stop)
    order = np.argsort(keys, kind="stable")
    return order if header is None else order[1:]


def _first_identity(index: RecordIndex, by_key: Slots, read_payload: ReadPayload) -> int:
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


def _is_as_said(said: tuple[float, ...], keys: npt.NDArray[np.int64], identities: Slots) -> bool:
    first, stop = (int(keys[identities[0]]), int(keys[identities[-1]]) + 1) if len(identities) else (0, 0)
    return said == (float(np.float32(first)), float(np.float32(stop)))


def _announced(said: tuple[float, ...], index: RecordIndex, by_key: Slots, read_payload: ReadPayload) -> int:
    """Return from which position in `by_key` on the records are those that key 0 announces, if they hold no image.

    Some writers give an identity record a scalar label in place of a range. Raises DataError where they are not there.
    """
    keys = index.keys[by_key.start : by_key.stop] if isinstance(by_key, range) else index.keys[by_key]
    first = int(np.searchsorted(keys.astype(np.float32), np.float32(said[0])))
    records = by_key[first:]
    if len(records) and _is_as_said(said, index.keys, records):
        payloads = map(read_payload, (int(slot) for slot in records))
        if all(parse_header(payload).size == len(payload) for payload in payloads):
            return first
    is_marked = _first_identity(index, by_key, read_payload)
    found = f"{keys[is_marked]} to {keys[-1] + 1}" if is_marked < len(keys) else "0 to 0"
    raise DataError(
        f"key 0 announces identity records {said[0]:.0f} to {said[1]:.0f}, the index has {found}; "
        "the .idx is incomplete or of another file"
    )
