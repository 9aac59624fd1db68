"""Blocks of embeddings, normalized as they are loaded, so that the matrix itself may stay a memory map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from recognition.embedding.unit_rows import to_unit_rows_
from recognition.errors import DataError

if TYPE_CHECKING:
    import torch

_LENGTHS_AT_ONCE = 1024


def unit_block(
    embeddings: np.ndarray,
    rows: range | np.ndarray,
    device: torch.device | str = "cpu",
    dtype: type[np.floating] = np.float32,
) -> torch.Tensor:
    """Return the chosen rows as a tensor [n, D] of rows of length one on `device`."""
    import torch  # what compares small sets does without it

    return torch.from_numpy(unit_rows(embeddings, rows, dtype)).to(device)


def unit_rows(embeddings: np.ndarray, rows: range | np.ndarray, dtype: type[np.floating] = np.float32) -> np.ndarray:
    """Return the chosen rows (a range, or indices [n]) as [n, D] of length one, in `dtype`.

    A row of zeros stays, and agrees with nothing. Raises DataError on a row that is not finite.
    """
    chosen = embeddings[rows.start : rows.stop] if isinstance(rows, range) else embeddings[rows]
    values = np.array(chosen, dtype)
    lengths = to_unit_rows_(values)
    if not np.isfinite(lengths).all():
        raise _not_finite(int(np.asarray(rows)[np.flatnonzero(~np.isfinite(lengths))[0]]))
    return values


def unit_divisors(embeddings: np.ndarray, rows: range) -> np.ndarray:
    """Return what `unit_rows` divides rows by in float64, [n]: their lengths, and 1 for a row of zeros.

    Raises DataError on a row that is not finite.
    """
    lengths: np.ndarray = np.linalg.norm(embeddings[rows.start : rows.stop].astype(np.float64), axis=1)
    if not np.isfinite(lengths).all():
        raise _not_finite(rows[int(np.flatnonzero(~np.isfinite(lengths))[0])])
    return np.where(lengths > 0, lengths, 1)


def row_lengths(embeddings: np.ndarray) -> np.ndarray:
    """Return the lengths of all rows as float64 [N]; DataError on a row that is not finite."""
    lengths = np.empty(len(embeddings))
    for rows in blocks(len(embeddings), _LENGTHS_AT_ONCE):
        values = np.asarray(embeddings[rows.start : rows.stop], np.float64)
        lengths[rows.start : rows.stop] = np.sqrt(np.einsum("nd,nd->n", values, values))
    if not np.isfinite(lengths).all():
        raise _not_finite(int(np.flatnonzero(~np.isfinite(lengths))[0]))
    return lengths


def blocks(num_rows: int, size: int) -> list[range]:
    """Return range(num_rows) cut into ranges of `size`, the last one shorter."""
    return [range(start, min(num_rows, start + size)) for start in range(0, num_rows, size)]


def _not_finite(row: int) -> DataError:
    return DataError(f"embedding {row:,}: is not finite; expected numbers; embed that image again or leave it out")
