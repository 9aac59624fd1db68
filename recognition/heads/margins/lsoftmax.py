"""L-Softmax: the first large margin, on the angle between a raw embedding and a raw center."""

from __future__ import annotations

from dataclasses import dataclass

from recognition.errors import ConfigError
from recognition.heads.margins.raw import Annealed


@dataclass(frozen=True)
class LSoftmax(Annealed):
    """z_t = |e| |w| (lambda cos(theta) + psi(theta)) / (1 + lambda), z = e . w. arXiv:1612.02295; m is 2, 3 or 4."""

    m: int = 2
    gamma: float = 0.000025
    power: float = 35.0
    lambda_min: float = 0.0

    rows = "raw"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.m not in (2, 3, 4):
            raise ConfigError(f"margin: found m={self.m}; expected 2, 3 or 4; correct it")
