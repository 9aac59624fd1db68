"""The loss scale of fp16 runs, kept and moved on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ScalerState:
    """What a checkpoint holds of the loss scale."""

    scale: float
    good_steps: int


class LossScaler:
    """One scale for the whole run: it halves after an overflow and doubles after `growth_interval` good steps.

    There is a single found_inf, agreed over ranks by the caller, so that no two ranks ever hold different scales.
    With `enabled` false the scale is 1 and stays there.
    """

    floor = 1.0
    """A scale below one would hide a divergence; at the floor an overflow is a refused step like any other."""

    def __init__(self, device: torch.device, *, enabled: bool, initial: float = 65536.0, growth_interval: int = 2000):
        self.enabled = enabled
        self.growth_interval = growth_interval
        self.scale = torch.tensor(initial if enabled else 1.0, dtype=torch.float32, device=device)
        self.good_steps = torch.zeros((), dtype=torch.int32, device=device)

    def update_(self, found_inf: torch.Tensor) -> None:
        """Move the scale after a step; `found_inf` is 0-dim, 1 where the step overflowed."""
        if not self.enabled:
            return
        overflow = found_inf > 0
        self.good_steps = torch.where(overflow, torch.zeros_like(self.good_steps), self.good_steps + 1)
        grown = self.good_steps >= self.growth_interval
        factor = torch.where(overflow, 0.5, torch.where(grown, 2.0, 1.0))
        self.scale.mul_(factor).clamp_(min=self.floor)
        self.good_steps = torch.where(grown, torch.zeros_like(self.good_steps), self.good_steps)

    def state(self) -> ScalerState:
        """Return what a checkpoint needs."""
        return ScalerState(float(self.scale), int(self.good_steps))

    def load_state(self, state: ScalerState) -> None:
        """Continue where `state` left off."""
        if self.enabled:
            self.scale.fill_(state.scale)
            self.good_steps.fill_(state.good_steps)
