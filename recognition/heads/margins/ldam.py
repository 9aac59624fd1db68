"""LDAM: a margin for each class, the larger the fewer images it has."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from recognition.errors import ConfigError
from recognition.heads.margins.protocol import Margin
from recognition.heads.margins.rows import Facts, OwnRows, Shaped, State


@dataclass(frozen=True)
class Ldam(Margin):
    """cos(theta) - m (n_min / n)^(1/4), with n the images of the class and n_min those of the smallest.

    arXiv:1906.07413, on unit rows, with the largest margin `m` (there 0.5, at a scale of 30).
    """

    m: float = 0.5
    margin_C: Tensor | None = field(default=None, init=False, compare=False, repr=False)

    wants_class_sizes = True

    def __post_init__(self) -> None:
        if not 0 <= self.m <= 2:
            raise ConfigError(f"margin: found m={self.m}; expected 0 <= m <= 2; correct it")

    def bind(self, facts: Facts) -> Ldam:
        if facts.class_sizes is None:
            raise ConfigError(
                "margin: found no sizes of the classes, which 'ldam' follows; expected the images of each class; pass "
                "by_class=ByClass(sizes) to the head"
            )
        sizes_C = facts.class_sizes.clamp_min(1).double()
        bound = replace(self)
        object.__setattr__(bound, "margin_C", self.m * (sizes_C.min() / sizes_C) ** 0.25)
        return bound

    def target(self, state: State, own: OwnRows) -> Shaped:
        assert self.margin_C is not None, "a head binds its margin"
        margin_N = self.margin_C.to(own.label_N.device)[own.label_N]
        return Shaped(own.cosine_N - margin_N, torch.ones_like(own.cosine_N))
