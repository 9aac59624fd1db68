"""The images of a packed set, whatever the layout of its .rec (docs/formats.md)."""

from __future__ import annotations

import logging
import os
import weakref
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recognition.console import Stopwatch, count, duration
from recognition.errors import DataError
from recognition.formats.index_cache import open_index
from recognition.formats.layouts import Parts, find_layout
from recognition.formats.record_index import RecordIndex
from recognition.formats.recordio import EXACT_FLOAT, EXACT_MARK, Header, class_id, parse_header, read_record
from recognition.formats.sources import find_rec
from recognition.work.system import expect_reads

logger = logging.getLogger(__name__)

_LABEL_BLOCK = 2**20


class ImageRecord(NamedTuple):
    """One image as stored: its key in the index, its class id, its encoded bytes."""

    key: int
    label: int
    image: bytes


class ImageRecords:
    """Random access to the images of a .rec, numbered in the order in which they lie in the file.

    `path` is the .rec, its path without the suffix, or a folder with a train.rec in it. Opening reads the index and a
    few records (all labels when nothing tells the number of classes). Reading uses pread: threads may share one object,
    and other processes get theirs by fork or pickle.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = find_rec(Path(path))
        self._open()
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
        try:
            words = np.memmap(self.path, dtype="<u4", mode="r", shape=(self._size // 4,))
        except (OSError, ValueError) as err:
            raise DataError(f"{self.path}: cannot be mapped ({err}); expected the file that was opened") from err
        found = np.empty(len(self), dtype=np.int64)
        for start in range(0, len(self), _LABEL_BLOCK):
            slots = np.asarray(self._slots[start : start + _LABEL_BLOCK])
            labels, is_plain = _plain_labels(words, self.index.bounds[slots])
            found[start : start + len(slots)] = labels
            for at in np.flatnonzero(~is_plain).tolist():
                found[start + at] = self._label(int(slots[at]))
        return found

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
        self.index, self.parts = open_index(self.path, self.path.with_suffix(".idx"), self._find_layout)
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

    def _label(self, slot: int) -> int:
        header = self._header(slot)
        try:
            return class_id(header)
        except DataError as err:
            raise _at(self.place_of(slot), err) from err

    def place_of(self, slot: int) -> str:
        """Return how messages name record `slot` of the index."""
        return f"{self.path}: record {self.index.keys[slot]} at offset {self.index.bounds[slot]}"

    def _find_num_classes(self) -> tuple[int, str]:
        """Return the number of classes and what it was taken from."""
        prop = self.path.with_name("property")
        stated = read_property(prop)[0] if prop.exists() else 0
        if self.num_identities:
            # Labels rise with the keys, but may leave some out: the last image has the highest.
            last = self.parts.images[-1]
            self._warn_of_rounding(last)
            counted = max(self.num_identities, self._label(last) + 1)
            if 0 < stated < counted:
                logger.warning("%s: says %d classes, but %s has %d; using these", prop, stated, self.path.name, counted)
            return (stated, f"from {prop}") if stated >= counted else (counted, "from its identity records")
        if stated:
            return stated, f"from {prop}"
        watch = Stopwatch()
        logger.info("%s: no property file beside it; reading the labels of %s", self.path, count(len(self), "image"))
        highest = int(self.labels().max())
        logger.info("%s: %d classes, found in %s", self.path, highest + 1, duration(watch.seconds))
        return highest + 1, "the highest label"

    def _warn_of_rounding(self, slot: int) -> None:
        header = self._header(slot)
        if header.labels[0] > EXACT_FLOAT and header.id2 >> 32 != EXACT_MARK:
            logger.warning("%s: class ids above %d are float32 here: some may be shared", self.path, EXACT_FLOAT)


def read_property(path: Path) -> tuple[int, int, int]:
    """Return (num_classes, height, width) from the first line of a `property` file."""
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
    is_plain = is_inside & (words[at] == 0xCED7230A) & (words[at + 1] >= 36) & (words[at + 1] < 2**29)
    is_plain &= (words[at + 7] != EXACT_MARK) & (label >= 0) & (label <= EXACT_FLOAT) & (label % 1 == 0)
    return np.where(is_plain, label, 0).astype(np.int64), is_plain
