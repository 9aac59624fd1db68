"""No margin: the normalized softmax."""

from __future__ import annotations

from recognition.heads.margins.combined import CombinedMargin


class NoMargin(CombinedMargin):
    """The cosine as it is: NormFace, arXiv:1704.06369."""

    def __init__(self) -> None:
        super().__init__(1.0, 0.0, 0.0)
