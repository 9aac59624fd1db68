"""Blocks of embeddings, normalized as they are loaded, so that the matrix itself may stay a memory map."""

from __future__ import annotations

import numpy as np
import torch

from recognition.embedding.unit_rows import to_unit_rows_
from recognition.errors import DataError


def unit_block(
    embeddings: np.ndarray,
    rows: range | np.ndarray,
    device: torch.device | str = "cpu",
    dtype: type[np.floating] = np.float32,
) -> torch.Tensor:
    """Return the chosen rows as a tensor [n, D] of rows of length one on `device`."""
    return torch.from_numpy(unit_rows(embeddings, rows, dtype)).to(device)


def unit_rows(embeddings: np.ndarray, rows: range | np.ndarray, dtype: type[np.floating] = np.float32) -> np.ndarray:
    """Return the chosen rows (a range, or indices [n]) as [n, D] of length one, in `dtype`.

    A row of zeros stays, and agrees with nothing. Raises DataError on a row that is not finite.
    """
    chosen = embeddings[rows.start : rows.stop] if isinstance(rows, range) else embeddings[rows]
    values = np.array(chosen, dtype)
    lengths = to_unit_rows_(values)
    if not np.isfinite(lengths).all():
        row = np.asarray(rows)[np.flatnonzero(~np.isfinite(lengths))[0]]
        raise DataError(f"embedding {row:,}: is not finite; expected numbers; embed that image again or leave it out")
    return values


def blocks(num_rows: int, size: int) -> list[range]:
    """Return range(num_rows) cut into ranges of `size`, the last one shorter."""
    return [range(start, min(num_rows, start + size)) for start in range(0, num_rows, size)]
