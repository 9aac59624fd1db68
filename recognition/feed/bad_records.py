"""Records that cannot be read: the run ends at the first, or they are replaced, listed, and counted against a budget.

A replacement is a pure function of (seed, epoch, position in the order), so that a resumed run and any number of ranks
and workers see the same batches. The list is `bad_records.jsonl` in the run folder, one line a record:

    {"file": "train.rec", "record": 5, "key": 6, "error": "train.rec: record 6 at offset 3940: does not decode; ..."}
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

from recognition.draws.hashing import derive_key
from recognition.errors import DataError
from recognition.work.inputs import require_plain
from recognition.work.system import lock_file

logger = logging.getLogger(__name__)

LIST_NAME = "bad_records.jsonl"
_MAX_TRIES = 16  # of a batch's row; that many bad records in a row mean that the set is rotten, not that luck is bad
_MAX_LIST_BYTES = 1 << 26
_STREAM = 0x6BAD


class Origin(NamedTuple):
    """Where an image of a data set comes from; `record` is its number in the file, `key` what the file calls it."""

    file: str
    record: int
    key: int | str


class BadRecord(NamedTuple):
    """A record that cannot be read, and why."""

    file: str
    record: int
    key: int | str
    error: str


@dataclass(frozen=True)
class Replacements:
    """Which images stand in for one that cannot be read, and where such a one comes from."""

    seed: int
    num_images: int
    origin: Callable[[int], Origin]

    def __call__(self, epoch: int, position: int) -> Iterator[int]:
        """Yield images to try in turn for the one at `position` of the epoch's order, over all ranks."""
        for number in range(_MAX_TRIES):
            yield derive_key(self.seed, epoch, _STREAM, position, number) % self.num_images


@dataclass(frozen=True)
class BadRecordPolicy:
    """What is done about bad records where they may be replaced."""

    replacements: Replacements
    note: Callable[[Sequence[BadRecord]], None]
    """Called in the training process with what was replaced in a batch; may raise DataError."""


class BadRecordList:
    """The list of a run, shared by its ranks and by all its restarts; each record stands in it once.

    Ranks append under a lock as they meet a record, so that the list is whole whenever the run ends. A disk that does
    not take a record is warned of once; the record waits in memory and counts against the budget all the same.
    """

    def __init__(self, path: Path, *, budget: int) -> None:
        self.path = path
        self._budget = budget
        self._known: set[tuple[str, int]] = set()
        self._waiting: list[BadRecord] = []
        self._is_failing = False
        self._seen_bytes = 0

    def __len__(self) -> int:
        """Return how many records are listed, by any rank."""
        with contextlib.suppress(OSError):  # not there yet, or for now not to be read
            if self.path.stat().st_size != self._seen_bytes:
                require_plain(self.path)
                with open(self.path, "rb") as handle:
                    self._read(handle)
        return len(self._known)

    def add(self, found: Sequence[BadRecord]) -> None:
        """List those of `found` that are not, with a warning for each; DataError when the budget is exceeded."""
        if not self._waiting and all((bad.file, bad.record) in self._known for bad in found):
            return
        try:
            with open(self.path, "a+b", buffering=0) as handle:
                lock_file(handle, wait=True)
                self._read(handle)
                self._note(found)
                self._append(handle)
        except OSError as err:
            self._note(found)
            if not self._is_failing:
                self._is_failing = True
                logger.warning(
                    "%s: cannot be written (%s); the run goes on, and its lines wait in memory for room",
                    self.path,
                    err.strerror or err,
                )
        if len(self._known) > self._budget:
            raise DataError(
                f"{self.path}: lists {len(self._known)} records that cannot be read; expected at most "
                f"data.max_bad_records={self._budget}; check the set with check_rec.py, or raise it; the last one: "
                f"{found[-1].error}"
            )

    def _note(self, found: Sequence[BadRecord]) -> None:
        for bad in found:
            if (bad.file, bad.record) not in self._known:
                self._known.add((bad.file, bad.record))
                self._waiting.append(bad)
                logger.warning("skipped and replaced: %s", bad.error)

    def _append(self, handle: FileIO) -> None:
        """Write what waits with one write; a part of it is cut off again."""
        lines = b"".join(json.dumps(bad._asdict()).encode() + b"\n" for bad in self._waiting)
        before = os.fstat(handle.fileno()).st_size
        try:
            if lines and handle.write(lines) != len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(handle.fileno())
        except OSError:
            os.truncate(handle.fileno(), before)
            raise
        self._waiting.clear()
        self._is_failing = False
        self._seen_bytes = before + len(lines)

    def _read(self, handle: FileIO | BinaryIO) -> None:
        """Note what is listed; a line that a kill cut short is closed off and counts for nothing."""
        handle.seek(0)
        content = handle.read(_MAX_LIST_BYTES)
        self._seen_bytes = len(content)
        self._known |= set(itertools.chain.from_iterable(map(_parse, content.splitlines())))
        if content and not content.endswith(b"\n") and handle.writable():
            handle.write(b"\n")


def _parse(line: bytes) -> Iterator[tuple[str, int]]:
    try:
        entry = json.loads(line)
        yield str(entry["file"]), int(entry["record"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return
