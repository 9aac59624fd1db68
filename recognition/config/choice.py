"""A value that names an entry of a registry and its settings: `head.margin: {name: arcface, m: 0.5}`.

What names and settings there are is known where the registry is; the config keeps their places for its messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Choice(dict[str, Any]):
    """{"name": ..., setting: ...}; `places` says where each of them was set, and "" where all of it was."""

    def __init__(self, values: Mapping[str, Any], places: Mapping[str, str] | None = None) -> None:
        super().__init__(values)
        self.places = dict(places or {})

    @property
    def name(self) -> str:
        """The entry's name."""
        return str(self["name"])

    @property
    def settings(self) -> dict[str, Any]:
        """What is set of it."""
        return {key: value for key, value in self.items() if key != "name"}

    def where(self, setting: str = "") -> str:
        """Return the opening of a message about a setting: its file and line, where it has one."""
        place = self.places.get(setting, self.places.get("", ""))
        return f"{place}: " if place else ""
