"""SphereFace2: is it this person or not, asked of every class apart; no softmax."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recognition.errors import ConfigError
from recognition.heads.margins.binary import BinaryMargin
from recognition.heads.margins.rows import OwnRows, Shaped, State


@dataclass(frozen=True)
class SphereFace2(BinaryMargin):
    """z_t = r (g(c) - m) + b, z = r (g(c) + m) + b, g(c) = 2 ((c + 1) / 2)^t - 1; r is the head's scale.

    arXiv:2108.01513, form C: l / r softplus(-z_t) + (1 - l) / r sum of softplus(z), with l = `balance`, its lambda.
    As published g and m are taken as given (the derivative by the cosine is 1); `gradient` "exact" differentiates g. b
    starts where the own class and all others pull alike at cosines of 0, as in the authors' code. Sampled negatives are
    counted (C - 1) / (n - 1) times.
    """

    m: float = 0.4
    t: float = 3.0
    balance: float = 0.7
    gradient: Literal["detached", "exact"] = "detached"

    counts_all_classes = True

    def __post_init__(self) -> None:
        if not (0 <= self.m <= 2 and self.t >= 1 and 0 < self.balance < 1):
            raise ConfigError(
                f"margin: found m={self.m}, t={self.t}, balance={self.balance}; expected 0 <= m <= 2, t >= 1 and "
                "0 < balance < 1; correct it"
            )

    def own_share(self, scale: float) -> float:
        return self.balance / scale

    def other_share(self, scale: float) -> float:
        return (1 - self.balance) / scale

    def start(self) -> float:
        ratio = self.balance / ((1 - self.balance) * max(1, self.num_classes - 1))
        middle = 2 * 0.5**self.t - 1
        own, other = self.scale * (middle - self.m), self.scale * (middle + self.m)
        root = math.sqrt((1 - ratio) ** 2 + 4 * ratio * math.exp(own - other))
        return float(math.log(2 * ratio) - other - math.log(1 - ratio + root))

    def target(self, state: State, own: OwnRows) -> Shaped:
        half = (own.cosine_N.clamp(-1, 1) + 1) / 2
        logit = 2 * half**self.t - 1 - self.m + state["b"] / self.scale
        return Shaped(logit, self.t * half ** (self.t - 1) if self.gradient == "exact" else torch.ones_like(half))

    def negative(self, state: State, own: OwnRows | None, cosine_Nn: Tensor) -> tuple[Tensor, Tensor | None]:
        half_Nn = cosine_Nn.clamp_(-1, 1).add_(1).div_(2)
        power_Nn = half_Nn**2 if self.t == 3 else half_Nn ** (self.t - 1)  # a whole power is 20 times as fast
        bent_Nn = half_Nn.mul_(power_Nn).mul_(2).add_(state["b"] / self.scale + (self.m - 1))
        return bent_Nn, power_Nn.mul_(self.t) if self.gradient == "exact" else None
