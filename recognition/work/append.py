"""Records that a run keeps beside its work: a disk that does not take them never ends it. Torch-free."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections import deque
from pathlib import Path

logger = logging.getLogger(__name__)

MOST_HELD_BYTES = 1 << 20
"""What waits in memory for room on the disk; a report is about 500 bytes."""


class AppendedFile:
    """A file that whole records are appended to, each with one write, by one process.

    `write` never raises. What the system does not take (a full disk, a quota, a failing device, a folder that is gone)
    is warned of once, waits in memory, and is written with the first record for which there is room again; when more
    than `MOST_HELD_BYTES` wait, the oldest are dropped, and counted. A part of a record is cut off at once, or before
    the next one. `head` begins a new file; where `separator` is given, a file that a kill left without it at its end
    gets it. The file and its folder are made with the first record.
    """

    def __init__(self, path: Path, *, head: bytes = b"", separator: bytes = b"") -> None:
        self.path = path
        self.num_failed = 0
        """How many records the disk did not take at first."""
        self.num_lost = 0
        """How many of them were dropped."""
        self._head = head
        self._separator = separator
        self._descriptor: int | None = None
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._whole_bytes: int | None = None  # where the last whole record ends, when a part follows it
        self._is_failing = False

    def write(self, record: bytes) -> None:
        """Append `record`, after those that wait."""
        self._waiting.append(record)
        self._waiting_bytes += len(record)
        try:
            self._write_waiting()
        except OSError as err:
            self.num_failed += 1
            self._close_quietly()
            self._drop_oldest()
            self._warn_once(err)
        else:
            self._note_room()

    def close(self) -> None:
        """Try once more what waits, count the rest as lost, and close the file."""
        if self._waiting:
            try:
                self._write_waiting()
            except OSError:
                lost = self.num_lost + len(self._waiting)
                logger.warning("%s: ends without %d of its records, which the disk did not take", self.path, lost)
            else:
                self._note_room()
        self._close_quietly()

    def _write_waiting(self) -> None:
        descriptor = self._open()
        while self._waiting:
            self._write_whole(descriptor, self._waiting[0])
            self._waiting_bytes -= len(self._waiting.popleft())

    def _open(self) -> int:
        if self._descriptor is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
            self._descriptor = os.open(self.path, flags, 0o666)
            if self._whole_bytes is not None:
                os.ftruncate(self._descriptor, self._whole_bytes)  # needs no room
                self._whole_bytes = None
            size = os.fstat(self._descriptor).st_size
            if not size and self._head:
                self._write_whole(self._descriptor, self._head)
            elif size and self._separator:
                os.lseek(self._descriptor, -len(self._separator), os.SEEK_END)
                if os.read(self._descriptor, len(self._separator)) != self._separator:
                    self._write_whole(self._descriptor, self._separator)
        return self._descriptor

    def _write_whole(self, descriptor: int, record: bytes) -> None:
        """Write all of `record` or raise OSError, with the part that came to the disk noted and, if it can be, cut."""
        before = os.fstat(descriptor).st_size
        try:
            written = os.write(descriptor, record)
            if written != len(record):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._whole_bytes = before
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, before)
                self._whole_bytes = None
            raise

    def _drop_oldest(self) -> None:
        while self._waiting_bytes > MOST_HELD_BYTES:
            self._waiting_bytes -= len(self._waiting.popleft())
            self.num_lost += 1

    def _warn_once(self, err: OSError) -> None:
        if not self._is_failing:
            self._is_failing = True  # before the warning, which may come back to this very file
            logger.warning(
                "%s: cannot be written (%s); the run goes on, and its records wait in memory for room",
                self.path,
                err.strerror or err,
            )

    def _note_room(self) -> None:
        if self._is_failing:
            self._is_failing = False
            lost = f"{self.num_lost} are lost" if self.num_lost else "none is lost"
            logger.warning("%s: written again; %d records had to wait, %s", self.path, self.num_failed, lost)

    def _close_quietly(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None


class LogFile(logging.Handler):
    """Sends log records to a file as lines; a disk that does not take them ends nothing and prints no traceback."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = AppendedFile(path, separator=b"\n")

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            line = self.format(record)
        except Exception:  # a message whose arguments do not fit it: a mistake, which logging reports in its own way
            self.handleError(record)
            return
        self._file.write(line.encode("utf-8", "backslashreplace") + b"\n")

    def close(self) -> None:
        """Write what waits and close the file."""
        self._file.close()
        super().close()
