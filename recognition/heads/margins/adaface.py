"""AdaFace: a margin that follows the embedding's length, taken as the quality of its image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recognition.errors import ConfigError
from recognition.heads.margins.angles import SMALLEST_SINE, angle_of
from recognition.heads.margins.protocol import Margin
from recognition.heads.margins.rows import OwnRows, Shaped, State

_EPS = 1e-3  # of the authors' code: around the spread, and around the ends of the angle
_SHORTEST, _LONGEST = 1e-3, 100.0  # lengths beyond these count as these, there too


@dataclass(frozen=True)
class AdaFace(Margin):
    """f = cos(theta + g_angle) - g_add, with q = clip(h (|e| - mean) / std, -1, 1), g_angle = -m q, g_add = m q + m.

    arXiv:2204.00964, eqs. 13-15. `mean` and `std` of the lengths follow those of the global batch by the share `alpha`
    and start at 20 and 100, as in the authors' code. The length is taken as given, as published; with `length_gradient`
    "exact" it gets the gradient of the formula (mean and std still taken as given).
    """

    m: float = 0.4
    h: float = 0.333
    alpha: float = 0.01
    length_gradient: Literal["none", "exact"] = "none"

    wants_lengths = True

    def __post_init__(self) -> None:
        if not (0 <= self.m < math.pi / 2 and self.h > 0 and 0 < self.alpha <= 1):
            raise ConfigError(
                f"margin: found m={self.m}, h={self.h}, alpha={self.alpha}; expected 0 <= m < pi / 2 (in radians), "
                "h > 0 and 0 < alpha <= 1; correct it"
            )

    def first(self) -> State:
        return {"mean": torch.tensor(20.0, dtype=torch.float64), "std": torch.tensor(100.0, dtype=torch.float64)}

    def observe(self, state: State, own: OwnRows) -> State:
        length = self._length(own)
        found = {"mean": length.mean(), "std": length.std() if len(length) > 1 else state["std"]}
        return {name: state[name] + self.alpha * (found[name] - state[name]) for name in found}

    def target(self, state: State, own: OwnRows) -> Shaped:
        length = self._length(own)
        steepness = self.h / (state["std"] + _EPS)
        quality = ((length - state["mean"]) * steepness).clamp(-1, 1)
        theta = angle_of(own.cosine_N)
        wanted = theta - self.m * quality
        angle = wanted.clamp(_EPS, math.pi - _EPS)
        is_free = angle == wanted
        slope = torch.sin(angle) / torch.sin(theta).clamp_min(SMALLEST_SINE) * is_free
        by_length = None
        if self.length_gradient == "exact":
            follows = (quality.abs() < 1) & (own.length_N == length)
            by_length = self.m * (torch.sin(angle) * is_free - 1) * steepness * follows
        return Shaped(torch.cos(angle) - self.m * quality - self.m, slope, by_length)

    def _length(self, own: OwnRows) -> Tensor:
        assert own.length_N is not None, "the head hands lengths to a margin that wants them"
        return own.length_N.clamp(_SHORTEST, _LONGEST)
