"""Chinese whispers on a similarity graph, by the rules of dlib's `chinese_whispers`: the same visits, the same result.

Biemann, "Chinese whispers", 2006. Every node starts with a label of its own; nodes are visited at random, and a visited
node takes the label with the greatest sum of edge weights among its neighbors, the lowest label of equals.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from recognition.clustering.graph import SimilarityGraph
from recognition.console import count
from recognition.console import progress as show_progress

logger = logging.getLogger(__name__)

DEFAULT_ITERATIONS = 100

_VISITS = 10**5  # visits drawn at once: 5 MB of numbers
_PLAIN_EDGES = 200_000  # beyond this the interpreted loops take minutes


def chinese_whispers(
    graph: SimilarityGraph,
    *,
    iterations: int = DEFAULT_ITERATIONS,
    seed: int = 0,
    weighted: bool = True,
    self_weight: float = 0.0,
    order: np.ndarray | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Return the cluster of each node, int32 [N], clusters numbered in the order of their first node.

    `iterations` times N visits, drawn as dlib's generator draws them (`seed` 0: as `dlib.chinese_whispers`), or the
    nodes of `order` one after the other instead. A visit whose node's neighbors kept their labels since its last one
    would change nothing and is skipped, and when no other is left the rest is: neither alters the result.
    `self_weight` is each node's vote for its own label: 1 in `dlib.chinese_whispers_clustering`, unweighted, and 0 in
    `dlib.chinese_whispers`. The loops are compiled by numba where it is installed.
    """
    num_nodes = graph.num_nodes
    offsets, neighbors, weights = adjacency(graph, weighted=weighted, self_weight=self_weight)
    if len(neighbors) > _PLAIN_EDGES and _jit() is None:
        logger.warning("%s without numba takes long; pip install numba", count(graph.num_edges, "edge"))
    labels = np.arange(num_nodes, dtype=np.int32)
    pending = offsets[1:] > offsets[:-1]
    scores = np.zeros(num_nodes, np.float64)
    num_pending = int(pending.sum())
    visit = _compiled(_visit)
    chunks = _visits(num_nodes, iterations, seed) if order is None else iter([np.asarray(order, np.int64)])
    for chunk in show_progress(chunks, total=None, unit="100k visits", label="whispers", quiet=not progress):
        num_pending = visit(chunk, offsets, neighbors, weights, labels, pending, scores, num_pending)
        if num_pending == 0:
            break
    return number_by_appearance(labels)


def adjacency(
    graph: SimilarityGraph, *, weighted: bool = True, self_weight: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return offsets int64 [N + 1], neighbors int32 [2 E] and weights float32 [2 E]; a node's stand by index.

    With `self_weight` every node is a neighbor of itself, too.
    """
    degrees = np.bincount(graph.first, minlength=graph.num_nodes)
    degrees += np.bincount(graph.second, minlength=graph.num_nodes) + (self_weight != 0)
    offsets = np.zeros(graph.num_nodes + 1, np.int64)
    np.cumsum(degrees, out=offsets[1:])
    neighbors = np.empty(offsets[-1], np.int32)
    weights = np.ones(offsets[-1], np.float32)
    edge_weights = graph.weight if weighted else np.ones(graph.num_edges, np.float32)
    _compiled(_fill)(
        graph.first, graph.second, edge_weights, np.float32(self_weight), offsets[:-1].copy(), neighbors, weights
    )
    return offsets, neighbors, weights


def number_by_appearance(labels: np.ndarray) -> np.ndarray:
    """Return int32 [N]: the same partition, its clusters numbered in the order of their first node."""
    _, first_of, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first_of), np.int32)
    rank[np.argsort(first_of)] = np.arange(len(first_of), dtype=np.int32)
    return rank[inverse]


def _fill(
    first: np.ndarray,
    second: np.ndarray,
    edge_weights: np.ndarray,
    self_weight: np.float32,
    cursor: np.ndarray,
    neighbors: np.ndarray,
    weights: np.ndarray,
) -> None:
    """Write each edge to both of its nodes: lower neighbors, the node itself, higher ones, each in order."""
    for edge in range(len(first)):  # sorted by first, hence each node's lower neighbors come in order
        slot = cursor[second[edge]]
        cursor[second[edge]] = slot + 1
        neighbors[slot] = first[edge]
        weights[slot] = edge_weights[edge]
    if self_weight != 0:
        for node in range(len(cursor)):
            slot = cursor[node]
            cursor[node] = slot + 1
            neighbors[slot] = node
            weights[slot] = self_weight
    for edge in range(len(first)):
        slot = cursor[first[edge]]
        cursor[first[edge]] = slot + 1
        neighbors[slot] = second[edge]
        weights[slot] = edge_weights[edge]


def _visit(
    order: np.ndarray,
    offsets: np.ndarray,
    neighbors: np.ndarray,
    weights: np.ndarray,
    labels: np.ndarray,
    pending: np.ndarray,
    scores: np.ndarray,
    num_pending: int,
) -> int:
    """Visit nodes in order, changing `labels` and `pending` in place; return how many are pending afterwards."""
    for node in order:
        if not pending[node]:
            continue
        pending[node] = False
        num_pending -= 1
        begin, end = offsets[node], offsets[node + 1]
        for edge in range(begin, end):
            scores[labels[neighbors[edge]]] = 0.0
        for edge in range(begin, end):
            # float64 sums in the order of the neighbors' indices, as dlib's: equal scores stay equal.
            scores[labels[neighbors[edge]]] += weights[edge]
        best, best_score = labels[node], -np.inf
        for edge in range(begin, end):
            label = labels[neighbors[edge]]
            if scores[label] > best_score or (scores[label] == best_score and label < best):
                best, best_score = label, scores[label]
        if best != labels[node]:
            labels[node] = best
            for edge in range(begin, end):
                other = neighbors[edge]
                if other != node and not pending[other]:
                    pending[other] = True
                    num_pending += 1
        if num_pending == 0:
            break
    return num_pending


def _visits(num_nodes: int, iterations: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the nodes that dlib's `chinese_whispers` visits, int64, chunk by chunk."""
    generator = np.random.RandomState(_mersenne_seed(seed))
    generator.randint(0, 2**32, 10_000, np.uint32)  # dlib passes over the first ten thousand
    left = num_nodes * iterations
    while left > 0:
        drawn = generator.randint(0, 2**32, (min(_VISITS, left), 2), np.uint32).astype(np.uint64)
        left -= len(drawn)
        yield ((drawn[:, 0] << np.uint64(32) | drawn[:, 1]) % np.uint64(num_nodes)).astype(np.int64)


def _mersenne_seed(seed: int) -> int:
    """Return what dlib seeds its Mersenne twister with: 5489 for none, else a hash of the decimal number."""
    if seed == 0:
        return 5489
    value = 0
    for character in str(seed).encode():
        value = (value * 37 + character) % 2**32
    return value


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function compiled by numba, or as it is where numba is not installed."""
    jit = _jit()
    return function if jit is None else jit(function)


@functools.cache
def _jit() -> Callable[..., Any] | None:
    try:
        from numba import njit
    except ImportError:
        return None
    return functools.cache(njit(cache=True, nogil=True))
