"""Circle loss with class labels: the farther a cosine is from its goal, the more it is pushed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recognition.errors import ConfigError
from recognition.heads.margins.protocol import Margin
from recognition.heads.margins.rows import OwnRows, Shaped, State


@dataclass(frozen=True)
class CircleLoss(Margin):
    """Own class [1 + m - c]+ (c - 1 + m), others [c + m]+ (c - m); the head's scale is the paper's gamma, 256.

    arXiv:2002.10857, in the form for class labels. As published the weights in [ ]+ are taken as
    given; with `gradient` "exact" they are differentiated too.
    """

    m: float = 0.25
    gradient: Literal["detached", "exact"] = "detached"

    @property
    def bends_negatives(self) -> bool:
        """They all are."""
        return True

    @property
    def largest(self) -> float:
        return max(1 - self.m**2, self.m**2)

    def __post_init__(self) -> None:
        if not 0 <= self.m < 1:
            raise ConfigError(f"margin: found m={self.m}; expected 0 <= m < 1; correct it")

    def target(self, state: State, own: OwnRows) -> Shaped:
        weight = (1 + self.m - own.cosine_N).clamp_min(0)
        distance = own.cosine_N - 1 + self.m
        slope = weight if self.gradient == "detached" else (weight - distance) * (weight > 0)
        return Shaped(weight * distance, slope)

    def negative(self, state: State, own: OwnRows | None, cosine_Nn: Tensor) -> tuple[Tensor, Tensor | None]:
        weight_Nn = (cosine_Nn + self.m).clamp_min_(0)
        distance_Nn = cosine_Nn.sub_(self.m)
        bent_Nn = weight_Nn * distance_Nn
        if self.gradient == "detached":
            return bent_Nn, weight_Nn
        return bent_Nn, torch.where(weight_Nn > 0, weight_Nn + distance_Nn, 0.0)
