"""ElasticFace: a margin drawn anew for every image of every step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from recognition.draws.hashing import mix
from recognition.errors import ConfigError
from recognition.heads.margins.angles import add_to_angle
from recognition.heads.margins.protocol import Margin
from recognition.heads.margins.rows import Facts, OwnRows, Shaped, State

_DRAWS = 0xE1A5  # tells these draws from all others of the same seed


@dataclass(frozen=True)
class ElasticFace(Margin):
    """cos(theta + E) ("arc") or cos(theta) - E ("cos") with E normal(m, std) per image, from (seed, step, row).

    arXiv:2109.09416. With `plus` the batch's margins are sorted: the image farthest from its center gets the
    largest. The paper has m = 0.5 and std = 0.0125 for arc (0.0175 with plus), 0.35 and 0.0125 for cos (0.025). The
    gradient is that of the formula, as in the authors' code.
    """

    kind: Literal["arc", "cos"] = "arc"
    m: float = 0.5
    std: float = 0.0125
    plus: bool = False
    seed: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not (0 <= self.m < math.pi / 2 and 0 <= self.std < 1):
            raise ConfigError(
                f"margin: found m={self.m}, std={self.std}; expected 0 <= m < pi / 2 and 0 <= std < 1; correct it"
            )

    def bind(self, facts: Facts) -> ElasticFace:
        bound = replace(self)
        object.__setattr__(bound, "seed", facts.seed)
        return bound

    def first(self) -> State:
        return {"draws": torch.zeros((), dtype=torch.float64)}

    def observe(self, state: State, own: OwnRows) -> State:
        return {"draws": state["draws"] + 1}

    def target(self, state: State, own: OwnRows) -> Shaped:
        margin_N = self.m + self.std * normal_numbers(len(own.cosine_N), self.seed, state["draws"])
        if self.plus:
            farthest_first = own.cosine_N.argsort()
            margin_N = torch.empty_like(margin_N).index_copy_(0, farthest_first, margin_N.sort(descending=True).values)
        if self.kind == "cos":
            return Shaped(own.cosine_N - margin_N, torch.ones_like(margin_N))
        return Shaped(*add_to_angle(own.cosine_N, margin_N))


def normal_numbers(count: int, seed: int, step: Tensor) -> Tensor:
    """Return `count` numbers of the standard normal distribution [count] float64: a function of seed, step and row."""
    counters = torch.arange(count, device=step.device) + step.to(torch.int64) * (1 << 32)
    uniform = (mix(counters, seed, _DRAWS).double() + 0.5) * 2.0**-63
    numbers: Tensor = torch.special.ndtri(uniform.clamp(max=1 - 2.0**-53))
    return numbers
