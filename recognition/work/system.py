"""What not every operating system has, each with what is done without it. Torch-free.

Linux has all of it. macOS lacks the processor set, `posix_fallocate`, `posix_fadvise` and `memfd_create`; Windows also
`fcntl`, `resource`, SIGUSR1 and the forkserver. Nothing here is looked up when a module is imported.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import multiprocessing.context
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

_ZEROS = bytes(1 << 20)

NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
"""Flags with which opening a pipe does not wait for its writer, and the file stays closed in other programs."""


def usable_cores() -> int:
    """Return how many cores this process may use; where the system does not say, how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def claim_space(path: Path) -> None:
    """Have the system set aside the blocks of all of a file of zeros: a mapped page that finds the disk full kills.

    Without `posix_fallocate` the zeros are written. Raises OSError when there is no room.
    """
    with open(path, "r+b") as handle:
        num_bytes = os.fstat(handle.fileno()).st_size
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle.fileno(), 0, num_bytes)
            return
        # What is not zero, a header, stays.
        for start in range(0, num_bytes, len(_ZEROS)):
            handle.seek(start)
            block = handle.read(min(len(_ZEROS), num_bytes - start))
            handle.seek(start)
            handle.write(block)


def expect_reads(descriptor: int, start: int, stop: int) -> None:
    """Ask the system to fetch bytes of a file in the background; only a wish, which is dropped where none is taken."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError, OverflowError):
            os.posix_fadvise(descriptor, start, max(0, stop - start), os.POSIX_FADV_WILLNEED)


def lock_file(handle: IO[Any] | int, *, wait: bool) -> bool:
    """Lock an open file or folder until it is closed or this process ends, however it ends; return whether it is.

    Raises BlockingIOError when another process holds it and `wait` is false. Where the system or the file system has
    no locks this does nothing: two runs are then not told from one.
    """
    try:
        fcntl = importlib.import_module("fcntl")
    except ImportError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError:
        return False  # a file system without locks
    return True


def open_folder(folder: Path) -> int | None:
    """Return a descriptor of a folder, to lock or sync it; None on Windows, which opens files alone."""
    return None if sys.platform == "win32" else os.open(folder, os.O_RDONLY | os.O_CLOEXEC)


def anonymous_file(num_bytes: int) -> int:
    """Return the descriptor of a file without a name: in memory, or else on the disk for temporary files."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("arcshard")
    else:
        with tempfile.TemporaryFile() as handle:
            descriptor = os.dup(handle.fileno())
    os.ftruncate(descriptor, num_bytes)
    return descriptor


def peak_resident_bytes() -> int:
    """Return the largest resident size that this process has had; 0 where the system does not count it."""
    try:
        resource = importlib.import_module("resource")
    except ImportError:
        return 0
    peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


def save_signal() -> signal.Signals | None:
    """Return the signal that asks a run for a checkpoint, SIGUSR1; None where there is none."""
    return getattr(signal, "SIGUSR1", None)


def clean_process_context(
    preload: Sequence[str],
) -> multiprocessing.context.ForkServerContext | multiprocessing.context.SpawnContext:
    """Return how to start processes that copy no lock of this one's threads.

    From a server process that has imported `preload` once, so that each is a cheap fork of it; without forks each is a
    new interpreter, which imports them itself.
    """
    try:
        context = multiprocessing.get_context("forkserver")
    except ValueError:
        return multiprocessing.get_context("spawn")
    context.set_forkserver_preload(list(preload))
    return context
