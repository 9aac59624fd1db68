"""Nearest neighbors by a faiss inverted-file index, for sets too large to compare every pair, with measured recall."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch

from recognition.clustering.graph import DEFAULT_MEMORY, SimilarityGraph
from recognition.clustering.neighbors import NeighborLists, nearest_of_block
from recognition.clustering.unit_rows import blocks, unit_rows
from recognition.console import progress as show_progress
from recognition.console import size
from recognition.errors import ConfigError, DataError

Storage = Literal["float32", "float16", "int8"]

STORAGES: tuple[Storage, ...] = get_args(Storage)

_BYTES = {"float32": 4, "float16": 2, "int8": 1}
_ROWS = 8192  # rows added or searched at once
_TRAIN_PER_LIST = 48  # faiss warns below 39


@dataclass(frozen=True)
class ApproximateGraph:
    """A graph of approximate neighbors and `recall`, the share of the true ones that it holds, by a random sample."""

    graph: SimilarityGraph
    recall: float
    num_sampled: int


def approximate_neighbors(
    embeddings: np.ndarray,
    k: int,
    *,
    threshold: float = -1.0,
    num_lists: int | None = None,
    num_probes: int = 16,
    storage: Storage = "float16",
    num_sampled: int = 1000,
    seed: int = 0,
    memory_bytes: int = DEFAULT_MEMORY,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> ApproximateGraph:
    """Return what `nearest_neighbors` returns but for the neighbors the index misses, and its measured recall.

    The rows are cut into `num_lists` groups (default 4 sqrt(N)) and each is compared with those of the `num_probes`
    groups nearest to it, stored in `storage`: weights err by 2e-4 for float16 and by 8e-3 for int8. The recall is
    measured on `num_sampled` random rows, on `device`: how many of their exact k nearest above the threshold are edges.
    `memory_bytes` bounds everything but the matrix; DataError when index and neighbors do not fit it. Needs faiss.
    """
    faiss = import_faiss()
    num_rows = len(embeddings)
    num_lists = num_lists or max(1, min(int(4 * math.sqrt(num_rows)), num_rows // _TRAIN_PER_LIST))
    index_bytes = _index_bytes(embeddings.shape, num_lists, storage, memory_bytes)
    generator = np.random.default_rng(seed)
    index = _build(faiss, embeddings, num_lists, storage, generator, progress=progress)
    index.nprobe = min(num_probes, num_lists)
    lists = NeighborLists(num_rows, threshold, memory_bytes - index_bytes)
    for rows, cosines, ids in _search(index, embeddings, k, progress=progress):
        lists.add(rows, cosines, ids)
    del index
    graph = lists.graph()
    sample = np.sort(generator.choice(num_rows, min(num_sampled, num_rows), replace=False))
    recall = graph_recall(graph, embeddings, k, sample, threshold=threshold, device=device)
    return ApproximateGraph(graph, recall, len(sample))


def graph_recall(
    graph: SimilarityGraph,
    embeddings: np.ndarray,
    k: int,
    sample: np.ndarray,
    *,
    threshold: float = -1.0,
    device: torch.device | str = "cpu",
) -> float:
    """Return the share of the exact k nearest neighbors above the threshold of the rows `sample` [n] that are edges.

    1 when the sample has no such neighbors.
    """
    num_true = num_found = 0
    keys = graph.first.astype(np.int64) * graph.num_nodes + graph.second
    for part in blocks(len(sample), 256):
        rows = sample[part.start : part.stop]
        cosines, ids = nearest_of_block(embeddings, rows, k, device=device)
        kept = (cosines > threshold) & (ids >= 0)
        first, second = np.broadcast_to(rows[:, None], ids.shape)[kept], ids[kept]
        wanted = np.minimum(first, second) * graph.num_nodes + np.maximum(first, second)
        places = np.searchsorted(keys, wanted)
        num_found += int((keys[np.minimum(places, len(keys) - 1)] == wanted).sum()) if len(keys) else 0
        num_true += len(wanted)
    return num_found / num_true if num_true else 1.0


def import_faiss() -> Any:
    """Return the faiss module; ConfigError says how to get it."""
    logging.getLogger("faiss").setLevel(logging.WARNING)  # it tells of every library it tries to load
    try:
        import faiss
    except ImportError as err:
        raise ConfigError(
            "approximate neighbors: faiss is not installed; expected the package faiss-cpu; "
            "pip install 'arcshard[cluster]', or take exact neighbors"
        ) from err
    return faiss


def _index_bytes(shape: tuple[int, ...], num_lists: int, storage: Storage, memory_bytes: int) -> int:
    """Return the bytes of the index: numbers and ids of every row; DataError when they exceed half of the memory.

    So do the rows the groups are learned from, which are held twice before there is an index.
    """
    num_bytes = shape[0] * (shape[1] * _BYTES[storage] + 8)
    training_bytes = 2 * min(shape[0], _TRAIN_PER_LIST * num_lists) * shape[1] * 4
    needed = max(num_bytes, training_bytes)
    if needed > memory_bytes // 2:
        raise DataError(
            f"an index of {shape[0]:,} rows of {shape[1]} {storage} numbers: takes {size(needed)}; expected at most "
            f"half of the {size(memory_bytes)} allowed; allow more memory or store smaller numbers"
        )
    return num_bytes


def _build(
    faiss: Any,
    embeddings: np.ndarray,
    num_lists: int,
    storage: Storage,
    generator: np.random.Generator,
    *,
    progress: bool,
) -> Any:
    """Return an index of all rows, its groups learned from a random sample of them."""
    kind = {"float32": "Flat", "float16": "SQfp16", "int8": "SQ8"}[storage]
    index = faiss.index_factory(embeddings.shape[1], f"IVF{num_lists},{kind}", faiss.METRIC_INNER_PRODUCT)
    if storage == "int8":
        # Numbers outside the range of the training sample are cut off, which is seen to cost 0.09 of a cosine.
        index.sq.rangestat_arg = 0.25
    index.cp.niter = 10
    index.cp.seed = 1234  # faiss's own; the sample is what `seed` draws
    wanted = min(len(embeddings), _TRAIN_PER_LIST * num_lists)
    chosen = np.sort(generator.choice(len(embeddings), wanted, replace=False))
    index.train(unit_rows(embeddings, chosen))
    parts = blocks(len(embeddings), _ROWS)
    for rows in show_progress(parts, total=len(parts), unit="block", label="index", quiet=not progress):
        index.add(unit_rows(embeddings, rows))
    return index


def _search(
    index: Any, embeddings: np.ndarray, k: int, *, progress: bool
) -> Iterator[tuple[range, np.ndarray, np.ndarray]]:
    """Yield rows, cosines [n, k + 1] and ids [n, k + 1] of their nearest, the row itself usually among them."""
    parts = blocks(len(embeddings), _ROWS)
    for rows in show_progress(parts, total=len(parts), unit="block", label="search", quiet=not progress):
        cosines, ids = index.search(unit_rows(embeddings, rows), k + 1)
        yield rows, np.minimum(cosines, 1), ids
