"""The three margins of the field's configs together, and the base of the papers that take one of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from recognition.errors import ConfigError
from recognition.heads.margins.angles import SMALLEST_SINE, Gradient, angle_of
from recognition.heads.margins.protocol import Margin
from recognition.heads.margins.rows import OwnRows, Shaped, State


@dataclass(frozen=True)
class CombinedMargin(Margin):
    """The three margins together: f(cos theta) = cos(m1 * theta + m2) - m3.

    ArcFace, arXiv:1801.07698, eq. 4. Where m1 * theta + m2 exceeds pi the formula would rise again; there it
    continues as cos(theta) - d - m3, decreasing in theta, with derivative 1. For m1 = 1, d = m2 * sin(m2) as in
    ArcFace's first implementation; for other m1, d joins the two parts without a step.

    `gradient` is "straight_through" (f' = 1 whatever the margin: what arcface_torch trains with, and where the
    published results of ArcFace come from) or "exact", the derivative of the printed formula. `easy_margin`: only where
    the cosine is above 0, as in ArcFace's first implementation; elsewhere cos(theta) - m3.
    """

    m1: float = 1.0
    m2: float = 0.5
    m3: float = 0.0
    gradient: Gradient = "straight_through"
    easy_margin: bool = False

    def __post_init__(self) -> None:
        if self.easy_margin and self.m1 * math.pi / 2 + self.m2 > math.pi:
            raise ConfigError(
                f"margin: found easy_margin with m1={self.m1}, m2={self.m2}; expected m1 pi / 2 + m2 <= pi, so that "
                "the logit falls with the angle; correct it"
            )
        if not (self.m1 > 0 and 0 <= self.m2 < math.pi and 0 <= self.m3 <= 2):
            raise ConfigError(
                f"margin: found m1={self.m1}, m2={self.m2}, m3={self.m3}; expected m1 > 0, 0 <= m2 < pi (in radians) "
                "and 0 <= m3 <= 2; correct it"
            )

    def target(self, state: State, own: OwnRows) -> Shaped:
        """Return f and f' of the target cosines."""
        return Shaped(*self.shape(own.cosine_N))

    def shape(self, cosine: Tensor) -> tuple[Tensor, Tensor]:
        """Return (f, f') of cosines of any shape."""
        if self.m1 == 1 and self.m2 == 0:
            return cosine - self.m3, torch.ones_like(cosine)
        theta = angle_of(cosine)
        angle = self.m1 * theta + self.m2
        beyond = cosine <= 0 if self.easy_margin else angle > math.pi
        drop = 0.0 if self.easy_margin else self._drop()
        logit = torch.where(beyond, cosine - drop, torch.cos(angle)) - self.m3
        if self.gradient == "straight_through":
            return logit, torch.ones_like(cosine)
        ratio = self.m1 * torch.sin(angle) / torch.sin(theta).clamp_min(SMALLEST_SINE)
        return logit, torch.where(beyond, torch.ones_like(ratio), ratio)

    def _drop(self) -> float:
        if self.m1 == 1:
            return self.m2 * math.sin(self.m2)
        return 1 + math.cos((math.pi - self.m2) / self.m1)
