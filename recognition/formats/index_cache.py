"""The index of a large set as a binary file beside its .idx, mapped into memory and so shared by all processes.

`train.idx.cache` is a page of JSON and then 16 bytes a record: key and offset as little-endian int64, in the order of
the file, closed by a row with the size of the .rec. The JSON holds what records are and how many classes the labels
need, which takes a walk over the .rec. It says nothing that the set does not, and may be removed.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recognition.console import Stopwatch, count, duration, size
from recognition.formats.class_use import ClassUse
from recognition.formats.layouts import LAYOUTS, Parts
from recognition.formats.record_index import RecordIndex, check_rows, load_index, parse_index_blocks, recover_index
from recognition.formats.recordio import MAX_CLASSES
from recognition.work.files import staged
from recognition.work.inputs import require_plain

logger = logging.getLogger(__name__)

MIN_IDX_BYTES = 16 * 2**20
"""Smaller indexes are parsed each time: 0.2 s and 16 MB a process at most, and no file is left beside the data."""

_HEAD_BYTES = 4096
_FORMAT = 1

FindLayout = Callable[[RecordIndex], Parts]
CountClasses = Callable[[RecordIndex, Parts], ClassUse]
Opened = tuple[RecordIndex, Parts, ClassUse]


class _Unwritable(Exception):
    """The cache cannot be written; the set can be read without it."""


def open_index(rec: Path, idx: Path, find_layout: FindLayout, count_classes: CountClasses) -> Opened:
    """Return the index of `rec` and what the two functions say of it, from the cache where that is up to date.

    A stale or missing cache is rebuilt; where its folder is read-only every process holds the index by itself, which is
    warned of. Without an .idx the records are scanned.
    """
    if not idx.exists():
        return _opened(recover_index(rec, idx), find_layout, count_classes)
    require_plain(idx)
    if idx.stat().st_size >= MIN_IDX_BYTES:
        path = idx.with_name(f"{idx.name}.cache")
        stored = _read(path, _stamp(rec, idx), find_layout)
        if stored is not None:
            return stored
        try:
            return _build(path, rec, idx, find_layout, count_classes)
        except _Unwritable as err:
            logger.warning("%s: %s; every process will hold %s of its own", path, err, size(idx.stat().st_size))
    return _opened(load_index(rec, idx), find_layout, count_classes)


def _opened(index: RecordIndex, find_layout: FindLayout, count_classes: CountClasses) -> Opened:
    layout = find_layout(index)
    return index, layout, count_classes(index, layout)


def _build(path: Path, rec: Path, idx: Path, find_layout: FindLayout, count_classes: CountClasses) -> Opened:
    if not os.access(path.parent, os.W_OK):
        raise _Unwritable("the folder is read-only")
    watch = Stopwatch()
    stamp = _stamp(rec, idx)
    logger.info("%s: parsing %s into %s, once", idx, size(idx.stat().st_size), path.name)
    with staged(path) as (temporary,):
        _write_rows(temporary, rec, idx)
        rows = _map_rows(temporary, mmap.ACCESS_WRITE)
        check_rows(rows, rec, idx)
        _, layout, use = _opened(RecordIndex(rows[:-1, 0], rows[:, 1], is_shared=True), find_layout, count_classes)
        head = {"format": _FORMAT, "stamp": stamp, "layout": _describe(layout), "classes": dataclasses.asdict(use)}
        _write_head(temporary, head)
    logger.info("%s: %s in %s", idx, count(len(rows) - 1, "record"), duration(watch.seconds))
    stored = _read(path, stamp, find_layout)
    assert stored is not None, f"{path}: does not fit its own .idx"
    return stored


def _write_rows(temporary: Path, rec: Path, idx: Path) -> None:
    blocks = parse_index_blocks(idx)
    try:
        with open(temporary, "wb", buffering=0) as handle:
            handle.write(bytes(_HEAD_BYTES))
            for rows in blocks:
                handle.write(rows.astype("<i8", copy=False).tobytes())
            handle.write(np.array([0, rec.stat().st_size], dtype="<i8").tobytes())
    except OSError as err:
        raise _Unwritable(err.strerror or str(err)) from err


def _write_head(temporary: Path, head: dict[str, Any]) -> None:
    with open(temporary, "r+b") as handle:
        handle.write(json.dumps(head).encode().ljust(_HEAD_BYTES))


def _read(path: Path, stamp: list[int], find_layout: FindLayout) -> Opened | None:
    """Return what the cache holds, None when it is missing, damaged or made for other files."""
    try:
        if not path.is_file():
            return None
        with open(path, "rb") as handle:
            head = json.loads(handle.read(_HEAD_BYTES))
        if head["format"] != _FORMAT or head["stamp"] != stamp:
            return None
        rows = _map_rows(path, mmap.ACCESS_READ)
        if len(rows) < 2 or rows[-1, 1] != stamp[2]:
            return None
        index = RecordIndex(rows[:-1, 0], rows[:, 1], is_shared=True)
        layout = _parse_layout(head["layout"], len(index)) if head["layout"] is not None else None
        use = _parse_use(head["classes"])
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None
    return index, layout or find_layout(index), use


def _map_rows(path: Path, access: int) -> npt.NDArray[np.int64]:
    with open(path, "rb" if access == mmap.ACCESS_READ else "r+b") as handle:
        mapped = mmap.mmap(handle.fileno(), 0, access=access)
    return np.frombuffer(mapped, dtype="<i8", offset=_HEAD_BYTES).reshape(-1, 2)


def _stamp(rec: Path, idx: Path) -> list[int]:
    status = idx.stat()
    return [status.st_size, status.st_mtime_ns, rec.stat().st_size]


def _describe(layout: Parts) -> dict[str, Any] | None:
    """Return the layout as JSON; None when images and others are mingled, so that it is found anew each time."""
    if not (isinstance(layout.images, range) and isinstance(layout.identities, range)):
        return None
    spans = [[slots.start, slots.stop] for slots in (layout.images, layout.identities)]
    return {"name": layout.name, "images": spans[0], "identities": spans[1], "header": layout.header}


def _parse_layout(description: dict[str, Any], num_records: int) -> Parts:
    images, identities = (_parse_slots(description[kind], num_records) for kind in ("images", "identities"))
    name, header = description["name"], description["header"]
    if not images or name not in LAYOUTS:
        raise ValueError("no layout of images")
    if header is not None and not (type(header) is int and 0 <= header < num_records):
        raise ValueError("the header is no record")
    return Parts(name, images, identities, header)


def _parse_use(counts: dict[str, Any]) -> ClassUse:
    use = ClassUse(**counts)
    if not all(type(number) is int and 0 <= number <= MAX_CLASSES for number in counts.values()):
        raise ValueError("no numbers of classes")
    return use


def _parse_slots(span: Any, num_records: int) -> range:
    start, stop = span
    if type(start) is not int or type(stop) is not int or not 0 <= start <= stop <= num_records:
        raise ValueError("no range of records")
    return range(start, stop)
