"""The stages of a run: `stages: [{until_epoch: 2, sample_rate: 0.1, scale: [16, 64]}, {margin: {m2: 0.5}}]`.

A stage is a mapping. Which margins have which settings is known where they are, and the number of steps where the data
are; here a stage has its types and places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from recognition.errors import ConfigError
from recognition.registry import nearest

_MOST_EPOCHS = 1e6
KEYS = ("until_epoch", "until_step", "sample_rate", "scale", "margin", "lr_factor")


@dataclass(frozen=True)
class Ramp:
    """A number that goes from `first` to `last` over the steps of a stage, or stays where both are one."""

    first: float
    last: float

    def at(self, share: float) -> float:
        """Return the value after `share` of the stage, which is 0 at its first step and 1 at the first after it."""
        return self.first if self.first == self.last else self.first + (self.last - self.first) * share


class Stage(dict[str, Any]):
    """What a config says of a stage, as plain values; `place` is where."""

    def __init__(self, values: Mapping[str, Any], place: str = "") -> None:
        super().__init__(values)
        self.place = place

    @property
    def where(self) -> str:
        """The opening of a message about it."""
        return f"{self.place}: " if self.place else ""

    @property
    def sample_rate(self) -> float | None:
        """Share of the classes; None: the config's."""
        rate: float | None = self.get("sample_rate")
        return rate

    @property
    def scale(self) -> Ramp | None:
        """The head's scale; None: the config's."""
        return None if "scale" not in self else _ramp(self["scale"])

    @property
    def lr_factor(self) -> Ramp:
        """What the learning rate is multiplied by."""
        return _ramp(self.get("lr_factor", 1.0))

    @property
    def margin(self) -> dict[str, Ramp]:
        """Settings of the margin, by name."""
        return {name: _ramp(value) for name, value in self.get("margin", {}).items()}

    def __str__(self) -> str:
        return " ".join(f"{name}={_spelled(value)}" for name, value in self.items())


def read_stage(values: Mapping[str, Any], places: Mapping[str, str], place: str) -> Stage:
    """Return a stage of untyped but parsed values; ConfigError with the place of what is wrong.

    A value is a number, or a list of two where it is a ramp; of `margin` a mapping of names to these.
    """
    for name, value in values.items():
        opening = f"{places[name]}: stages: {name}: "
        if name not in KEYS:
            raise ConfigError(f"{places[name]}: stages: {name}: unknown key of a stage{nearest(name, KEYS)}")
        if name == "margin":
            if not isinstance(value, dict) or not value:
                raise ConfigError(f"{opening}found {value!r:.60}, expected settings, as {{m: [0, 0.5]}}; correct it")
            for setting, found in value.items():
                _require(found, _is_ramp, f"{opening}{setting}: ", "a number, or two of a ramp such as [0, 0.5]")
        else:
            holds, expected = _RULES[name]
            _require(value, holds, opening, expected)
    if "until_epoch" in values and "until_step" in values:
        raise ConfigError(f"{place}: stages: found until_epoch and until_step, expected one of them; remove one")
    return Stage(values, place)


def _require(value: Any, holds: Callable[[Any], bool], opening: str, expected: str) -> None:
    if not holds(value):
        raise ConfigError(f"{opening}found {value!r:.60}, expected {expected}; correct it")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_ramp(value: Any) -> bool:
    return _is_number(value) or (isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)))


def _is_positive_ramp(value: Any) -> bool:
    return _is_ramp(value) and all(end > 0 for end in (value if isinstance(value, list) else [value]))


_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "until_epoch": (
        lambda value: _is_number(value) and 0 < value <= _MOST_EPOCHS,
        "a number above 0, at most a million",
    ),
    "until_step": (lambda value: type(value) is int and 0 < value < 1 << 62, "a whole number above 0"),
    "sample_rate": (lambda value: _is_number(value) and 0 <= value <= 1, "a number between 0 and 1"),
    "scale": (_is_positive_ramp, "a number above 0, or two of a ramp such as [16, 64]"),
    "lr_factor": (_is_positive_ramp, "a number above 0, or two of a ramp such as [0.1, 1]"),
}


def _ramp(value: Any) -> Ramp:
    first, last = value if isinstance(value, (list, tuple)) else (value, value)
    return Ramp(float(first), float(last))


def _spelled(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + " ".join(f"{name}={_spelled(inner)}" for name, inner in value.items()) + "}"
    return f"{value[0]:g}..{value[1]:g}" if isinstance(value, list) else f"{value:g}"
