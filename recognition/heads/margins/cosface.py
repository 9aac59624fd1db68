"""CosFace: a margin taken from the cosine."""

from __future__ import annotations

from recognition.heads.margins.combined import CombinedMargin


class CosFace(CombinedMargin):
    """Additive cosine margin: cos(theta) - m. arXiv:1801.09414. Its derivative is 1, exactly."""

    def __init__(self, m: float = 0.4) -> None:
        super().__init__(1.0, 0.0, m)
