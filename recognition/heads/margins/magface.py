"""MagFace: a margin that grows with the embedding's length, and a loss that makes easy images long."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from recognition.errors import ConfigError
from recognition.heads.margins.angles import add_to_angle
from recognition.heads.margins.protocol import Margin
from recognition.heads.margins.rows import OwnRows, Shaped, State


@dataclass(frozen=True)
class MagFace(Margin):
    """cos(theta + m(a)), a = |e| within [l_a, u_a], m rising linearly from l_m to u_m; plus lambda_g (1/a + a/u_a^2).

    arXiv:2103.06627. The length gets the gradient of both, none beyond its bounds.
    `easy_margin`, as in the authors' code: no margin where the cosine is at most 0; false is the paper's formula,
    continued past pi as ArcFace is. `lambda_g` is 35 in the paper, with a scale of 64.
    """

    l_a: float = 10.0
    u_a: float = 110.0
    l_m: float = 0.45
    u_m: float = 0.8
    lambda_g: float = 35.0
    easy_margin: bool = True

    wants_lengths = True

    def __post_init__(self) -> None:
        if not (0 < self.l_a < self.u_a and 0 <= self.l_m <= self.u_m < math.pi / 2 and self.lambda_g >= 0):
            raise ConfigError(
                f"margin: found l_a={self.l_a}, u_a={self.u_a}, l_m={self.l_m}, u_m={self.u_m}, "
                f"lambda_g={self.lambda_g}; expected 0 < l_a < u_a, 0 <= l_m <= u_m < pi / 2 (in radians) and "
                "lambda_g >= 0; correct it"
            )

    def target(self, state: State, own: OwnRows) -> Shaped:
        assert own.length_N is not None, "the head hands lengths to a margin that wants them"
        length = own.length_N.clamp(self.l_a, self.u_a)
        follows = own.length_N == length
        steepness = (self.u_m - self.l_m) / (self.u_a - self.l_a)
        margin = self.l_m + steepness * (length - self.l_a)
        logit, slope = add_to_angle(own.cosine_N, margin)
        angle = torch.acos(own.cosine_N.clamp(-1, 1)) + margin
        by_margin = torch.where(angle > math.pi, -margin.sin() - margin * margin.cos(), -torch.sin(angle))
        if self.easy_margin:
            is_far = own.cosine_N <= 0
            logit, slope = torch.where(is_far, own.cosine_N, logit), torch.where(is_far, 1.0, slope)
            by_margin = by_margin.masked_fill(is_far, 0.0)
        return Shaped(
            logit,
            slope,
            by_length=by_margin * steepness * follows,
            term=self.lambda_g * (1 / length + length / self.u_a**2),
            term_by_length=self.lambda_g * (1 / self.u_a**2 - 1 / length**2) * follows,
        )
