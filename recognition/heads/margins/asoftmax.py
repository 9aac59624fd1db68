"""A-Softmax: SphereFace as it was published, with the length that the embedding has."""

from __future__ import annotations

from dataclasses import dataclass

from recognition.heads.margins.raw import Annealed


@dataclass(frozen=True)
class ASoftmax(Annealed):
    """z_t = |e| (lambda cos(theta) + psi(theta)) / (1 + lambda), z = |e| cos(theta). arXiv:1704.08063; m is 4."""

    rows = "length"
