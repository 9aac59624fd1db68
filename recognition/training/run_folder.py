"""Who is at work in a run folder, and whether its run has ended: two small files of it.

    .lock       locked for the life of a run; holds the host, process and time of whoever holds or held it
    run.json    {"ended": false, "step": 400}: whether the run has reached its last step, and the step of its weights

The lock is the system's (flock): it goes with the process that holds it, however that ends. Where a file system has
none, what the file says is believed instead.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from recognition.errors import DataError
from recognition.work.files import write_text, writing
from recognition.work.system import lock_file

logger = logging.getLogger(__name__)

LOCK = ".lock"
STATUS = "run.json"
_MAX_BYTES = 4096


@dataclass(frozen=True)
class Holder:
    """Who holds a run folder."""

    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, a process of this host."""
        return self.host == socket.gethostname()

    @property
    def is_alive_here(self) -> bool:
        """Whether a process of its number lives on this host."""
        if not self.is_here:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            return True  # another user's
        return True


class FolderLock:
    """The lock of a run folder, held by one process of the run until `release` or its end."""

    def __init__(self, path: Path, handle: FileIO, holder: Holder) -> None:
        self.path = path
        self.holder = holder
        self._handle = handle

    def check(self) -> None:
        """Raise DataError when another run has taken the folder over; a disk that does not answer is no reason."""
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(self.path), os.fstat(self._handle.fileno())):
                return
            raise DataError(
                f"{self.path.parent}: was taken over by {_read_holder(self.path) or 'another run'}; expected to be "
                "alone in it; end one of the two"
            )

    def release(self) -> None:
        """Give the folder back, and leave no name in it."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._handle.fileno(), 0)
        with contextlib.suppress(OSError):
            self._handle.close()


def lock_folder(folder: Path, *, take_over: bool = False) -> FolderLock:
    """Make `folder` and lock it; DataError with who is at work in it, or when it cannot be written.

    `take_over` takes it from a process of another host, which is believed to be dead: a file server may keep the lock
    of a machine that crashed. One that lives on this host has to be ended instead.
    """
    path = folder / LOCK
    with writing(folder, "set output=... to a writable folder"):
        folder.mkdir(parents=True, exist_ok=True)
        handle = _locked(path)
        holder = _read_holder(path)
        if handle is None:
            if not take_over or holder is None or holder.is_alive_here:
                raise DataError(_refusal(folder, holder))
            logger.warning("%s: taken over from %s", folder, holder)
            path.unlink()  # its lock is on the old file
            handle = _locked(path)
            if handle is None:
                raise DataError(_refusal(folder, _read_holder(path)))
        own = Holder(socket.gethostname(), os.getpid(), f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S}")
        _sign(handle, own)
        return FolderLock(path, handle, own)


def _locked(path: Path) -> FileIO | None:
    """Return the lock file, locked; None while another process holds it."""
    while True:
        handle = FileIO(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666), "r+")
        try:
            has_locks = lock_file(handle, wait=False)
            if os.path.samestat(os.fstat(handle.fileno()), os.stat(path)):
                break
            handle.close()  # taken over since it was opened
        except OSError as err:
            handle.close()
            if isinstance(err, BlockingIOError):
                return None
            if not isinstance(err, FileNotFoundError):
                raise
    holder = _read_holder(path)
    if not has_locks and holder is not None and (holder.is_alive_here or not holder.is_here):
        handle.close()
        return None
    return handle


def _sign(handle: FileIO, holder: Holder) -> None:
    """Write who holds the lock; a full disk leaves it without a name, and locked all the same."""
    with contextlib.suppress(OSError):
        os.ftruncate(handle.fileno(), 0)
        handle.seek(0)
        handle.write(json.dumps({"host": holder.host, "pid": holder.pid, "since": holder.since}).encode() + b"\n")


def _refusal(folder: Path, holder: Holder | None) -> str:
    text = f"{folder}: a run is at work in it ({holder or 'unknown'}); expected none"
    if holder is None or holder.is_alive_here:
        return f"{text}; wait for its end, end its processes, or set output=..."
    return f"{text}; wait for its end or set output=...; if that machine has crashed, start with --take-over"


def _read_holder(path: Path) -> Holder | None:
    found = _read_json(path)
    host, pid, since = (found.get(name) for name in ("host", "pid", "since"))
    if not (isinstance(host, str) and type(pid) is int and 0 < pid < 1 << 31 and isinstance(since, str)):
        return None
    return Holder(host[:255], pid, since[:40])


@dataclass(frozen=True)
class RunStatus:
    """What a run folder says of its run."""

    is_ended: bool
    """Whether it has reached its last step."""
    step: int
    """That of its weights; 0 before there are any, or of a run of an older version."""


def write_status(folder: Path, status: RunStatus) -> None:
    """Note what became of the run in `folder`; DataError when the disk does not take it."""
    write_text(folder / STATUS, json.dumps({"ended": status.is_ended, "step": status.step}) + "\n")


def read_status(folder: Path, *, has_weights: bool) -> RunStatus:
    """Return what became of the run in `folder`.

    Older versions wrote weights at the end alone, and no status: there they are what says that a run has ended.
    """
    if not (folder / STATUS).is_file():
        return RunStatus(has_weights, 0)
    found = _read_json(folder / STATUS)
    step = found.get("step")
    return RunStatus(found.get("ended") is True, step if type(step) is int and step >= 0 else 0)


def _read_json(path: Path) -> dict[str, Any]:
    """Return the mapping in a small file; an empty one when it holds none."""
    try:
        with open(path, "rb") as handle:
            found = json.loads(handle.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def released(lock: FolderLock | None) -> Iterator[None]:
    """Give the lock back at the end of the context; a rank without one has nothing to give."""
    try:
        yield
    finally:
        if lock is not None:
            lock.release()
