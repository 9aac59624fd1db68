"""Where a run stands."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field


@dataclass
class TrainState:
    """What a run has done so far; everything else follows from it and the config."""

    step: int = 0
    """Optimizer steps taken, refused ones included; the schedule and the order of images follow from it."""
    images_seen: int = 0
    refused_steps: int = 0
    refused_in_a_row: int = 0
    best: dict[str, float] = field(default_factory=dict)
    """The best accuracy per validation set."""

    def as_dict(self) -> dict:
        """Return a JSON-ready copy."""
        return asdict(self)
