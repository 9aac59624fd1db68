"""The similarity graph of a set of embeddings: exact, by blocked products on the CPU or a GPU, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from recognition.clustering.numpy_tiles import NumpyTiles, Tile, TileComparer
from recognition.clustering.unit_rows import blocks
from recognition.console import progress as show_progress
from recognition.console import size
from recognition.errors import DataError

if TYPE_CHECKING:
    import torch

DEFAULT_MEMORY = 2 * 2**30

_MAX_SIDE = 2048  # rows of a block: larger tiles leave the CPU's caches and gain nothing
_NUMPY_SIDE = 1024  # of which less is computed twice, where rows are not changed to another precision for every tile
_NUMPY_PRODUCTS = 4 * 10**11  # of one pair of numbers each: 28,000 rows of 512; beyond, torch and bfloat16 gain more
_TILE_BYTES = 56  # of one entry of a tile when every pair passes: rough and exact cosine, mask, indices, edge
_ROW_BYTES = 64  # of one number of a block: two blocks in float64, four ahead on a GPU, rough ones, rows of candidates
_EDGE_BYTES = 16  # of an edge kept: 12, and 4 while the parts are joined column by column; whispers need twice as much
_SORT_BYTES = 32  # of an edge while its block is sorted: key, order, and the columns in their new order


class SimilarityGraph(NamedTuple):
    """Undirected edges between rows: first < second, sorted by (first, second), none twice. Arrays of one length [E].

    `first` and `second` are int32, `weight` is float32: the cosine, until `reweighted`.
    """

    num_nodes: int
    first: np.ndarray
    second: np.ndarray
    weight: np.ndarray

    @property
    def num_edges(self) -> int:
        return len(self.first)

    def above(self, threshold: float) -> SimilarityGraph:
        """Return the graph of the edges heavier than `threshold`."""
        kept = self.weight > threshold
        return SimilarityGraph(self.num_nodes, self.first[kept], self.second[kept], self.weight[kept])

    def reweighted(self, weight: np.ndarray) -> SimilarityGraph:
        """Return the same edges with other weights [E]."""
        return self._replace(weight=weight.astype(np.float32))


def pairs_above(
    embeddings: np.ndarray,
    threshold: float,
    *,
    memory_bytes: int = DEFAULT_MEMORY,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> SimilarityGraph:
    """Return every pair of rows of [N, D] whose cosine is above `threshold`; N * N / 2 products.

    Rows are normalized block by block; the matrix may be a memory map and is not counted in `memory_bytes`, which
    bounds everything else. Products in the fastest precision only choose candidates; whether a pair is in, and its
    weight, come from float64, so that neither depends on blocks, threads or device. Raises DataError when the pairs
    do not fit the memory.
    """
    num_rows, dimension = embeddings.shape
    edges = _EdgeList(threshold, memory_bytes // 3)
    compare = _tile_comparer(embeddings, threshold, device)
    most = _NUMPY_SIDE if isinstance(compare, NumpyTiles) else _MAX_SIDE
    rows_of = blocks(num_rows, _block_side(dimension, memory_bytes, most))
    num_tiles = len(rows_of) * (len(rows_of) + 1) // 2
    found = zip(_tiles(rows_of), compare(_tiles(rows_of)), strict=True)
    for (rows, columns), (first, second, weight) in show_progress(
        found, total=num_tiles, unit="tile", label="pairs", quiet=not progress
    ):
        if columns == rows:
            edges.close_block(num_rows)
        edges.add(first + np.int32(rows.start), second + np.int32(columns.start), weight)
    edges.close_block(num_rows)
    return edges.graph(num_rows)


def _tiles(rows_of: list[range]) -> Iterator[Tile]:
    """Yield every two blocks of rows once: each with itself and all after it."""
    return ((rows, columns) for i, rows in enumerate(rows_of) for columns in rows_of[i:])


def _tile_comparer(embeddings: np.ndarray, threshold: float, device: torch.device | str) -> TileComparer:
    """Return what compares blocks of rows: NumPy for sets whose product takes less time than torch takes to load."""
    num_rows, dimension = embeddings.shape
    if str(device) == "cpu" and num_rows * num_rows * dimension <= _NUMPY_PRODUCTS:
        return NumpyTiles(embeddings, threshold)
    from recognition.clustering.torch_tiles import TorchTiles

    return TorchTiles(embeddings, threshold, device)


def _block_side(dimension: int, memory_bytes: int, most: int) -> int:
    """Return the rows of a block, so that a tile and its two blocks of rows fit half of the memory."""
    side = most
    while side > 16 and side * side * _TILE_BYTES + side * dimension * _ROW_BYTES > memory_bytes // 2:
        side //= 2
    return side


class _EdgeList:
    """Edges found so far: those of the block of rows under way in any order, those of earlier blocks sorted."""

    def __init__(self, threshold: float, memory_bytes: int) -> None:
        self._threshold = threshold
        self._memory_bytes = memory_bytes
        self._sorted: list[tuple[np.ndarray, ...]] = []
        self._open: list[tuple[np.ndarray, ...]] = []
        self._num_sorted = self._num_open = 0

    def add(self, first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> None:
        """Take the edges of a tile; DataError when they are too many."""
        self._num_open += len(first)
        needed = (self._num_sorted + self._num_open) * _EDGE_BYTES + self._num_open * _SORT_BYTES
        if needed > self._memory_bytes:
            raise DataError(
                f"{self._num_sorted + self._num_open:,} pairs above {self._threshold} and more to come; expected what "
                f"fits {size(self._memory_bytes)}; raise the threshold or the memory, or take nearest neighbors"
            )
        if len(first):
            self._open.append((first, second, weight))

    def close_block(self, num_nodes: int) -> None:
        """Sort the edges of a finished block of rows; those of the next have larger first rows."""
        if self._open:
            first, second, weight = map(np.concatenate, zip(*self._open))
            self._open.clear()
            order = np.argsort(first.astype(np.int64) * num_nodes + second, kind="stable")
            self._sorted.append((first[order], second[order], weight[order]))
            self._num_sorted, self._num_open = self._num_sorted + self._num_open, 0

    def graph(self, num_nodes: int) -> SimilarityGraph:
        """Join the blocks, a column at a time, letting go of each."""
        assert not self._open, "a block of rows is not closed"
        columns = [list(column) for column in zip(*self._sorted)] or [[], [], []]
        self._sorted.clear()
        joined = []
        for dtype in (np.int32, np.int32, np.float32):
            parts = columns.pop(0)
            joined.append(np.concatenate([np.empty(0, dtype), *parts]))
            del parts
        return SimilarityGraph(num_nodes, *joined)
