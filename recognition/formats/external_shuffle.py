"""Put the records of a .rec in random order within a memory budget, byte for byte. Torch-free.

Two passes over the disk, both in the order of the files: the first deals the records to buckets by their place in the
new order, the second orders each bucket in memory and appends it. Disks and network file systems that hate random
reads see none.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from recognition.draws.permutation import Permutation
from recognition.errors import DataError
from recognition.formats.recordio import MAGIC, PART_BYTES
from recognition.formats.records import ImageRecords

_READ_BYTES = 2**24
# Bytes a record costs in memory beside its own while its bucket is put in order.
_RECORD_OVERHEAD = 200


def shuffle_images(
    records: ImageRecords, rec: BinaryIO, idx: BinaryIO, *, seed: int, memory_bytes: int, scratch: Path
) -> Iterator[int]:
    """Write the image records of a set to `rec` in random order with keys 0, 1, ... in `idx`; yield how many are done.

    Each image is counted twice, once for each pass. Temporary files as large as the set stand in `scratch`.
    """
    records.index.check_extents(records.path)
    images = np.asarray(records.parts.images)
    order = Permutation(len(images), seed, 0)
    num_bytes = int(records.index.bounds[-1]) + _RECORD_OVERHEAD * len(images)
    # Three times: a bucket, its pieces in order, and what the allocator keeps.
    num_buckets = max(1, -(-3 * num_bytes // memory_bytes))
    per_bucket = -(-len(images) // num_buckets)
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".shuffle-") as folder:
        buckets = [_Bucket(Path(folder) / str(number)) for number in range(num_buckets)]
        yield from _deal(records, images, order, buckets, per_bucket, memory_bytes // 4)
        written = _Written()
        for bucket in buckets:
            yield bucket.append_to(rec, idx, written)
            bucket.remove()


class _Written:
    """Where the next record goes."""

    def __init__(self) -> None:
        self.key = 0
        self.offset = 0


class _Bucket:
    """Records on disk with their places in the new order beside them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places_path = path.with_suffix(".places")
        self._frames: list[bytes] = []
        self._places: list[tuple[int, int]] = []
        self.num_bytes = 0

    def add(self, place: int, frame: bytes) -> None:
        self._frames.append(frame)
        self._places.append((place, len(frame)))
        self.num_bytes += len(frame) + _RECORD_OVERHEAD

    def flush(self) -> None:
        with open(self._path, "ab") as handle:
            handle.write(b"".join(self._frames))
        with open(self._places_path, "ab") as handle:
            handle.write(np.array(self._places, dtype=np.int64).tobytes())
        self._frames, self._places, self.num_bytes = [], [], 0

    def append_to(self, rec: BinaryIO, idx: BinaryIO, written: _Written) -> int:
        self.flush()
        places = np.fromfile(self._places_path, dtype=np.int64).reshape(-1, 2)
        content = self._path.read_bytes()
        order = np.argsort(places[:, 0])
        starts = np.concatenate([[0], np.cumsum(places[:, 1])])
        rec.writelines(content[starts[at] : starts[at + 1]] for at in order.tolist())
        offsets = written.offset + np.concatenate([[0], np.cumsum(places[order, 1])])
        idx.writelines(b"%d\t%d\n" % row for row in zip(range(written.key, written.key + len(order)), offsets.tolist()))
        written.key += len(order)
        written.offset = int(offsets[-1])
        return len(order)

    def remove(self) -> None:
        self._path.unlink()
        self._places_path.unlink()


def _deal(
    records: ImageRecords,
    images: npt.NDArray[np.int64],
    order: Permutation,
    buckets: list[_Bucket],
    per_bucket: int,
    memory_bytes: int,
) -> Iterator[int]:
    held = 0
    for slots, frames in _frames(records, images):
        places = order(np.searchsorted(images, slots))
        for place, frame in zip(places.tolist(), frames):
            buckets[place // per_bucket].add(place, frame)
            held += len(frame) + _RECORD_OVERHEAD
        if held > memory_bytes:
            for bucket in buckets:
                bucket.flush()
            held = 0
        yield len(slots)


def _frames(
    records: ImageRecords, images: npt.NDArray[np.int64]
) -> Iterator[tuple[npt.NDArray[np.int64], Iterator[bytes]]]:
    """Yield (slots, their records as framed in the file) in the order of the file, in blocks read at once."""
    bounds = records.index.bounds
    with open(records.path, "rb") as handle:
        first = 0
        while first < len(images):
            start = int(bounds[images[first]])
            last = int(np.searchsorted(bounds, start + _READ_BYTES, side="right")) - 2  # the last slot that fits
            stop = max(int(np.searchsorted(images, last, side="right")), first + 1)
            slots = images[first:stop]
            handle.seek(start)
            block = handle.read(int(bounds[slots[-1] + 1]) - start)
            yield slots, _cut(records, slots, block, start)
            first = stop


def _cut(records: ImageRecords, slots: npt.NDArray[np.int64], block: bytes, start: int) -> Iterator[bytes]:
    """Yield the records in `block`, which begins at byte `start` of the file; each is checked to be whole."""
    begins = records.index.bounds[slots] - start
    ends = records.index.bounds[slots + 1] - start
    words = np.frombuffer(block, dtype="<u4", count=len(block) // 4)
    inside = begins + PART_BYTES <= len(words) * 4
    at = np.where(inside, begins // 4, 0)
    # A whole record (cflag 0) whose length fills its extent needs no closer look.
    fits = inside & (words[at] == MAGIC) & (PART_BYTES + (words[at + 1].astype(np.int64) + 3 & ~3) == ends - begins)
    for slot, begin, end, is_plain in zip(slots.tolist(), begins.tolist(), ends.tolist(), fits.tolist()):
        if not is_plain:
            end = records.read_extent(slot)[1] - start
        if end > len(block):
            raise DataError(f"{records.place_of(slot)}: its padding is cut off; the file is truncated")
        yield block[begin:end]
