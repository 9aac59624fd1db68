"""Where a run stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
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
    """The mean over the validation sets then."""
    best: dict[str, float] = field(default_factory=dict)
    """The best accuracy per validation set."""

    def as_dict(self) -> dict:
        """Return a JSON-ready copy."""
        return asdict(self)

    @classmethod
    def of(cls, values: Any, place: str) -> TrainState:
        """Return the state that a checkpoint's JSON holds; CheckpointError when it is none."""
        names = {entry.name for entry in fields(cls)}
        holds = (
            isinstance(values, Mapping)
            and set(values) <= names
            and all(
                type(value) in (int, float)
                for name, value in values.items()
                if name != "best" and not (name == "accuracy" and value is None)
            )
        )
        if not holds or not all(type(value) in (int, float) for value in dict(values.get("best", {})).values()):
            raise CheckpointError(f"{place}: 'state' is {values!r:.60}; expected the numbers of a run's state")
        return cls(**values)
