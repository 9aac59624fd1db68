"""SphereFace: an angle multiplied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recognition.errors import ConfigError
from recognition.heads.margins.angles import Gradient, psi
from recognition.heads.margins.combined import CombinedMargin
from recognition.heads.margins.protocol import Margin
from recognition.heads.margins.rows import OwnRows, Shaped, State


@dataclass(frozen=True)
class SphereFace(Margin):
    """Multiplicative angular margin: cos(m * theta). arXiv:1704.08063, on unit rows.

    Past m theta = pi it continues linearly in the cosine, or with `continuation` "psi" as the paper does:
    (-1)^k cos(m theta) - 2k.
    """

    m: float = 1.35
    gradient: Gradient = "straight_through"
    continuation: Literal["linear", "psi"] = "linear"

    def __post_init__(self) -> None:
        if not 1 <= self.m <= 8:
            raise ConfigError(f"margin: found m={self.m}; expected 1 <= m <= 8; correct it")

    def target(self, state: State, own: OwnRows) -> Shaped:
        return Shaped(*self.shape(own.cosine_N))

    def shape(self, cosine: Tensor) -> tuple[Tensor, Tensor]:
        """Return (f, f') of cosines of any shape."""
        if self.continuation == "linear":
            return CombinedMargin(self.m, 0.0, 0.0, self.gradient).shape(cosine)
        logit, slope = psi(cosine, self.m)
        return logit, slope if self.gradient == "exact" else torch.ones_like(cosine)
