"""Names in YAML and on the command line -> what they stand for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from recognition.errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping of names to things that names the nearest entry when it lacks one. It keeps the order of entry."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}
        self._places: dict[str, str] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that stores the decorated thing under `name`."""

        def store(entry: T) -> T:
            self._enter(name)
            self._entries[name] = entry
            return entry

        return store

    def register_at(self, name: str, place: str) -> None:
        """Store under `name` what `place`, such as "recognition.detection.mtcnn:build", is: imported at its first use.

        So a list of names costs no import of what they stand for.
        """
        self._enter(name, place)

    def _enter(self, name: str, place: str = "") -> None:
        assert name not in self._places, f"{self.kind} {name!r} is registered twice"
        self._places[name] = place

    def __getitem__(self, name: str) -> T:
        if name not in self._places:
            raise ConfigError(f"unknown {self.kind} {name!r}{nearest(name, self._places)}")
        if name not in self._entries:
            module, _, attribute = self._places[name].partition(":")
            entry: Any = getattr(importlib.import_module(module), attribute)
            self._entries[name] = entry
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, name: str) -> bool:
        return name in self._places


def nearest(name: str, candidates: Iterable[object]) -> str:
    """Return "; did you mean 'x'?" for the closest of `candidates`, or the list of all when none is close."""
    names = sorted(str(candidate) for candidate in candidates)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; expected one of {', '.join(names)}"
