"""SphereFace: an angle multiplied."""

from __future__ import annotations

from recognition.heads.margins.combined import CombinedMargin
from recognition.heads.margins.protocol import Gradient


class SphereFace(CombinedMargin):
    """Multiplicative angular margin: cos(m * theta), continued linearly past pi. arXiv:1704.08063."""

    def __init__(self, m: float = 1.35, gradient: Gradient = "straight_through") -> None:
        super().__init__(m, 0.0, 0.0, gradient)
