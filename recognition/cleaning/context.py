"""What every cleaning step is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from recognition.cleaning.calibration import Calibration
from recognition.cleaning.pictures import Pictures
from recognition.cleaning.settings import CleanSettings, Machine

EmbedSet = Callable[[Path, int], np.ndarray]


@dataclass(frozen=True)
class HeldBack:
    """What came of pictures that were put with other people for a trial: how many were `put`, and how many of them
    cleaning `kept` there; how many of these with little doubt; and of how many pictures `dropped` in the trial with
    little doubt how many were `lost`: in their place, and only dropped because of the others."""

    put: int
    kept: int
    kept_surely: int
    dropped: int
    lost: int


@dataclass(frozen=True)
class Context:
    """The pictures, the thresholds in cosine by step, and what the flags of clean_faces.py ask for.

    `spread` is the distance from a threshold at which nothing is in doubt. `embed_set` returns the embeddings [m, D]
    of the set that is the i-th of `settings.against`.
    """

    pictures: Pictures
    thresholds: Mapping[str, float]
    spread: float
    settings: CleanSettings = field(default_factory=CleanSettings)
    machine: Machine = field(default_factory=Machine)
    embed_set: EmbedSet | None = field(default=None, repr=False)
    calibration: Calibration | None = field(default=None, repr=False)
    """Where the thresholds come from; None where all were given and the set is too small."""
    held_back: HeldBack | None = None
