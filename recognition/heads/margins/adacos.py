"""AdaCos: no margin but a scale, computed from the number of classes, or followed from batch to batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from recognition.heads.margins.angles import angle_of
from recognition.heads.margins.protocol import Margin
from recognition.heads.margins.rows import Facts, OwnRows, Shaped, State

_LARGEST = 64.0
_SMALLEST = 1.0  # two classes would have a scale of 0


@dataclass(frozen=True)
class AdaCos(Margin):
    """cos(theta) with a scale of its own: sqrt(2) ln(C - 1) ("fixed"), or log(B) / cos(min(pi/4, median theta)).

    arXiv:1905.00292. B is the mean over the batch of the sum of exp(z) over the other classes, divided
    by the share of classes that were sampled; the median is of the own angles. The paper's B and median are of the
    batch itself, which costs one more pass over the centers ("this_step"); with "last_step" they are of the batch
    before. The scale starts at that of "fixed" and stays between 1 and 64.
    """

    scale: Literal["fixed", "last_step", "this_step"] = "fixed"
    num_classes: int = field(default=0, init=False)
    sample_rate: float = field(default=1.0, init=False)

    @property
    def uses_scale(self) -> bool:
        return False

    @property
    def moves_scale(self) -> bool:
        """Whether it does."""
        return self.scale != "fixed"

    @property
    def looks_twice(self) -> bool:
        """Whether the batch's own statistics are wanted before its loss."""
        return self.scale == "this_step"

    def bind(self, facts: Facts) -> AdaCos:
        bound = replace(self)
        object.__setattr__(bound, "num_classes", facts.num_classes)
        object.__setattr__(bound, "sample_rate", facts.sample_rate)
        return bound

    def fixed_scale(self, given: float) -> float:
        return _LARGEST if self.scale != "fixed" else self._start()

    def scale_of(self, state: State) -> Tensor:
        return state["s"]

    def first(self) -> State:
        return {} if self.scale == "fixed" else {"s": torch.tensor(self._start(), dtype=torch.float64)}

    def observe(self, state: State, own: OwnRows) -> State:
        if self.scale == "fixed":
            return state
        assert own.lse_negatives_N is not None, "the sums of the negatives are known when AdaCos looks"
        lse_N = own.lse_negatives_N
        largest = lse_N.max()
        log_mean = (lse_N - largest).exp().mean().log() + largest - math.log(self.sample_rate)
        middle = angle_of(own.cosine_N).median().clamp(max=math.pi / 4)
        return {"s": (log_mean / torch.cos(middle)).clamp(_SMALLEST, _LARGEST)}

    def target(self, state: State, own: OwnRows) -> Shaped:
        return Shaped(own.cosine_N, torch.ones_like(own.cosine_N))

    def _start(self) -> float:
        return min(_LARGEST, max(_SMALLEST, math.sqrt(2) * math.log(max(2, self.num_classes - 1))))
