"""The settings of a cleaning: which steps, in which order, and the thresholds that the data decides. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recognition.cleaning.decisions import STEPS
from recognition.errors import ConfigError

if TYPE_CHECKING:
    from recognition.embedding.input_scale import AskedScale

THRESHOLD_STEPS = tuple(step for step in STEPS if step != "small")


@dataclass(frozen=True)
class Machine:
    """How the work is done, without an effect on what comes out."""

    device: str = "cpu"
    batch_size: int = 64
    workers: int = 1
    quiet: bool = True


@dataclass(frozen=True)
class CleanSettings:
    """Everything that decides the result, beside the pictures. `given` holds the thresholds set by flags."""

    steps: tuple[str, ...] = ()
    given: Mapping[str, float] = field(default_factory=dict)
    split: int | None = None  # minority clusters of so many pictures become identities of their own
    least_pictures: int = 2  # of an identity that stays
    against: tuple[Path, ...] = ()
    against_names: tuple[Path, ...] = ()
    model: str | None = None
    network: str | None = None
    asked: AskedScale | None = None
    seed: int = 0
    about: Mapping[str, Any] = field(default_factory=dict)  # the folders and the embeddings' fingerprint

    def as_json(self) -> dict[str, Any]:
        """Return plain values that are equal when the result has to be."""
        return {
            "steps": list(self.steps),
            "given": dict(sorted(self.given.items())),
            "split": self.split,
            "min_pictures": self.least_pictures,
            "against": [_stamp(path) for path in self.against],
            "against_names": [_stamp(path) for path in self.against_names],
            "model": self.model,
            "network": self.network,
            "pixels": self.asked.as_json() if self.asked else None,
            "seed": self.seed,
            **self.about,
        }

    @property
    def needs_calibration(self) -> bool:
        """Whether a step has no threshold yet."""
        return any(step in THRESHOLD_STEPS and step not in self.given for step in self.steps)


def choose_steps(text: str | None, *, has_tests: bool) -> tuple[str, ...]:
    """Return the steps a comma-separated list names, in its order; all that apply when there is none."""
    if text is None:
        return tuple(step for step in STEPS if step != "tests" or has_tests)
    steps = tuple(step.strip() for step in text.split(",") if step.strip())
    for step in steps:
        if step not in STEPS:
            raise ConfigError(f"--steps: {step!r}; expected some of {', '.join(STEPS)}; choose among them")
    if not steps:
        raise ConfigError(f"--steps: names none; expected some of {', '.join(STEPS)}; choose among them")
    if len(set(steps)) < len(steps):
        twice = next(step for step in steps if steps.count(step) > 1)
        raise ConfigError(f"--steps: {twice} occurs twice; expected each step once; leave one out")
    if has_tests != ("tests" in steps):
        missing = "tests is not among --steps" if has_tests else "neither --against nor --against-names is given"
        raise ConfigError(f"--steps: {missing}; expected both or neither; add what is missing")
    return steps


def check_given(given: Mapping[str, float], steps: Sequence[str]) -> None:
    """Raise ConfigError on a threshold that is no cosine, or that belongs to a step that does not run."""
    for step, threshold in given.items():
        if step not in steps and not (step == "far" and "within" in steps):
            raise ConfigError(f"--{step} {threshold}: the step {step} does not run; expected it in --steps; add it")
        if not -1 < threshold <= 1:
            raise ConfigError(f"--{step} {threshold}: expected a cosine in (-1, 1]; choose such a number")


def _stamp(path: Path) -> list[Any]:
    """Return a path and, of a file, what tells it from another at the same place."""
    path = path.resolve()
    stat = path.stat() if path.is_file() else None
    return [str(path), *([] if stat is None else [stat.st_size, stat.st_mtime_ns])]
