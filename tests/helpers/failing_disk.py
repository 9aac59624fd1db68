"""A disk that takes no change of a folder for a while: each of them fails as the system would have it.

Python's audit events name every open for writing, rename, removal and folder made, whoever asks for it; `os.write` and
`os.fsync`, which have none, are wrapped.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_EVENTS = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"})
_CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_active: FailingDisk | None = None
_is_hooked = False


class FailingDisk:
    """Changes below `folder` raise OSError(`error`) while `fails`, or where their number is `fails_at` (from 1)."""

    def __init__(self, folder: Path, error: int) -> None:
        self.fails = False
        self.fails_at: int | None = None
        self.num_changes = 0
        self.num_failed = 0
        self._folder = str(folder)
        self._error = error

    def note(self, path: Any) -> None:
        """Take note of a change at `path`; OSError when it is to fail."""
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path).startswith(self._folder):
            return
        self.num_changes += 1
        if self.fails or self.num_changes == self.fails_at:
            self.num_failed += 1
            raise OSError(self._error, os.strerror(self._error), os.fspath(path))

    @contextlib.contextmanager
    def mounted(self) -> Iterator[FailingDisk]:
        """Within, this is the disk of the folder."""
        global _active, _is_hooked
        if not _is_hooked:
            sys.addaudithook(_hear)  # cannot be taken back
            _is_hooked = True
        kept = os.write, os.fsync
        os.write, os.fsync = (_with_descriptor(function) for function in kept)
        _active = self
        try:
            yield self
        finally:
            _active = None
            os.write, os.fsync = kept


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    disk = _active
    if disk is None:
        return
    if (event == "open" and isinstance(arguments[2], int) and arguments[2] & _CHANGES) or event in _EVENTS:
        disk.note(arguments[0])


def _with_descriptor(function: Any) -> Any:
    def call(descriptor: int, *arguments: Any) -> Any:
        if _active is not None:
            with contextlib.suppress(FileNotFoundError):
                _active.note(os.readlink(f"/proc/self/fd/{descriptor}"))
        return function(descriptor, *arguments)

    return call
