"""Hold the memory that other people's code may ask for, while it runs in this process. Torch-free."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Iterator
from pathlib import Path

_lock = threading.Lock()
_num_inside = 0
_before: tuple[int, int] = (0, 0)


@contextlib.contextmanager
def limited_memory(more_bytes: int) -> Iterator[None]:
    """Let this process map at most `more_bytes` more than now while it is inside; what asks for more gets an error.

    The limit is the system's on the address space. Of several threads inside, the first one's limit holds until the
    last has left. Where the system has no such limit, or does not say how much is mapped, nothing is held.
    """
    global _num_inside, _before
    with _lock:
        if _num_inside == 0:
            _before = _lowered(more_bytes)
        _num_inside += 1
    try:
        yield
    finally:
        with _lock:
            _num_inside -= 1
            if _num_inside == 0 and _before != (0, 0):
                resource = importlib.import_module("resource")
                resource.setrlimit(resource.RLIMIT_AS, _before)


def _lowered(more_bytes: int) -> tuple[int, int]:
    """Set the limit and return what it was; (0, 0) where there is none to set."""
    try:
        resource = importlib.import_module("resource")
        mapped = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    except (ImportError, OSError, ValueError):
        return 0, 0
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = mapped + more_bytes
    if 0 <= soft <= wanted:
        return 0, 0
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    return soft, hard
