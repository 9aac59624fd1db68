"""RecordIO framing and the image header inside it, byte for byte as MXNet 1.9.1 writes them (docs/formats.md).

Errors raised here say what is wrong with the bytes; whoever knows the file, key and offset puts them in front.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO, NamedTuple

import numpy as np

from recognition.errors import DataError

MAGIC = 0xCED7230A
MAX_PAYLOAD = 2**29 - 1  # the length shares a 32-bit word with three bits of cflag
PART_BYTES = 8  # magic and length before each part
HEADER_BYTES = 24  # IRHeader: flag u32, label f32, id u64, id2 u64
MARKER_BYTES = PART_BYTES + HEADER_BYTES + 2 * 4  # insightface's identity records and key 0: two labels, no image
WHOLE, FIRST, MIDDLE, LAST = range(4)
MAX_PARTS = 1 << 12
"""Parts of a record: a mark of four bytes is in an image by chance once in 16 GiB; empty parts cost a reader alone."""
MAX_CLASSES = 2**32  # an exact class id is a u32
MAX_LABELS = 2**16  # of one image: Python spends 32 bytes on each of a payload's four

EXACT_FLOAT = 2**24  # float32 holds every integer up to here, and skips some above
EXACT_MARK = 0x4C424C45  # "ELBL" in the upper half of id2: the lower half is the exact class id

_MAGIC_BYTES = struct.pack("<I", MAGIC)
_PART = struct.Struct("<II")
_HEADER = struct.Struct("<IfQQ")
# Most 112x112 JPEGs fit, so a record costs one system call; more is read only once its length has been checked.
_READ_AHEAD = 64 * 1024


class Header(NamedTuple):
    """What stands before the image; `labels` has one entry when flag is 0, else `flag` entries; `size` is its bytes."""

    flag: int
    labels: tuple[float, ...]
    id: int
    id2: int
    size: int


class RecordWriter:
    """Append records to `rec` and their `key TAB offset` lines to `idx`; both are opened and closed by the caller."""

    def __init__(self, rec: BinaryIO, idx: BinaryIO) -> None:
        self._rec = rec
        self._idx = idx
        self._offset = 0

    def write(self, key: int, payload: bytes) -> None:
        """Append one record; raises DataError when the payload is too long for the format."""
        framed = frame(payload)
        self._rec.write(framed)
        self._idx.write(b"%d\t%d\n" % (key, self._offset))
        self._offset += len(framed)


def frame(payload: bytes) -> bytes:
    """Return the bytes of one record, cut in parts wherever the magic occurs at a multiple of four."""
    if len(payload) > MAX_PAYLOAD:
        raise DataError(f"a record of {len(payload)} bytes; the format ends at {MAX_PAYLOAD}")
    pieces = []
    start = 0
    for cut in _aligned_magics(payload):
        # The magic itself is dropped: the reader puts it back between the parts.
        pieces += [_part_head(FIRST if start == 0 else MIDDLE, cut - start), payload[start:cut]]
        start = cut + 4
    pieces += [_part_head(WHOLE if start == 0 else LAST, len(payload) - start), payload[start:]]
    pieces += [bytes(-len(payload) % 4)]
    return b"".join(pieces)


def read_record(descriptor: int, start: int, limit: int) -> tuple[bytes, int]:
    """Return the payload of the record at byte `start`, and the byte after its padding; it must end before `limit`.

    Uses pread only, so any number of threads may share the descriptor. Nothing is allocated beyond `limit - start`.
    """
    buffer = os.pread(descriptor, min(limit - start, _READ_AHEAD), start)
    cflag, length = _parse_part_head(buffer, 0)
    if cflag != WHOLE:
        return _read_parts(descriptor, start, limit)
    end = PART_BYTES + length
    _check_span(end, limit - start)
    if end > len(buffer):
        buffer += _read_exactly(descriptor, end - len(buffer), start + len(buffer))
    return buffer[PART_BYTES:end], start + end + -length % 4


def pack_payload(labels: float | tuple[float, ...], image: bytes, *, record_id: int = 0, id2: int = 0) -> bytes:
    """Return header and image as one payload; a tuple of labels is stored after the header, a number inside it."""
    if isinstance(labels, tuple):
        extra = np.asarray(labels, dtype="<f4").tobytes()
        return _HEADER.pack(len(labels), 0.0, record_id, id2) + extra + image
    return _HEADER.pack(0, labels, record_id, id2) + image


def pack_image(label: int, image: bytes, *, record_id: int, extra: tuple[float, ...] | None = None) -> bytes:
    """Return the payload of an image with its class id, which stays exact however large (see docs/formats.md).

    With `extra`, even an empty one, the class id is the first of a list of labels.
    """
    if not 0 <= label < MAX_CLASSES:
        raise DataError(f"class id {label} is outside [0, {MAX_CLASSES})")
    id2 = EXACT_MARK << 32 | label if label > EXACT_FLOAT else 0
    labels = float(label) if extra is None else (float(label), *extra)
    return pack_payload(labels, image, record_id=record_id, id2=id2)


def parse_header(payload: bytes) -> Header:
    """Return the header at the start of `payload`; the image is `payload[header.size:]`."""
    if len(payload) < HEADER_BYTES:
        raise DataError(f"a payload of {len(payload)} bytes; an image record has a header of {HEADER_BYTES}")
    flag, label, record_id, id2 = _HEADER.unpack_from(payload)
    if flag == 0:
        return Header(0, (label,), record_id, id2, HEADER_BYTES)
    size = HEADER_BYTES + 4 * flag
    if size <= len(payload) and flag > MAX_LABELS:
        raise DataError(f"a header with {flag} labels; expected at most {MAX_LABELS}")
    if size > len(payload):
        raise DataError(f"a header with {flag} labels in a payload of {len(payload)} bytes")
    return Header(flag, struct.unpack_from(f"<{flag}f", payload, HEADER_BYTES), record_id, id2, size)


def is_marker(payload: bytes) -> bool:
    """Return whether this is an identity record or the record of key 0 of insightface's layout, and no image."""
    return len(payload) == MARKER_BYTES - PART_BYTES and parse_header(payload).flag == 2


def class_id(header: Header) -> int:
    """Return the exact class id: the marked half of id2 where there is one, else the (first) float label.

    `id` is not looked at: im2rec and insightface number the records in it.
    """
    label = header.labels[0]
    if header.id2 >> 32 == EXACT_MARK:
        exact = header.id2 & 0xFFFFFFFF
        if float(np.float32(exact)) != label:
            raise DataError(f"label {label:.0f} contradicts the exact class id {exact} beside it")
        return exact
    # Also false for NaN; infinity is not an integer.
    if not (label >= 0 and label.is_integer()):
        raise DataError(f"label {label!r}; expected a whole number from 0 on")
    if label >= MAX_CLASSES:
        raise DataError(f"label {label!r}; expected a class id below {MAX_CLASSES}")
    return int(label)


def _aligned_magics(payload: bytes) -> list[int]:
    found = []
    at = payload.find(_MAGIC_BYTES)
    while at >= 0:
        if at % 4 == 0:
            found.append(at)
        at = payload.find(_MAGIC_BYTES, at + 1)
    return found


def _part_head(cflag: int, length: int) -> bytes:
    return _PART.pack(MAGIC, cflag << 29 | length)


def _parse_part_head(buffer: bytes, at: int) -> tuple[int, int]:
    if len(buffer) < at + PART_BYTES:
        raise DataError(f"the file ends {len(buffer) - at} bytes into a record's head of {PART_BYTES}; it is truncated")
    magic, word = _PART.unpack_from(buffer, at)
    if magic != MAGIC:
        raise DataError(
            f"found {magic:#010x} where a record starts with {MAGIC:#010x}; the index is of another file; remove it to "
            "have it rebuilt"
        )
    return word >> 29, word & MAX_PAYLOAD


def _read_parts(descriptor: int, start: int, limit: int) -> tuple[bytes, int]:
    parts: list[bytes] = []
    total = 0
    at = start
    while True:
        cflag, length = _parse_part_head(os.pread(descriptor, PART_BYTES, at), 0)
        if cflag not in ((FIRST,) if not parts else (MIDDLE, LAST)):
            raise DataError(f"part {len(parts)} has cflag {cflag}; a split record is 1, any number of 2, then 3")
        if len(parts) == MAX_PARTS:
            raise DataError(f"has more than {MAX_PARTS:,} parts, which are made where an image holds the mark of one")
        total += length + 4 * bool(parts)
        if total > MAX_PAYLOAD:
            raise DataError(f"its parts add up to more than {MAX_PAYLOAD} bytes")
        _check_span(at - start + PART_BYTES + length, limit - start)
        parts.append(_read_exactly(descriptor, length, at + PART_BYTES))
        at += PART_BYTES + length + -length % 4
        if cflag == LAST:
            return _MAGIC_BYTES.join(parts), at


def _check_span(needed: int, available: int) -> None:
    if needed > available:
        raise DataError(
            f"needs {needed} bytes, but only {available} are left before the next entry or the end of the file; "
            "the file is truncated or the index is of another file"
        )


def _read_exactly(descriptor: int, length: int, start: int) -> bytes:
    content = os.pread(descriptor, length, start)
    if len(content) < length:
        raise DataError(f"the file ends after {len(content)} of {length} bytes; it is truncated")
    return content
