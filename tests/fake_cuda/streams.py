"""Streams of a device that computes nothing: which one is current, and which waited for which."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


class FakeStream:
    """In the place of torch.cuda.Stream."""

    def __init__(self, device: Any = None, name: str = "side") -> None:
        self.device, self.name = torch.device("cuda", 0) if device is None else device, name

    def wait_stream(self, other: FakeStream) -> None:
        """Note it."""
        _WAITS.append(f"{self.name} after {other.name}")


_WAITS: list[str] = []
_CURRENT = [FakeStream(name="default")]


@contextlib.contextmanager
def enter(stream: FakeStream) -> Iterator[None]:
    """In the place of torch.cuda.stream."""
    _CURRENT.append(stream)
    try:
        yield
    finally:
        _CURRENT.pop()


def current(device: Any = None) -> FakeStream:
    """In the place of torch.cuda.current_stream."""
    return _CURRENT[-1]


def taken_waits() -> list[str]:
    """Return the waits since the last call, as "side after default"."""
    found = list(_WAITS)
    _WAITS.clear()
    return found
