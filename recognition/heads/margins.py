"""Margins: functions of the cosine between an embedding and its own class center.

Each maps cosine [N] -> (logit [N] before the scale s, derivative of that logit with respect to the cosine [N]).
The derivative is an option. "straight_through" takes it as 1 whatever the margin: what arcface_torch trains with, and
where the published results of ArcFace come from. "exact" is the derivative of the printed formula.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from recognition.errors import ConfigError

Gradient = Literal["straight_through", "exact"]

# d cos(theta + m) / d cos(theta) = sin(theta + m) / sin(theta) has a pole at theta = 0. The gradient that reaches an
# embedding carries another sin(theta), so bounding the ratio below a thousandth of a radian changes no step that
# could be seen.
_SMALLEST_SINE = 1e-3


class Margin(Protocol):
    """cosine [N] -> (logit [N] before the scale, derivative [N])."""

    def __call__(self, cosine: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class CombinedMargin:
    """The three margins together: f(cos theta) = cos(m1 * theta + m2) - m3.

    ArcFace, arXiv:1801.07698, eq. 4. Where m1 * theta + m2 exceeds pi the formula would rise again; there it
    continues as cos(theta) - d - m3, decreasing in theta, with derivative 1. For m1 = 1, d = m2 * sin(m2) as in
    ArcFace's first implementation; for other m1, d joins the two parts without a step.
    """

    m1: float = 1.0
    m2: float = 0.5
    m3: float = 0.0
    gradient: Gradient = "straight_through"

    def __post_init__(self) -> None:
        if not (self.m1 > 0 and 0 <= self.m2 < math.pi):
            raise ConfigError(
                f"head.margins: found m1={self.m1}, m2={self.m2}; expected m1 > 0 and 0 <= m2 < pi (m2 is in radians)"
            )

    def __call__(self, cosine: Tensor) -> tuple[Tensor, Tensor]:
        if self.m1 == 1 and self.m2 == 0:
            return cosine - self.m3, torch.ones_like(cosine)
        theta = torch.acos(cosine.clamp(-1, 1))
        angle = self.m1 * theta + self.m2
        beyond = angle > math.pi
        logit = torch.where(beyond, cosine - self._drop(), torch.cos(angle)) - self.m3
        if self.gradient == "straight_through":
            return logit, torch.ones_like(cosine)
        ratio = self.m1 * torch.sin(angle) / torch.sin(theta).clamp_min(_SMALLEST_SINE)
        return logit, torch.where(beyond, torch.ones_like(ratio), ratio)

    def _drop(self) -> float:
        if self.m1 == 1:
            return self.m2 * math.sin(self.m2)
        return 1 + math.cos((math.pi - self.m2) / self.m1)


class ArcFace(CombinedMargin):
    """Additive angular margin: cos(theta + m). arXiv:1801.07698; `m` is in radians."""

    def __init__(self, m: float = 0.5, gradient: Gradient = "straight_through") -> None:
        super().__init__(1.0, m, 0.0, gradient)


class CosFace(CombinedMargin):
    """Additive cosine margin: cos(theta) - m. arXiv:1801.09414. Its derivative is 1, exactly."""

    def __init__(self, m: float = 0.4) -> None:
        super().__init__(1.0, 0.0, m)


class SphereFace(CombinedMargin):
    """Multiplicative angular margin: cos(m * theta). arXiv:1704.08063."""

    def __init__(self, m: float = 1.35, gradient: Gradient = "straight_through") -> None:
        super().__init__(m, 0.0, 0.0, gradient)


class NoMargin(CombinedMargin):
    """The cosine as it is: NormFace, arXiv:1704.06369."""

    def __init__(self) -> None:
        super().__init__(1.0, 0.0, 0.0)


def make_margin(m1: float, m2: float, m3: float, gradient: Gradient = "straight_through") -> Margin:
    """Return the margin of the config's `head.margins`, named after the paper where it is one of the four."""
    if m1 == 1 and m2 == 0:
        return CosFace(m3) if m3 else NoMargin()
    if m1 == 1 and m3 == 0:
        return ArcFace(m2, gradient)
    if m2 == 0 and m3 == 0:
        return SphereFace(m1, gradient)
    return CombinedMargin(m1, m2, m3, gradient)
