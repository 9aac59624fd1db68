"""The images of a packed set, whatever the layout of its .rec (docs/formats.md)."""

from __future__ import annotations

import logging
import os
import weakref
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recognition.console import count
from recognition.errors import DataError
from recognition.formats.class_use import ClassUse
from recognition.formats.index_cache import open_index
from recognition.formats.layouts import Parts, Slots, find_layout
from recognition.formats.record_index import RecordIndex, is_increasing
from recognition.formats.recordio import (
    EXACT_FLOAT,
    EXACT_MARK,
    MAGIC,
    MARKER_BYTES,
    PART_BYTES,
    Header,
    class_id,
    is_marker,
    parse_header,
    read_record,
)
from recognition.formats.sources import find_rec
from recognition.work.inputs import require_plain
from recognition.work.system import expect_reads

logger = logging.getLogger(__name__)

_LABEL_BLOCK = 2**20
_HEAD_BYTES = 64  # in which the label of a record lies


class ImageRecord(NamedTuple):
    """One image as stored: its key in the index, its class id, its encoded bytes."""

    key: int
    label: int
    image: bytes


class ImageRecords:
    """Random access to the images of a .rec, numbered in the order in which they lie in the file.

    `path` is the .rec, its path without the suffix, or a folder with a train.rec in it. Opening reads the index and the
    labels: of each identity's first and last image where there are identity records, else of all, which takes a page of
    the file each; of a large set they are counted once, into the cache of its index. Reading uses pread: threads may
    share one object, and other processes get theirs by fork or pickle.

    `num_classes` is what the labels need, or what `property` says where that is more; `use` is what the labels say.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = find_rec(Path(path))
        self._open()
        self.use: ClassUse | None = None
        self._open_index()
        self.layout = self.parts.name
        self.num_identities = len(self.parts.identities)
        self.num_classes, self._classes_from = self._find_num_classes()

    def __len__(self) -> int:
        return len(self._slots)

    def __getstate__(self) -> dict[str, Any]:
        left_out = {"_descriptor", "_close"}
        if self.index.is_shared:
            # A mapped index is mapped again in the other process, not copied to it.
            left_out |= {"index", "parts", "_slots"}
        return {name: value for name, value in vars(self).items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()
        if "index" not in state:
            self._open_index()

    def key(self, i: int) -> int:
        """Return the key of image `i` in the index."""
        return int(self.index.keys[self._slots[i]])

    def number(self, i: int) -> int:
        """Return which record of the file image `i` is, in the order of the file."""
        return int(self._slots[i])

    def place(self, i: int) -> str:
        """Return how messages name image `i`: file, key and offset."""
        return self.place_of(self._slots[i])

    def read(self, i: int) -> ImageRecord:
        """Return image `i`; DataError when its record is damaged, holds no image, or a label outside the classes."""
        slot = int(self._slots[i])
        return self.parse(slot, self.read_extent(slot)[0])

    def parse(self, slot: int, payload: bytes) -> ImageRecord:
        """Return the image in `payload`, which was read from record `slot` of the index; raises as `read` does."""
        try:
            header = parse_header(payload)
            label = class_id(header)
            if label >= self.num_classes:
                raise DataError(f"label {label} is outside [0, {self.num_classes}) ({self._classes_from})")
            if len(payload) == header.size:
                raise DataError(f"holds no image (label {label}, flag {header.flag}); expected encoded bytes")
        except DataError as err:
            raise _at(self.place_of(slot), err) from err
        return ImageRecord(int(self.index.keys[slot]), label, payload[header.size :])

    def header(self, i: int) -> Header:
        """Return the header of image `i` as stored, its labels unchecked."""
        return self._header(self._slots[i])

    def read_extent(self, slot: int) -> tuple[bytes, int]:
        """Return the payload of record `slot` of the index, image or not, and the byte at which the record ends."""
        try:
            return read_record(self._descriptor, *self.index.extent(slot, self._size))
        except DataError as err:
            raise _at(self.place_of(slot), err) from err
        except OSError as err:
            problem = f"cannot be read ({err.strerror}); expected a readable file; check its disk or mount"
            raise DataError(f"{self.place_of(slot)}: {problem}") from err

    def labels(self) -> npt.NDArray[np.int64]:
        """Return the class id of every image, not yet compared with num_classes; touches one page of the file each."""
        return self._labels_of(self._slots)

    def used_labels(self) -> npt.NDArray[np.int64]:
        """Return the different class ids, rising; what no class id can be read of is left out."""
        labels = np.unique(self._telling_labels())
        return labels[labels >= 0]

    def state_classes(self, num_classes: int, said_by: str) -> None:
        """Take a number of classes that covers the labels; `said_by` is what errors call its origin."""
        self.num_classes, self._classes_from = num_classes, f"from {said_by}"

    def read_ahead(self, spans: list[range]) -> None:
        """Ask the system to fetch the records of images in `spans`, in the background."""
        for span in spans:
            start = int(self.index.bounds[self._slots[span.start]])
            stop = int(self.index.bounds[self._slots[span.stop - 1] + 1])
            expect_reads(self._descriptor, start, stop)  # numbers of a mapped index, which may say anything

    def _open(self) -> None:
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as err:
            raise DataError(f"{self.path}: cannot be read ({err.strerror}); check its permissions") from err
        self._close = weakref.finalize(self, os.close, self._descriptor)
        self._size = os.fstat(self._descriptor).st_size

    def _open_index(self) -> None:
        self.index, self.parts, self.use = open_index(
            self.path, self.path.with_suffix(".idx"), self._find_layout, self._count_classes
        )
        self._slots = self.parts.images

    def _find_layout(self, index: RecordIndex) -> Parts:
        self.index = index
        try:
            return find_layout(index, lambda slot: self.read_extent(slot)[0])
        except DataError as err:
            if str(err).startswith(f"{self.path}: "):  # a record that cannot be read has said where it stands
                raise
            raise _at(self.path, err) from err

    def _header(self, slot: int) -> Header:
        payload, _ = self.read_extent(slot)
        try:
            return parse_header(payload)
        except DataError as err:
            raise _at(self.place_of(slot), err) from err

    def _label(self, slot: int, *, is_strict: bool) -> int:
        try:
            header = self._header(slot)
        except DataError:
            if is_strict:
                raise
            return -1  # what a bad record does is decided when it is met
        try:
            return class_id(header)
        except DataError as err:
            if is_strict:
                raise _at(self.place_of(slot), err) from err
            return -1

    def place_of(self, slot: int) -> str:
        """Return how messages name record `slot` of the index."""
        return f"{self.path}: record {self.index.keys[slot]} at offset {self.index.bounds[slot]}"

    def _find_num_classes(self) -> tuple[int, str]:
        """Return the number of classes and what it was taken from: what somebody states counts where labels allow it.

        One label that is far beyond a `property` which all others keep to is a damaged record, not a class.
        """
        assert self.use is not None, "counted as the index was opened"
        if self.num_identities:
            self._warn_of_scalars(self.parts.identities[0])
            self._warn_of_rounding(self.parts.images[-1])
        prop = self.path.with_name("property")
        stated = read_property(prop)[0] if prop.exists() else 0
        is_kept_to = stated >= self.num_identities and stated >= self.use.num_likely
        if stated >= self.use.num_needed or (stated and is_kept_to):
            return stated, f"from {prop}"
        if stated:
            needed = self.use.num_needed
            logger.warning("%s: says %d classes, but %s has %d; using these", prop, stated, self.path.name, needed)
        return max(1, self.use.num_needed), "the highest label"

    def _count_classes(self, index: RecordIndex, parts: Parts) -> ClassUse:
        self.index, self.parts, self._slots = index, parts, parts.images
        return self.use or ClassUse.of(self._telling_labels(), len(self._slots))

    def _telling_labels(self) -> npt.NDArray[np.int64]:
        """Return the labels that tell all class ids, -1 for those that cannot be read."""
        firsts = self._first_images()
        if firsts is None:
            if len(self) >= _LABEL_BLOCK:
                logger.info("%s: reading the labels of %s", self.path, count(len(self), "image"))
            return self._labels_of(self._slots, is_strict=False)
        for slot in firsts.tolist():
            start = int(self.index.bounds[slot])
            expect_reads(self._descriptor, start, start + _HEAD_BYTES)
        return self._labels_of(firsts, is_strict=False)

    def _first_images(self) -> npt.NDArray[np.int64] | None:
        """Return the slots of each identity's first and last image, or None unless identity records cut the images.

        They need not be of people: an unsorted set has a record for each run of equal labels. Above 2^24 the records
        hold rounded keys, and the images within the rounding come along.
        """
        images, identities = (_selection(slots) for slots in (self.parts.images, self.parts.identities))
        keys = self.index.keys[images]
        spans = _spans(self._words(), self.index.bounds[identities])
        if spans is None or not is_increasing(keys):
            return None
        starts, stops = spans
        ends = np.array([keys[0], keys[-1] + 1]).astype(np.float32)
        if starts[0] != ends[0] or stops[-1] != ends[1] or not (starts[1:] == stops[:-1]).all():
            return None
        reach = int(np.spacing(starts.max()) / 2)
        around = np.arange(-reach - 1, reach + 1)  # the last image of a run lies before the first of the next
        at = np.searchsorted(keys, (starts.astype(np.int64)[:, None] + around).ravel())
        firsts = np.unique(np.append(np.minimum(at, len(keys) - 1), len(keys) - 1))
        slots: npt.NDArray[np.int64] = firsts + images.start if isinstance(images, slice) else images[firsts]
        return slots

    def _labels_of(self, slots: Slots, *, is_strict: bool = True) -> npt.NDArray[np.int64]:
        """Return the labels of records; one that cannot be read is -1, or DataError where `is_strict`."""
        words = self._words()
        found = np.empty(len(slots), dtype=np.int64)
        for start in range(0, len(slots), _LABEL_BLOCK):
            block = np.asarray(slots[start : start + _LABEL_BLOCK])
            labels, is_plain = _plain_labels(words, self.index.bounds[block])
            found[start : start + len(block)] = labels
            for at in np.flatnonzero(~is_plain).tolist():
                found[start + at] = self._label(int(block[at]), is_strict=is_strict)
        return found

    def _words(self) -> npt.NDArray[np.uint32]:
        """Return the file as words of 32 bits, mapped."""
        try:
            return np.memmap(self.path, dtype="<u4", mode="r", shape=(self._size // 4,))
        except (OSError, ValueError) as err:
            raise DataError(f"{self.path}: cannot be mapped ({err}); expected the file that was opened") from err

    def _warn_of_scalars(self, slot: int) -> None:
        if not is_marker(self.read_extent(slot)[0]):
            logger.warning(
                "%s: holds a scalar label, expected an identity record with the range of its keys; the labels of the "
                "images are counted instead; convert_rec --to insightface writes identity records anew",
                self.place_of(slot),
            )

    def _warn_of_rounding(self, slot: int) -> None:
        header = self._header(slot)
        if header.labels[0] > EXACT_FLOAT and header.id2 >> 32 != EXACT_MARK:
            logger.warning("%s: class ids above %d are float32 here: some may be shared", self.path, EXACT_FLOAT)


def read_property(path: Path) -> tuple[int, int, int]:
    """Return (num_classes, height, width) from the first line of a `property` file."""
    require_plain(path)
    with open(path, encoding="utf-8-sig", errors="replace") as handle:
        line = handle.readline(200).strip()
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != 3 or not all(field.isascii() and field.isdigit() and int(field) < 2**32 for field in fields):
        raise DataError(f"{path}:1: {line!r}; expected num_classes,height,width; correct the file or remove it")
    num_classes, height, width = (int(field) for field in fields)
    return num_classes, height, width


def _at(place: str | Path, err: DataError) -> DataError:
    return DataError(f"{place}: {err}")


def _plain_labels(
    words: npt.NDArray[np.uint32], offsets: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Read labels straight from the mapped file: (labels, whether that was possible), for records at `offsets`.

    Not possible, and left to the careful way, for split records, damaged ones, and labels that are not whole numbers.
    """
    if len(words) < 9:  # not even one record with a label
        return np.zeros(len(offsets), np.int64), np.zeros(len(offsets), np.bool_)
    at = offsets // 4
    is_inside = (at >= 0) & (at + 9 <= len(words)) & (offsets % 4 == 0)
    at = np.where(is_inside, at, 0)
    # magic | cflag, length | flag | label | id (two words) | id2 (two words) | the first of several labels
    flag = words[at + 2]
    label = np.where(flag == 0, words[at + 3], words[at + 8]).astype("<u4").view("<f4")
    is_plain = is_inside & (words[at] == MAGIC) & (words[at + 1] >= 36) & (words[at + 1] < 2**29)
    is_plain &= (words[at + 7] != EXACT_MARK) & (label >= 0) & (label <= EXACT_FLOAT) & (label % 1 == 0)
    return np.where(is_plain, label, 0).astype(np.int64), is_plain


def _selection(slots: Slots) -> slice | npt.NDArray[np.int64]:
    """Return what picks `slots` out of an array, without a copy where that can be."""
    return slice(slots.start, slots.stop) if isinstance(slots, range) else slots


def _spans(
    words: npt.NDArray[np.uint32], offsets: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None:
    """Return first keys and ends of the identity records at `offsets`; None without any, or when one is no range."""
    at = offsets // 4
    if not len(at) or (at < 0).any() or (at + MARKER_BYTES // 4 > len(words)).any() or (offsets % 4).any():
        return None
    is_range = (words[at] == MAGIC) & (words[at + 1] == MARKER_BYTES - PART_BYTES) & (words[at + 2] == 2)
    starts, stops = (words[at + place].astype("<u4").view("<f4") for place in (8, 9))
    is_range &= (starts >= 0) & (starts < stops) & (stops < 2**62)
    return (starts, stops) if is_range.all() else None
