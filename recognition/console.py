"""Logging and progress, the same in every command: results on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, TypeVar

T = TypeVar("T")


def setup_logging(*, quiet: bool = False, debug: bool = False) -> None:
    """Send log records to stderr; `quiet` keeps warnings and errors, `debug` shows everything."""
    level = logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO
    logging.basicConfig(level=level, format="%(message)s", stream=ForgivingStream(sys.stderr), force=True)


class ForgivingStream:
    """A text stream whose disk may be full or whose reader may be gone: what it does not take is dropped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what can be written."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: closed
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, if that can be done."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def progress(items: Iterable[T], *, total: int | None, unit: str, label: str, quiet: bool = False) -> Iterator[T]:
    """Yield `items` while showing count, rate and ETA on stderr; shown after one second, refreshed twice a second."""
    if quiet:
        yield from items
        return
    from tqdm import tqdm  # 0.03 s, which what runs quietly need not take

    # On a pipe tqdm would print a line per refresh; ten seconds apart keeps a log readable.
    interval = 0.5 if sys.stderr.isatty() else 10.0
    yield from tqdm(
        items,
        total=total,
        unit=unit,
        desc=label,
        file=ForgivingStream(sys.stderr),
        mininterval=interval,
        delay=1.0,
        dynamic_ncols=True,
        smoothing=0.1,
    )


class Stopwatch:
    """Wall time since construction."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start


def duration(seconds: float) -> str:
    """Spell seconds the way people read them: 8.4s, 12m41s, 3h02m, 2d04h."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def rate(number: float, seconds: float) -> str:
    """Spell how many a second that were: 6,806/s, 3.4/s, 0.04/s."""
    each = number / max(seconds, 1e-9)
    # From where whole numbers begin: 9.96 would be spelled 10.0.
    digits = 0 if each >= 9.95 else 1 if each >= 0.095 else 2
    return f"{each:,.{digits}f}/s"


def count(number: int, noun: str) -> str:
    """Spell a number with its noun: 1 image, 5,179,510 images, 2 identities, 3 classes."""
    if number != 1:
        noun = noun[:-1] + "ies" if noun.endswith("y") else noun + ("es" if noun.endswith("s") else "s")
    return f"{number:,} {noun}"


def size(num_bytes: float) -> str:
    """Spell bytes in binary units: 512 B, 3.4 MiB, 138.2 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(num_bytes) < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"
