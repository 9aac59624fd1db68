"""Softmax as a classifier's last layer has it: raw embeddings, raw centers, a bias for each class."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from recognition.heads.margins.raw import RawMargin, inner_product
from recognition.heads.margins.rows import OwnRows, Shaped, State


@dataclass(frozen=True)
class Softmax(RawMargin):
    """z = e . w + b, as DeepFace and DeepID trained with; NormFace, arXiv:1704.06369, says what it lacks.

    The bias is one more number of every center, which starts at 0 and is moved, stored and sampled with it.
    """

    bias: bool = True

    rows = "raw"

    @property
    def has_bias(self) -> bool:
        """As the setting says."""
        return self.bias

    def target(self, state: State, own: OwnRows) -> Shaped:
        return Shaped(inner_product(own), torch.ones_like(own.cosine_N))
