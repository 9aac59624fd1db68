"""The learning rate as a pure function of the step, and with `plateau` of the scores so far.

Nothing of a schedule is saved but what `plateau` has seen, three numbers.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass

from recognition.config.schema import OptimConfig


@dataclass(frozen=True)
class Plateau:
    """What the schedule `plateau` has seen: the best mean score, the validations since then, and the drops so far."""

    best: float | None = None
    waited: int = 0
    drops: int = 0

    def after(self, score: float, patience: int) -> Plateau:
        """Return what it has seen after one more validation: a drop when more than `patience` in a row were no better.

        As torch's ReduceLROnPlateau with a threshold of 0; a score that is no number is no better.
        """
        if self.best is None or score > self.best:
            return Plateau(score, 0, self.drops)
        if self.waited < patience:
            return Plateau(self.best, self.waited + 1, self.drops)
        return Plateau(self.best, 0, self.drops + 1)


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then a decay to zero at `total_steps` (poly, cosine) or in drops (multistep, plateau)."""

    base_lr: float
    warmup_steps: int
    total_steps: int
    shape: str = "poly"
    power: float = 1.0
    milestones: tuple[int, ...] = ()
    """Of multistep: the steps from which on the rate is another `factor` lower."""
    factor: float = 0.1

    @classmethod
    def of(cls, optim: OptimConfig, *, steps_per_epoch: int, num_epoch: int) -> Schedule:
        """Return the schedule of a run; warm-up and milestones are given in epochs and rounded to steps."""
        return cls(
            base_lr=optim.lr,
            warmup_steps=round(optim.warmup_epoch * steps_per_epoch),
            total_steps=num_epoch * steps_per_epoch,
            shape=optim.schedule,
            power=optim.poly_power,
            milestones=tuple(round(epoch * steps_per_epoch) for epoch in optim.milestones),
            factor=optim.drop_factor,
        )

    def lr_at(self, step: int, drops: int = 0) -> float:
        """Return the rate of optimizer step `step` (the first is 0); `drops` are those that `plateau` has made.

        Warm-up reaches the base rate at its last step and starts above zero, so that no step is without effect; with
        arcface_torch the very first step runs at the full rate before the warm-up begins.
        """
        if step < self.warmup_steps:
            return self.base_lr * (step + 1) / self.warmup_steps
        if self.shape == "multistep":
            return self.base_lr * self.factor ** bisect.bisect_right(self.milestones, step)
        if self.shape == "plateau":
            return self.base_lr * self.factor**drops
        span = max(1, self.total_steps - self.warmup_steps)
        left = 1.0 - min(step - self.warmup_steps, span) / span
        if self.shape == "cosine":
            return self.base_lr * 0.5 * (1.0 - math.cos(math.pi * left))
        return float(self.base_lr * left**self.power)
