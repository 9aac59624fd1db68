"""What the losses before NormFace share: embeddings of the length they have, and no scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from recognition.errors import ConfigError
from recognition.heads.margins.angles import psi
from recognition.heads.margins.protocol import Margin
from recognition.heads.margins.rows import OwnRows, Shaped, State


class RawMargin(Margin):
    """Softmax over z = |e| c, or |e| |w| c: no bound on z, so the sums keep a running maximum, and no scale."""

    @property
    def largest(self) -> float:
        return math.inf

    @property
    def uses_scale(self) -> bool:
        return False

    def fixed_scale(self, given: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Annealed(RawMargin):
    """z_t = |e| (lambda cos(theta) + psi(theta)) / (1 + lambda), psi of `m`, lambda falling with the steps.

    lambda = max(lambda_min, base (1 + gamma step)^-power), as in both papers' code: without it training with m > 1 does
    not begin. The gradient is that of the formula.
    """

    m: int = 4
    base: float = 1000.0
    gamma: float = 0.12
    power: float = 1.0
    lambda_min: float = 5.0

    def __post_init__(self) -> None:
        if not (1 <= self.m <= 8 and min(self.base, self.gamma, self.power, self.lambda_min) >= 0):
            raise ConfigError(
                f"margin: found m={self.m}, base={self.base}, gamma={self.gamma}, power={self.power}, "
                f"lambda_min={self.lambda_min}; expected 1 <= m <= 8 and the others at least 0; correct it"
            )

    def first(self) -> State:
        return {"steps": torch.zeros((), dtype=torch.float64)}

    def observe(self, state: State, own: OwnRows) -> State:
        return {"steps": state["steps"] + 1}

    def target(self, state: State, own: OwnRows) -> Shaped:
        value, slope = psi(own.cosine_N, self.m)
        annealed = (self.base * (1 + self.gamma * state["steps"]) ** -self.power).clamp_min(self.lambda_min)
        f = (annealed * own.cosine_N + value) / (1 + annealed)
        by_cosine = (annealed + slope) / (1 + annealed)
        return Shaped(f * _lengths(own), by_cosine, along=f - own.cosine_N * by_cosine)


def _lengths(own: OwnRows) -> Tensor:
    """Return |e|, times |w| where the centers are raw."""
    assert own.length_N is not None, "the head takes the lengths of raw rows"
    return own.length_N if own.center_length_N is None else own.length_N * own.center_length_N


def inner_product(own: OwnRows) -> Tensor:
    """Return e . w of the own classes."""
    return own.cosine_N * _lengths(own)
