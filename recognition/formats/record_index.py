"""Where each record of a .rec lies: the .idx as compact arrays, or rebuilt from the records when it is lost."""

from __future__ import annotations

import codecs
import logging
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recognition.console import count
from recognition.errors import DataError
from recognition.formats.recordio import PART_BYTES, is_marker, parse_header, read_record
from recognition.work.files import staged
from recognition.work.inputs import require_plain

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 2**20
BLOCK = 2**16  # elements that are looked at together: their temporaries stay in the processor's cache
_MAX_LINE_BYTES = 2**16


@dataclass(frozen=True)
class RecordIndex:
    """Keys and extents in the order of the file: record i lies in [bounds[i], bounds[i + 1]).

    16 bytes an entry in two arrays, memory-mapped (`is_shared`) for large sets. When the .idx lists a part of the
    records only, an extent reaches over the unlisted ones.
    """

    keys: npt.NDArray[np.int64]  # [n]
    bounds: npt.NDArray[np.int64]  # [n + 1], strictly increasing, the last is the size of the .rec
    is_shared: bool = False

    def __len__(self) -> int:
        return len(self.keys)

    def extent(self, slot: int, num_bytes: int) -> tuple[int, int]:
        """Return where record `slot` begins and the next one does; DataError unless both lie in a .rec of `num_bytes`.

        A parsed index has been checked as a whole; a mapped one may have been written by anybody, and checking 42
        million entries in every process would cost more than checking those that are read.
        """
        start, stop = int(self.bounds[slot]), int(self.bounds[slot + 1])
        if not 0 <= start < stop <= num_bytes:
            raise DataError(
                f"its entry [{start}, {stop}) is no place in a file of {num_bytes} bytes; expected one inside; remove "
                "the .idx.cache to have it rebuilt"
            )
        return start, stop

    def check_extents(self, place: Path) -> None:
        """Raise DataError unless the records follow each other from byte 0 on, for readers that go by the bounds."""
        if self.bounds[0] < 0 or not is_increasing(self.bounds):
            raise DataError(f"{place}: its .idx.cache is damaged: offsets do not rise; remove the cache")


def recover_index(rec: Path, idx: Path) -> RecordIndex:
    """Return the index of `rec` from a scan of its records, with a warning that `idx` is missing."""
    logger.warning("%s: missing; scanning %s for its records", idx, rec)
    index = scan_index(rec)
    logger.warning("%s: rebuilt in memory with %s; nothing was written", idx, count(len(index), "record"))
    return index


def load_index(rec: Path, idx: Path) -> RecordIndex:
    """Parse `idx` and check it against the size of `rec`; about 0.1 s per million entries."""
    blocks = [*parse_index_blocks(idx), np.array([[0, rec.stat().st_size]], dtype=np.int64)]
    rows = np.concatenate(blocks)
    check_rows(rows, rec, idx)
    return RecordIndex(np.ascontiguousarray(rows[:-1, 0]), np.ascontiguousarray(rows[:, 1]))


def check_rows(rows: npt.NDArray[np.int64], rec: Path, idx: Path) -> None:
    """Sort (key, offset) rows by offset in place and raise DataError unless they can be an index of `rec`.

    The last row holds the size of the .rec in place of an offset.
    """
    keys, offsets, size = rows[:-1, 0], rows[:-1, 1], rows[-1, 1]
    if len(keys) == 0:
        raise DataError(f"{idx}: has no entries; expected a line 'key TAB offset' per record of {rec.name}")
    for start in range(0, len(keys), BLOCK):
        block = offsets[start : start + BLOCK]
        wrong = np.flatnonzero((block > size - PART_BYTES) | (block & 3 != 0))
        if len(wrong):
            at = start + wrong[0]
            raise DataError(
                f"{idx}: key {keys[at]}: offset {offsets[at]} is no place for a record in {rec.name} of {size} bytes; "
                "expected one inside; the .rec is truncated or the .idx is of another file: copy both again"
            )
    if not is_increasing(offsets):
        rows[:-1] = rows[:-1][np.argsort(offsets, kind="stable")]
        _refuse_repeats(idx, offsets, "offset")
    _refuse_repeats(idx, keys, "key")


def is_increasing(values: npt.NDArray[np.int64]) -> bool:
    """Whether every element is greater than the one before; looked at in blocks, as temporaries cost more than that."""
    later, earlier = values[1:], values[:-1]
    starts = range(0, len(earlier), BLOCK)
    return all(bool((later[at : at + BLOCK] > earlier[at : at + BLOCK]).all()) for at in starts)


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
    table = np.concatenate([np.empty((0, 2), dtype=np.int64), *parse_index_blocks(idx)])
    return np.ascontiguousarray(table[:, 0]), np.ascontiguousarray(table[:, 1])


def parse_index_blocks(idx: Path) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the (key, offset) rows of `idx` [m, 2] in the order of its lines, a block at a time.

    Raises DataError with the line of the first that is no row.
    """
    num_lines = 0
    for text in _whole_lines(idx):
        rows = _parse_regular(text)
        # What is not as every writer writes it is read again, line by line.
        yield _parse_any(text, idx, num_lines) if rows is None else rows
        num_lines += text.count(b"\n") if rows is None else len(rows)


def _whole_lines(idx: Path) -> Iterator[bytes]:
    """Yield the text of `idx` in blocks that end with a line."""
    num_lines = 0
    rest = b""
    require_plain(idx)
    with open(idx, "rb") as handle:
        if handle.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            handle.seek(0)
        while chunk := handle.read(_CHUNK_BYTES):
            lines, newline, rest = (rest + chunk).rpartition(b"\n")
            num_lines += chunk.count(b"\n")
            if len(rest) > _MAX_LINE_BYTES:
                raise DataError(f"{idx}:{num_lines + 1}: over {_MAX_LINE_BYTES} bytes; expected 'key TAB offset'")
            if newline:
                yield lines + newline
    if rest:
        yield rest + b"\n"


def _parse_regular(text: bytes) -> npt.NDArray[np.int64] | None:
    """Parse lines of exactly `digits TAB digits NEWLINE`; None when a line is anything else."""
    separators = text.translate(None, b"0123456789")
    if separators != b"\t\n" * (len(separators) // 2):
        return None
    if not text:
        return np.empty((0, 2), dtype=np.int64)
    # 0.07 s per million lines, and strict once the separators are known to alternate.
    values = np.fromstring(text, dtype=np.int64, sep=" ")
    # A number left out shows in the count; one beyond 64 bits becomes the largest.
    if len(values) != len(separators) or values.max() == np.iinfo(np.int64).max:
        return None
    return values.reshape(-1, 2)


def _parse_any(text: bytes, idx: Path, lines_before: int) -> npt.NDArray[np.int64]:
    """Parse line by line, as MXNet does: any white space, empty lines allowed."""
    rows = []
    for number, line in enumerate(text.splitlines(), lines_before + 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or not all(field.isdigit() and len(field) <= 18 for field in fields):
            found = line[:60].decode("utf-8", "backslashreplace")
            raise DataError(f"{idx}:{number}: {found!r}; expected 'key TAB offset'; remove the file to have it rebuilt")
        rows.append((int(fields[0]), int(fields[1])))
    return np.array(rows, dtype=np.int64).reshape(-1, 2)


def _refuse_repeats(idx: Path, values: npt.NDArray[np.int64], kind: str) -> None:
    # Writers number upwards and insightface ends with key 0; that is seen without a sort.
    if is_increasing(values[:-1]) and (len(values) == 1 or values[-1] < values[0] or values[-1] > values[-2]):
        return
    ordered = np.sort(values)
    repeated = ordered[1:][np.diff(ordered) == 0]
    if len(repeated):
        raise DataError(f"{idx}: {kind} {repeated[0]} occurs more than once; remove the file to have it rebuilt")
