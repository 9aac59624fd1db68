"""What SphereFace2 and UniFace share: a binary loss for every class, with one learned threshold for all of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from recognition.heads.margins.protocol import Margin
from recognition.heads.margins.rows import Facts, State


@dataclass(frozen=True)
class BinaryMargin(Margin):
    """own_share softplus(-z_t) + other_share * sum of softplus(z), with z = s h(cos) + sign b.

    `negative` puts b into the tile. The head moves b, which all ranks hold alike, in the step that moves the centers
    and by the same rule; its gradient needs the sum of sigmoid(z), which travels with that of softplus.
    """

    sign: ClassVar[float] = 1.0
    """d z / d b."""
    counts_all_classes: ClassVar[bool] = False
    """Whether sampled negatives are counted (C - 1) / (n - 1) times, to stand for all others."""
    num_classes: int = field(default=0, init=False)
    sample_rate: float = field(default=1.0, init=False)
    scale: float = field(default=1.0, init=False)

    sums = "softplus"

    @property
    def bends_negatives(self) -> bool:
        """They all are, by b."""
        return True

    def bind(self, facts: Facts) -> Margin:
        bound = replace(self)
        for name in ("num_classes", "sample_rate", "scale"):
            object.__setattr__(bound, name, getattr(facts, name))
        return bound

    def own_share(self, scale: float) -> float:
        """Return what the own class's loss is multiplied by."""
        return 1.0

    def other_share(self, scale: float) -> float:
        """Return what the other classes' losses are multiplied by."""
        return 1.0

    def start(self) -> float:
        """Return the first b."""
        raise NotImplementedError

    def first(self) -> State:
        rest = ("b_momentum", "b_square", "b_steps")  # for any optimizer
        return {"b": torch.tensor(self.start(), dtype=torch.float64)} | {
            name: torch.zeros((), dtype=torch.float64) for name in rest
        }
