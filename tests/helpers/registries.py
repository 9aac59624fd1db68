"""A member that a test adds to a registry, and takes out again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from recognition.registry import Registry


@contextlib.contextmanager
def entered(registry: Registry[Any], name: str, place: str) -> Iterator[None]:
    """Have `name` stand for `place` ("module:attribute") in a registry while the block runs."""
    registry.register_at(name, place)
    try:
        yield
    finally:
        registry._places.pop(name)
        registry._entries.pop(name, None)
