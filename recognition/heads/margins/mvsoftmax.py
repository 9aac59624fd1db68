"""MV-Softmax: negatives nearer than the shaped target are counted as nearer still."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recognition.errors import ConfigError
from recognition.heads.margins.angles import add_to_angle
from recognition.heads.margins.protocol import Margin
from recognition.heads.margins.rows import OwnRows, Shaped, State


@dataclass(frozen=True)
class MVSoftmax(Margin):
    """Target cos(theta + m) ("arc") or cos(theta) - m ("am"); a negative c above it becomes c + t or c + t (c + 1).

    arXiv:1912.00833; the first is its "fixed", the second its "adaptive" weight. The authors' code has
    1 + t in place of t. Which negatives are hard is taken as given. Past pi "arc" continues as ArcFace does.
    """

    kind: Literal["arc", "am"] = "am"
    m: float = 0.35
    weight: Literal["fixed", "adaptive"] = "adaptive"
    t: float = 0.2

    compares_negatives = True

    @property
    def largest(self) -> float:
        return 1 + (self.t if self.weight == "fixed" else 2 * self.t)

    def __post_init__(self) -> None:
        if not (0 <= self.m < math.pi / 2 and self.t >= 0):
            raise ConfigError(f"margin: found m={self.m}, t={self.t}; expected 0 <= m < pi / 2 and t >= 0; correct it")

    def target(self, state: State, own: OwnRows) -> Shaped:
        if self.kind == "arc":
            return Shaped(*add_to_angle(own.cosine_N, self.m))
        return Shaped(own.cosine_N - self.m, torch.ones_like(own.cosine_N))

    def negative(self, state: State, own: OwnRows | None, cosine_Nn: Tensor) -> tuple[Tensor, Tensor | None]:
        assert own is not None, "the head hands the own rows to a margin that compares"
        edge_N = self.target(state, own).logit.to(cosine_Nn.dtype)
        is_hard = cosine_Nn > edge_N.unsqueeze(1)
        if self.weight == "fixed":
            return cosine_Nn.add_(is_hard, alpha=self.t), None
        extra_Nn = (cosine_Nn + 1).mul_(is_hard)
        return cosine_Nn.add_(extra_Nn, alpha=self.t), is_hard.to(cosine_Nn.dtype).mul_(self.t).add_(1)
