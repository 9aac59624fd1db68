"""UniFace: one threshold between all pairs of the same person and all others, whatever the class."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from recognition.errors import ConfigError
from recognition.heads.margins.binary import BinaryMargin
from recognition.heads.margins.rows import OwnRows, Shaped, State


@dataclass(frozen=True)
class UniFace(BinaryMargin):
    """z_t = s (c - m) - b, z = s c - b: softplus(-z_t) + balance * sum of softplus(z).

    Zhou et al., "UniFace: Unified Cross-Entropy Loss for Deep Face Recognition", ICCV 2023; `balance` is its lambda. b
    starts at ln(10 C r), with r the share of classes that are sampled, whose negatives count as they are. The authors'
    code clips z to [-s, s], the equation does not.
    """

    m: float = 0.4
    balance: float = 1.0

    sign = -1.0

    def __post_init__(self) -> None:
        if not (0 <= self.m <= 2 and self.balance > 0):
            raise ConfigError(
                f"margin: found m={self.m}, balance={self.balance}; expected 0 <= m <= 2 and balance > 0; correct it"
            )

    def other_share(self, scale: float) -> float:
        return self.balance

    def start(self) -> float:
        return math.log(max(10.0 * self.num_classes * self.sample_rate, 1.0))

    def target(self, state: State, own: OwnRows) -> Shaped:
        return Shaped(own.cosine_N - self.m - state["b"] / self.scale, torch.ones_like(own.cosine_N))

    def negative(self, state: State, own: OwnRows | None, cosine_Nn: Tensor) -> tuple[Tensor, Tensor | None]:
        return cosine_Nn.sub_(state["b"] / self.scale), None
