"""Where each record of a .rec lies: the .idx as compact arrays, or rebuilt from the records when it is lost."""

from __future__ import annotations

import logging
import os
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recognition.console import count
from recognition.data.recordio import PART_BYTES, is_marker, parse_header, read_record
from recognition.errors import DataError
from recognition.files import staged

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 8 * 2**20
_MAX_LINE_BYTES = 2**16
_TAB, _NEWLINE = 9, 10


@dataclass(frozen=True)
class RecordIndex:
    """Keys and extents in the order of the file: record i lies in [bounds[i], bounds[i + 1]).

    16 bytes an entry in two plain arrays, which may as well be memory-mapped. When the .idx lists a part of the
    records only, an extent reaches over the unlisted ones.
    """

    keys: npt.NDArray[np.int64]  # [n]
    bounds: npt.NDArray[np.int64]  # [n + 1], strictly increasing, the last is the size of the .rec

    def __len__(self) -> int:
        return len(self.keys)


def open_index(rec: Path, idx: Path) -> RecordIndex:
    """Return the index of `rec`: from `idx` when it exists, else from a scan of the records, with a warning."""
    if idx.exists():
        return load_index(rec, idx)
    logger.warning("%s: missing; scanning %s for its records", idx, rec)
    index = scan_index(rec)
    logger.warning("%s: rebuilt in memory with %s; nothing was written", idx, count(len(index), "record"))
    return index


def load_index(rec: Path, idx: Path) -> RecordIndex:
    """Parse `idx` and check it against the size of `rec`; about 0.1 s per million entries."""
    keys, offsets = read_index_lines(idx)
    size = rec.stat().st_size
    if len(keys) == 0:
        raise DataError(f"{idx}: has no entries; expected a line 'key TAB offset' per record of {rec.name}")
    wrong = np.flatnonzero((offsets > size - PART_BYTES) | (offsets % 4 != 0))
    if len(wrong):
        at = wrong[0]
        raise DataError(
            f"{idx}: key {keys[at]}: offset {offsets[at]} is no place for a record in {rec.name} of {size} bytes; "
            "the .rec is truncated or the .idx is of another file"
        )
    if not (np.diff(offsets) > 0).all():
        order = np.argsort(offsets, kind="stable")
        keys, offsets = keys[order], offsets[order]
        _refuse_repeats(idx, offsets, "offset")
    _refuse_repeats(idx, keys, "key")
    return RecordIndex(keys, np.append(offsets, size))


def scan_index(rec: Path) -> RecordIndex:
    """Walk the records of `rec` from its first byte and return their index.

    The keys are the header ids where these are all different (MXNet's writers store the key there). Else they are
    0, 1, 2, ... or, when the file ends with a record that is no image, 1, 2, ..., 0 as insightface numbers.
    Raises DataError, with number and offset, at the first record that is damaged or cut.
    """
    ids, bounds = array("Q"), array("q", [0])
    with open(rec, "rb", buffering=0) as handle:
        size = os.fstat(handle.fileno()).st_size
        while bounds[-1] < size:
            try:
                payload, end = read_record(handle.fileno(), bounds[-1], size)
                header = parse_header(payload)
            except DataError as err:
                raise DataError(f"{rec}: record number {len(ids)} at offset {bounds[-1]}: {err}") from err
            ids.append(header.id)
            bounds.append(min(end, size))
    if not ids:
        raise DataError(f"{rec}: is empty; expected records")
    keys = np.frombuffer(ids, dtype=np.uint64)
    if keys.max() >= 2**63 or len(np.unique(keys)) < len(keys):
        keys = np.arange(len(keys), dtype=np.uint64)
        if is_marker(payload):
            keys = np.roll(keys, -1)
    return RecordIndex(keys.astype(np.int64), np.frombuffer(bounds, dtype=np.int64))


def write_index(index: RecordIndex, idx: Path) -> None:
    """Publish `index` as the text file `idx`."""
    with staged(idx) as (temporary,), open(temporary, "wb", buffering=2**20) as handle:
        for key, offset in zip(index.keys.tolist(), index.bounds.tolist()):
            handle.write(b"%d\t%d\n" % (key, offset))


def read_index_lines(idx: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return keys and offsets as they stand in `idx`; raises DataError with the line of the first that is neither."""
    tables = []
    num_lines = 0
    rest = b""
    with open(idx, "rb") as handle:
        while chunk := handle.read(_CHUNK_BYTES):
            lines, newline, rest = (rest + chunk).rpartition(b"\n")
            if len(rest) > _MAX_LINE_BYTES:
                raise DataError(f"{idx}:{num_lines + 1}: over {_MAX_LINE_BYTES} bytes; expected 'key TAB offset'")
            tables.append(_parse_lines(lines + newline, idx, num_lines))
            num_lines += (lines + newline).count(b"\n")
    tables.append(_parse_lines(rest + b"\n" if rest else b"", idx, num_lines))
    table = np.concatenate(tables)
    return np.ascontiguousarray(table[:, 0]), np.ascontiguousarray(table[:, 1])


def _parse_lines(text: bytes, idx: Path, lines_before: int) -> npt.NDArray[np.int64]:
    table = _parse_regular(text)
    return _parse_any(text, idx, lines_before) if table is None else table


def _parse_regular(text: bytes) -> npt.NDArray[np.int64] | None:
    """Parse `digits TAB digits NEWLINE` with whole-array arithmetic; None when a line is anything else."""
    padded = np.frombuffer(bytes(16) + text, dtype=np.uint8)
    stops = np.flatnonzero(padded[16:] - np.uint8(ord("0")) > 9) + 16  # one behind each number
    marks = padded[stops].reshape(-1, 2) if len(stops) % 2 == 0 else np.zeros((1, 2), np.uint8)
    if (marks != (_TAB, _NEWLINE)).any():
        return None
    lengths = np.diff(stops, prepend=15) - 1
    if len(lengths) and not 1 <= lengths.min() <= lengths.max() <= 16:
        return None
    # Element k of `words` is the eight characters from k on: a view at every byte.
    words = np.ndarray((len(padded) - 7,), dtype="<u8", buffer=padded.data, strides=(1,))
    values = _eight_digits(words[stops - 8], np.minimum(lengths, 8))
    long = np.flatnonzero(lengths > 8)
    values[long] += _eight_digits(words[stops[long] - 16], lengths[long] - 8) * np.uint64(10**8)
    return values.astype(np.int64).reshape(-1, 2)


def _eight_digits(words: npt.NDArray[np.uint64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Return the numbers in the last `lengths` (1 to 8) characters of each little-endian word."""
    unused = (64 - 8 * lengths).astype(np.uint64)
    digits = (words >> unused << unused) & np.uint64(0x0F0F0F0F0F0F0F0F)
    # Neighbours are joined pairwise: 8 digits -> 4 of two -> 2 of four -> 1 of eight.
    pairs = (digits * np.uint64(10) + (digits >> np.uint64(8))) & np.uint64(0x00FF00FF00FF00FF)
    fours = (pairs * np.uint64(100) + (pairs >> np.uint64(16))) & np.uint64(0x0000FFFF0000FFFF)
    return (fours * np.uint64(10000) + (fours >> np.uint64(32))) & np.uint64(0xFFFFFFFF)


def _parse_any(text: bytes, idx: Path, lines_before: int) -> npt.NDArray[np.int64]:
    """Parse line by line, as MXNet does: any white space, empty lines allowed."""
    rows = []
    for number, line in enumerate(text.splitlines(), lines_before + 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or not all(field.isdigit() and len(field) <= 18 for field in fields):
            found = line[:60].decode("utf-8", "backslashreplace")
            raise DataError(f"{idx}:{number}: {found!r}; expected 'key TAB offset'")
        rows.append((int(fields[0]), int(fields[1])))
    return np.array(rows, dtype=np.int64).reshape(-1, 2)


def _refuse_repeats(idx: Path, values: npt.NDArray[np.int64], kind: str) -> None:
    # Writers number upwards and insightface ends with key 0; that is seen without a sort.
    if (np.diff(values[:-1]) > 0).all() and (len(values) == 1 or values[-1] < values[0] or values[-1] > values[-2]):
        return
    ordered = np.sort(values)
    repeated = ordered[1:][np.diff(ordered) == 0]
    if len(repeated):
        raise DataError(f"{idx}: {kind} {repeated[0]} stands more than once; remove the file to have it rebuilt")
