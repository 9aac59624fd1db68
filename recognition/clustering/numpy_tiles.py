"""Compare blocks of embeddings on the CPU without torch, whose start costs more than small sets do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Protocol

import numpy as np

from recognition.clustering.unit_rows import row_lengths

Tile = tuple[range, range]
"""Rows, and the rows they are compared with."""

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Row in the one block int32 [m], row in the other int32 [m], cosine float32 [m]."""

DENSE = 16
"""One candidate in so many entries of a tile: their rows, gathered, then cost more than the whole product."""


class TileComparer(Protocol):
    """Finds the pairs above a threshold between two blocks of rows; within one block each pair once."""

    def __call__(self, tiles: Iterable[Tile]) -> Iterator[Pairs]:
        """Yield the pairs of each tile, in order."""
        ...


class NumpyTiles:
    """Candidates by a float32 product, decided in float64. Blocks come as all columns from the rows on, row by row."""

    def __init__(self, embeddings: np.ndarray, threshold: float) -> None:
        self._embeddings = embeddings
        self._threshold = threshold
        # As in the sieve, and one rounding more of either factor: six of them to float32, and one for each term.
        eps = float(np.finfo(np.float32).eps)
        self._least = np.float32(threshold - (3 + embeddings.shape[1]) * eps)
        self._lengths = row_lengths(embeddings)
        self._inverse = np.divide(1, self._lengths, out=np.zeros_like(self._lengths), where=self._lengths > 0)
        self._block = self._rough = np.empty((0, 0))

    def __call__(self, tiles: Iterable[Tile]) -> Iterator[Pairs]:
        """Yield the pairs of each tile, in order."""
        for rows, columns in tiles:
            yield self._pairs(rows, columns)

    def _pairs(self, rows: range, columns: range) -> Pairs:
        others = np.asarray(self._embeddings[columns.start : columns.stop])
        rough_others = others * self._inverse[columns.start : columns.stop, None].astype(np.float32)
        is_same = rows == columns
        if is_same:
            self._block, self._rough = others, rough_others
        passed = self._rough @ rough_others.T > self._least
        first, second = np.divmod(np.flatnonzero(passed), len(others))
        if is_same:
            upper = second > first
            first, second = first[upper], second[upper]
        shrink = self._inverse[rows.start : rows.stop][first] * self._inverse[columns.start : columns.stop][second]
        exact = self._products(others, first, second) * shrink
        kept = exact > self._threshold
        weight = np.minimum(exact[kept], 1).astype(np.float32)
        return first[kept].astype(np.int32), second[kept].astype(np.int32), weight

    def _products(self, others: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the products of the rows of pairs in float64 [m]."""
        if len(first) > len(self._block) * len(others) // DENSE:
            dense: np.ndarray = self._block.astype(np.float64) @ others.astype(np.float64).T
            return np.asarray(dense[first, second])
        # A product of one row with its partners reads half of what row by row takes; candidates come by first row.
        starts = np.searchsorted(first, np.arange(len(self._block) + 1)).tolist()
        exact = np.empty(len(first))
        wide = others.astype(np.float64)
        for row, (start, stop) in enumerate(pairwise(starts)):
            if stop > start:
                exact[start:stop] = wide[second[start:stop]] @ self._block[row].astype(np.float64)
        return exact
