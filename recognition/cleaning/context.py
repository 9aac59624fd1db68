"""What every cleaning step is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from recognition.cleaning.pictures import Pictures

EmbedSet = Callable[[Path, int], np.ndarray]


@dataclass(frozen=True)
class Context:
    """The pictures, the thresholds in cosine by step, and what the flags of clean_faces.py ask for.

    `spread` is the distance from a threshold at which nothing is in doubt. `embed_set` returns the embeddings [m, D]
    of the set that is the i-th of `against`.
    """

    pictures: Pictures
    thresholds: Mapping[str, float]
    spread: float
    seed: int = 0
    split: int | None = None  # minority clusters of so many pictures become identities of their own
    least_pictures: int = 2  # of an identity that stays
    against: Sequence[Path] = ()
    against_names: Sequence[Path] = ()
    embed_set: EmbedSet | None = field(default=None, repr=False)
    device: str = "cpu"
    quiet: bool = True
