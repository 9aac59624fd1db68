"""ArcFace: a margin added to the angle."""

from __future__ import annotations

from recognition.heads.margins.combined import CombinedMargin
from recognition.heads.margins.protocol import Gradient


class ArcFace(CombinedMargin):
    """Additive angular margin: cos(theta + m). arXiv:1801.07698, eq. 3; `m` is in radians."""

    def __init__(self, m: float = 0.5, gradient: Gradient = "straight_through") -> None:
        super().__init__(1.0, m, 0.0, gradient)
