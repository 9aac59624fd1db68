"""SphereFace-R: SphereFace revived, with the margin on the own class, or as its counterpart on all others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recognition.errors import ConfigError
from recognition.heads.margins.angles import SMALLEST_SINE, Gradient, angle_of
from recognition.heads.margins.protocol import Margin
from recognition.heads.margins.rows import OwnRows, Shaped, State


@dataclass(frozen=True)
class SphereFaceR(Margin):
    """v1: the own class cos(min(m theta, pi)). v2: the own class cos(theta), all others cos(theta / m).

    arXiv:2109.05565, with hard feature normalization. As published ("characteristic gradient detachment")
    the margin is taken as given: the derivative by the cosine is 1. `gradient` "exact" is that of the formula; in v2 it
    has a pole at theta = pi, where it is bounded by 1000 sin(pi / m) / m.
    """

    version: Literal["v1", "v2"] = "v1"
    m: float = 1.5
    gradient: Gradient = "straight_through"

    def __post_init__(self) -> None:
        if not 1 <= self.m <= 8:
            raise ConfigError(f"margin: found m={self.m}; expected 1 <= m <= 8; correct it")

    @property
    def bends_negatives(self) -> bool:
        """They are in v2."""
        return self.version == "v2"

    def target(self, state: State, own: OwnRows) -> Shaped:
        ones = torch.ones_like(own.cosine_N)
        if self.version == "v2":
            return Shaped(own.cosine_N, ones)
        theta = angle_of(own.cosine_N)
        angle = self.m * theta
        logit = torch.cos(angle.clamp(max=math.pi))
        if self.gradient == "straight_through":
            return Shaped(logit, ones)
        ratio = self.m * torch.sin(angle) / torch.sin(theta).clamp_min(SMALLEST_SINE)
        return Shaped(logit, torch.where(angle > math.pi, 0.0, ratio))

    def negative(self, state: State, own: OwnRows | None, cosine_Nn: Tensor) -> tuple[Tensor, Tensor | None]:
        angle_Nn = cosine_Nn.clamp_(-1, 1).acos_()
        part_Nn = angle_Nn / self.m
        if self.gradient == "straight_through":
            return part_Nn.cos_(), None
        slope_Nn = torch.sin(part_Nn).div_(angle_Nn.sin_().clamp_min_(SMALLEST_SINE).mul_(self.m))
        return part_Nn.cos_(), slope_Nn
