"""How much slower this machine is, right now, than the one the harness's timeouts were chosen on.

A load that slows a job down must not read as a hang. What is measured is wall time: of a fixed amount of Python that
this process does beside everything else that runs.
"""

from __future__ import annotations

import threading
import time

_ROUNDS = 8_000_000
_NOMINAL_S = 0.06
"""Of the rounds on an idle core of the machine on which the timeouts were chosen."""
_FRESH_S = 10.0
_lock = threading.Lock()
_known: tuple[float, float] | None = None


def slowness(*, now: bool = False) -> float:
    """Return the factor by which timeouts grow, at least 1; measured anew `now`, or when it is some seconds old."""
    global _known
    with _lock:
        if now or _known is None or time.monotonic() - _known[0] > _FRESH_S:
            started = time.perf_counter()
            for _ in range(_ROUNDS):
                pass
            factor = (time.perf_counter() - started) / _NOMINAL_S
            _known = (time.monotonic(), max(1.0, factor))
        return _known[1]
