"""Embeddings at length one. Torch-free."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def to_unit_rows_(rows: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    """Scale the rows [n, D] to length one in place and return the lengths [n] that they had.

    A row of zeros stays, and agrees with nothing; one that is not finite stays too, and its length says so.
    """
    lengths: npt.NDArray[np.floating[Any]] = np.linalg.norm(rows, axis=1)
    rows /= np.where(np.isfinite(lengths) & (lengths > 0), lengths, 1)[:, None]
    return lengths
