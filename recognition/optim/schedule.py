"""The learning rate as a pure function of the step: nothing to save, nothing to restore, nothing to drift."""

from __future__ import annotations

import math
from dataclasses import dataclass

from recognition.config.schema import OptimConfig


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then polynomial or cosine decay to zero at `total_steps`."""

    base_lr: float
    warmup_steps: int
    total_steps: int
    shape: str = "poly"
    power: float = 1.0

    @classmethod
    def of(cls, optim: OptimConfig, *, steps_per_epoch: int, num_epoch: int) -> Schedule:
        """Return the schedule of a run; warm-up is given in epochs and rounded to steps."""
        return cls(
            base_lr=optim.lr,
            warmup_steps=round(optim.warmup_epoch * steps_per_epoch),
            total_steps=num_epoch * steps_per_epoch,
            shape=optim.schedule,
            power=optim.poly_power,
        )

    def lr_at(self, step: int) -> float:
        """Return the rate of optimizer step `step` (the first is 0).

        Warm-up reaches the base rate at its last step and starts above zero, so that no step is without effect; with
        arcface_torch the very first step runs at the full rate before the warm-up begins.
        """
        if step < self.warmup_steps:
            return self.base_lr * (step + 1) / self.warmup_steps
        span = max(1, self.total_steps - self.warmup_steps)
        left = 1.0 - min(step - self.warmup_steps, span) / span
        if self.shape == "cosine":
            return self.base_lr * 0.5 * (1.0 - math.cos(math.pi * left))
        return float(self.base_lr * left**self.power)
