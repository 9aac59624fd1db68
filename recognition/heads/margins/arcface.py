"""ArcFace: a margin added to the angle."""

from __future__ import annotations

from recognition.heads.margins.angles import Gradient
from recognition.heads.margins.combined import CombinedMargin


class ArcFace(CombinedMargin):
    """Additive angular margin: cos(theta + m). arXiv:1801.07698, eq. 3; `m` is in radians.

    `easy_margin`: only where the cosine is above 0.
    """

    def __init__(self, m: float = 0.5, gradient: Gradient = "straight_through", easy_margin: bool = False) -> None:
        super().__init__(1.0, m, 0.0, gradient, easy_margin)
