"""Chinese whispers on a similarity graph, by the rules of dlib's `chinese_whispers`: the same visits, the same result.

Biemann, "Chinese whispers", 2006. Every node starts with a label of its own; nodes are visited at random, and a visited
node takes the label with the greatest sum of edge weights among its neighbors, the lowest label of equals.
"""

from __future__ import annotations

import functools
import logging
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from recognition.clustering.graph import SimilarityGraph
from recognition.console import count
from recognition.console import progress as show_progress

logger = logging.getLogger(__name__)

DEFAULT_ITERATIONS = 100

_VISITS = 10**5  # visits drawn at most at once: 5 MB of numbers
_VISITS_A_NODE = 4  # drawn at once: few sets need more than some ten a node
_FILLED_AT_ONCE = 2**16  # edges, whose indices would otherwise take more than the edges
# Edges beyond which numba is worth its start: it takes 1.2 s of a core to load, or 5 s where it compiles first. In that
# time the plain loops go through some 0.6 and 2.5 million edges.
_PLAIN_EDGES = 2_000_000
_SLOW_EDGES = 30_000_000  # beyond this the plain loops take minutes


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
    `dlib.chinese_whispers`. On large graphs the loops are compiled by numba where it is installed.
    """
    num_nodes = graph.num_nodes
    offsets, neighbors, weights = adjacency(graph, weighted=weighted, self_weight=self_weight)
    jit = _jit() if len(neighbors) > 2 * _PLAIN_EDGES else None
    if len(neighbors) > 2 * _SLOW_EDGES and jit is None:
        logger.warning("%s without numba takes long; pip install numba", count(graph.num_edges, "edge"))
    chunks = _visits(num_nodes, iterations, seed) if order is None else iter([np.asarray(order, np.int64)])
    shown = show_progress(chunks, total=None, unit="100k visits", label="whispers", quiet=not progress)
    if jit is None:
        return number_by_appearance(_whisper_plainly(shown, offsets, neighbors, weights))
    labels = np.arange(num_nodes, dtype=np.int32)
    pending = offsets[1:] > offsets[:-1]
    scores = np.zeros(num_nodes, np.float64)
    num_pending = int(pending.sum())
    for chunk in shown:
        num_pending = jit(_visit)(chunk, offsets, neighbors, weights, labels, pending, scores, num_pending)
        if num_pending == 0:
            break
    return number_by_appearance(labels)


def adjacency(
    graph: SimilarityGraph, *, weighted: bool = True, self_weight: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return offsets int64 [N + 1], neighbors int32 [2 E] and weights float32 [2 E]; a node's stand by index.

    With `self_weight` every node is a neighbor of itself, too.
    """
    num_nodes = graph.num_nodes
    lower = np.bincount(graph.second, minlength=num_nodes)  # of each node: edges from lower neighbors, and to higher
    higher = np.bincount(graph.first, minlength=num_nodes)
    own = int(self_weight != 0)
    offsets = np.zeros(num_nodes + 1, np.int64)
    np.cumsum(lower + higher + own, out=offsets[1:])
    neighbors = np.empty(offsets[-1], np.int32)
    weights = np.empty(offsets[-1], np.float32)
    starts = offsets[:-1]
    if own:
        neighbors[starts + lower], weights[starts + lower] = np.arange(num_nodes, dtype=np.int32), self_weight
    # Edges are sorted by first, then second: they come in order to their first node, and sorted stably to the second.
    to_first = starts + lower + own - (np.cumsum(higher) - higher)
    to_second = starts - (np.cumsum(lower) - lower)
    order = np.argsort(graph.second, kind="stable").astype(np.int32)
    for at in range(0, graph.num_edges, _FILLED_AT_ONCE):
        part = slice(at, at + _FILLED_AT_ONCE)
        own_order = np.arange(at, min(at + _FILLED_AT_ONCE, graph.num_edges))
        for edges, nodes, others, base in (
            (part, graph.first, graph.second, to_first),
            (order[part], graph.second, graph.first, to_second),
        ):
            slots = own_order + base[nodes[edges]]
            neighbors[slots] = others[edges]
            weights[slots] = graph.weight[edges] if weighted else 1
    return offsets, neighbors, weights


def number_by_appearance(labels: np.ndarray) -> np.ndarray:
    """Return int32 [N]: the same partition, its clusters numbered in the order of their first node."""
    _, first_of, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first_of), np.int32)
    rank[np.argsort(first_of)] = np.arange(len(first_of), dtype=np.int32)
    return rank[inverse]


def _whisper_plainly(
    chunks: Iterable[np.ndarray], offsets: np.ndarray, neighbors: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return the labels [N] after the visits, as `_visit` makes them, by loops that need no compiling."""
    bounds, others_of, weights_of = offsets.tolist(), neighbors.data, weights.data
    labels = list(range(len(offsets) - 1))
    pending = bytearray((offsets[1:] > offsets[:-1]).tobytes())
    for chunk in chunks:
        for node in chunk.tolist():
            if not pending[node]:
                continue
            pending[node] = 0
            begin, end = bounds[node], bounds[node + 1]
            others = others_of[begin:end].tolist()
            near = list(map(labels.__getitem__, others))
            best = near[0]
            if near.count(best) < len(near):
                scores: defaultdict[int, float] = defaultdict(float)
                for label, weight in zip(near, weights_of[begin:end].tolist()):
                    scores[label] += weight
                most = max(scores.values())
                best = min([label for label, score in scores.items() if score == most])
            if best != labels[node]:
                labels[node] = best
                for other in others:
                    pending[other] = 1
                pending[node] = 0  # which is its own neighbor, with a weight of its own
        if 1 not in pending:
            break
    return np.array(labels, np.int32)


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
    draw = _mersenne_twister(_mersenne_seed(seed))
    draw(10_000)  # dlib passes over the first ten thousand
    left = num_nodes * iterations
    while left > 0:
        drawn = draw(2 * min(_VISITS, left, _VISITS_A_NODE * num_nodes)).reshape(-1, 2).astype(np.uint64)
        left -= len(drawn)
        yield ((drawn[:, 0] << np.uint64(32) | drawn[:, 1]) % np.uint64(num_nodes)).astype(np.int64)


def _mersenne_twister(seed: int) -> Callable[[int], np.ndarray]:
    """Return what draws so many uint32 from the MT19937 of that seed (Matsumoto and Nishimura, 1998: init_genrand).

    By Python's own: numpy.random takes 10 ms to load, a tenth of what a small set takes.
    """
    state = [seed]
    for i in range(1, 624):
        state.append((1812433253 * (state[-1] ^ (state[-1] >> 30)) + i) % 2**32)
    generator = random.Random()
    generator.setstate((3, (*state, 624), None))
    return lambda number: np.frombuffer(generator.getrandbits(32 * number).to_bytes(4 * number, "little"), "<u4")


def _mersenne_seed(seed: int) -> int:
    """Return what dlib seeds its Mersenne twister with: 5489 for none, else a hash of the decimal number."""
    if seed == 0:
        return 5489
    value = 0
    for character in str(seed).encode():
        value = (value * 37 + character) % 2**32
    return value


@functools.cache
def _jit() -> Callable[..., Any] | None:
    try:
        from numba import njit
    except ImportError:
        return None
    return functools.cache(njit(cache=True, nogil=True))
