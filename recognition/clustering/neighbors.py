"""k nearest neighbors as a similarity graph, and the joining of directed neighbor lists that all ways share."""

from __future__ import annotations

import numpy as np
import torch

from recognition.clustering.graph import DEFAULT_MEMORY, SimilarityGraph
from recognition.clustering.unit_rows import blocks, unit_block
from recognition.console import progress as show_progress
from recognition.console import size
from recognition.errors import DataError

_SIDE = 1024
_WIDTH = 4096
_DIRECTED_BYTES = 48  # of a directed neighbor while all are joined: key, order, weight, and the columns


def nearest_neighbors(
    embeddings: np.ndarray,
    k: int,
    *,
    threshold: float = -1.0,
    memory_bytes: int = DEFAULT_MEMORY,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> SimilarityGraph:
    """Return the pairs of which one is among the `k` nearest rows of the other, with a cosine above `threshold`.

    Exact, by N * N products. Of equal cosines at rank k any may be taken. Memory as in `pairs_above`; DataError when
    the neighbors do not fit it.
    """
    num_rows = len(embeddings)
    lists = NeighborLists(num_rows, threshold, memory_bytes // 2)
    rows_of = blocks(num_rows, _block_side(embeddings.shape[1], k, memory_bytes))
    for rows in show_progress(rows_of, total=len(rows_of), unit="block", label="neighbors", quiet=not progress):
        lists.add(rows, *nearest_of_block(embeddings, np.arange(rows.start, rows.stop), k, device=device))
    return lists.graph()


def nearest_of_block(
    embeddings: np.ndarray, rows: np.ndarray, k: int, *, device: torch.device | str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosines [n, k] and indices [n, k] of the nearest other rows of each of `rows` [n], nearest first.

    Where the set has fewer than k others, the rest is -inf and -1.
    """
    queries = unit_block(embeddings, rows, device)
    return _merge_tiles(embeddings, queries, torch.from_numpy(rows).to(device), k)


def _merge_tiles(
    embeddings: np.ndarray, queries: torch.Tensor, rows: torch.Tensor, k: int
) -> tuple[np.ndarray, np.ndarray]:
    best = torch.full((len(queries), k), -torch.inf, device=queries.device)
    ids = torch.full((len(queries), k), -1, dtype=torch.int64, device=queries.device)
    tile = torch.empty(len(queries) * min(_WIDTH, len(embeddings)), device=queries.device)  # one for all blocks
    for columns in blocks(len(embeddings), _WIDTH):
        others = unit_block(embeddings, columns, queries.device)
        cosines = tile[: len(queries) * len(columns)].view(len(queries), len(columns))
        torch.mm(queries, others.T, out=cosines)
        own = torch.nonzero((rows >= columns.start) & (rows < columns.stop))[:, 0]
        cosines[own, rows[own] - columns.start] = -torch.inf
        top, where = cosines.topk(min(k, len(columns)), dim=1)
        merged, ids_merged = torch.cat([best, top], 1), torch.cat([ids, where + columns.start], 1)
        best, where = merged.topk(k, dim=1)
        ids = ids_merged.gather(1, where)
    ids[best == -torch.inf] = -1
    return best.clamp_(max=1).cpu().numpy(), ids.cpu().numpy()


def _block_side(dimension: int, k: int, memory_bytes: int) -> int:
    """Return the rows searched at once: a tile, its rows, their columns and two candidate lists in half the memory."""
    side = _SIDE
    fixed = 2 * _WIDTH * dimension * 4
    while side > 16 and fixed + side * (2 * dimension * 4 + _WIDTH * 5 + 4 * k * 12) > memory_bytes // 2:
        side //= 2
    return side


class NeighborLists:
    """Directed neighbors, added block by block and joined to undirected edges at the end."""

    def __init__(self, num_nodes: int, threshold: float, memory_bytes: int) -> None:
        self._num_nodes = num_nodes
        self._threshold = threshold
        self._memory_bytes = memory_bytes
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        self._num_directed = 0

    def add(self, rows: range, cosines: np.ndarray, ids: np.ndarray) -> None:
        """Take the neighbors [n, k] of consecutive rows; -1 is none, and a row itself is passed over."""
        own = np.arange(rows.start, rows.stop)[:, None]
        kept = (cosines > self._threshold) & (ids >= 0) & (ids != own)
        first, second = np.broadcast_to(own, ids.shape)[kept], ids[kept]
        keys = np.minimum(first, second) * self._num_nodes + np.maximum(first, second)
        self._parts.append((keys, cosines[kept].astype(np.float32)))
        self._num_directed += len(keys)
        if self._num_directed * _DIRECTED_BYTES > self._memory_bytes:
            raise DataError(
                f"{self._num_directed:,} neighbors after {rows.stop:,} of {self._num_nodes:,} rows; expected what "
                f"fits {size(self._memory_bytes)}; take fewer neighbors, a higher threshold or more memory"
            )

    def graph(self) -> SimilarityGraph:
        """Return the union of both directions, each pair once."""
        parts = list(zip(*self._parts)) or [(), ()]
        self._parts.clear()
        keys = np.concatenate([np.empty(0, np.int64), *parts[0]])
        weights = np.concatenate([np.empty(0, np.float32), *parts[1]])
        del parts
        order = np.argsort(keys, kind="stable")
        keys, weights = keys[order], weights[order]
        is_new = np.ones(len(keys), bool)
        is_new[1:] = keys[1:] != keys[:-1]
        keys = keys[is_new]
        first, second = keys // max(1, self._num_nodes), keys % max(1, self._num_nodes)
        return SimilarityGraph(self._num_nodes, first.astype(np.int32), second.astype(np.int32), weights[is_new])
