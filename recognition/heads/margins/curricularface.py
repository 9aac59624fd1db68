"""CurricularFace: negatives nearer than the shaped target weigh more, the more so the further training is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from recognition.errors import ConfigError
from recognition.heads.margins.angles import add_to_angle, angle_of
from recognition.heads.margins.protocol import Margin
from recognition.heads.margins.rows import OwnRows, Shaped, State


@dataclass(frozen=True)
class CurricularFace(Margin):
    """Target cos(theta + m); a negative c above it becomes c (t + c), any other stays c.

    arXiv:2004.00288, eqs. 5-9. t, the stage of the curriculum, follows the mean target cosine of the global batch by
    the share `alpha` and starts at 0. As published it is taken as given, and so is which negatives are hard.
    """

    m: float = 0.5
    alpha: float = 0.01

    compares_negatives = True

    @property
    def largest(self) -> float:
        return 2.0  # c (t + c) at c = t = 1

    def __post_init__(self) -> None:
        if not (0 <= self.m < math.pi and 0 < self.alpha <= 1):
            raise ConfigError(
                f"margin: found m={self.m}, alpha={self.alpha}; expected 0 <= m < pi (in radians) and 0 < alpha <= 1; "
                "correct it"
            )

    def first(self) -> State:
        return {"t": torch.zeros((), dtype=torch.float64)}

    def observe(self, state: State, own: OwnRows) -> State:
        return {"t": state["t"] + self.alpha * (own.cosine_N.mean() - state["t"])}

    def target(self, state: State, own: OwnRows) -> Shaped:
        return Shaped(*add_to_angle(own.cosine_N, self.m))

    def negative(self, state: State, own: OwnRows | None, cosine_Nn: Tensor) -> tuple[Tensor, Tensor | None]:
        assert own is not None, "the head hands the own rows to a margin that compares"
        threshold = torch.cos(angle_of(own.cosine_N) + self.m).to(cosine_Nn.dtype)
        is_hard = cosine_Nn > threshold.unsqueeze(1)
        bent = cosine_Nn * (cosine_Nn + state["t"])
        slope = cosine_Nn * 2 + state["t"]
        return torch.where(is_hard, bent, cosine_Nn), torch.where(is_hard, slope, 1.0)
