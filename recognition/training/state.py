"""The state of a run: step, counts, best results."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from recognition.errors import CheckpointError


@dataclass
class TrainState:
    """What a run has done so far; everything else follows from it and the config."""

    step: int = 0
    """Optimizer steps taken, refused ones included; the schedule and the order of images follow from it."""
    images_seen: int = 0
    refused_steps: int = 0
    refused_in_a_row: int = 0
    validated_step: int = -1
    """The step of the last validation, -1 before the first."""
    accuracy: float | None = None
    """The mean of the validators' scores then."""
    best: dict[str, float] = field(default_factory=dict)
    """The best score per validation set."""
    plateau_best: float | None = None
    plateau_waited: int = 0
    plateau_drops: int = 0
    """With optim.schedule plateau: the fields of `Plateau`."""
    unreported_steps: int = 0
    unreported_sums: dict[str, str] = field(default_factory=dict)
    """Of the values of the steps since the last report; as text, since JSON has no NaN."""

    @classmethod
    def of(cls, values: Any, place: str) -> TrainState:
        """Return the state that a checkpoint's JSON holds; CheckpointError when it is none."""
        if not isinstance(values, Mapping):
            raise CheckpointError(f"{place}: 'state' is missing from its meta; expected the state of the run")
        for name, value in values.items():
            if name not in _FIELDS or not _FIELDS[name](value):
                raise CheckpointError(f"{place}: state {name!r:.40} is {value!r:.40}; expected that of a run")
        return cls(**values)


def is_count(value: Any) -> bool:
    """Tell whether a value of a checkpoint is a whole number that a run can reach."""
    return type(value) is int and 0 <= value < 1 << 62


def is_finite(value: Any) -> bool:
    """Tell whether a value of a checkpoint is a number."""
    return type(value) in (int, float) and math.isfinite(value)


def _is_number_as_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and isinstance(float(value), float)
    except ValueError:
        return False


def _all(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Mapping) and all(holds(entry) for entry in value.values())


_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "step": is_count,
    "images_seen": is_count,
    "refused_steps": is_count,
    "refused_in_a_row": is_count,
    "validated_step": lambda value: value == -1 or is_count(value),
    "accuracy": lambda value: value is None or is_finite(value),
    "best": _all(is_finite),
    "plateau_best": lambda value: value is None or is_finite(value),
    "plateau_waited": is_count,
    "plateau_drops": is_count,
    "unreported_steps": is_count,
    "unreported_sums": _all(_is_number_as_text),
}
