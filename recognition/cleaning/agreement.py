"""How well a picture agrees with an identity: the mean of its cosines to the identity's pictures.

For unit embeddings that mean is one product with the mean embedding, left as short as it is. Unlike the cosine to that
mean it does not grow with the number of pictures, so one threshold serves identities of two pictures and of thousands.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from recognition.cleaning.pictures import Groups, Pictures
from recognition.clustering.graph import SimilarityGraph
from recognition.clustering.neighbors import nearest_neighbors
from recognition.clustering.weights import weigh_edges
from recognition.clustering.whispers import chinese_whispers

BLOCK = 2**14
"""Pictures held at once."""

_ALL_PAIRS = 2048  # of a larger identity only neighbors are compared: its pairs would fill the memory
_NEIGHBORS = 64
_TILE = 2**11


@dataclass(frozen=True)
class Means:
    """The mean unit embedding of each identity, float32 [K, D] (zeros where it has no picture), and its pictures."""

    vectors: np.ndarray
    counts: np.ndarray


def identity_means(pictures: Pictures, groups: Groups) -> Means:
    """Return the mean of each group; one pass over the embeddings."""
    counts = groups.counts
    means = np.zeros((len(counts), pictures.dimension), np.float32)
    for block in groups.blocks(BLOCK):
        starts = groups.starts[block.start : block.stop + 1]
        units = pictures.units(groups.rows[starts[0] : starts[-1]])
        for i in block:
            if counts[i]:
                own = units[groups.starts[i] - starts[0] : groups.starts[i + 1] - starts[0]]
                means[i] = own.sum(0) / counts[i]
    return Means(means, counts)


def mean_cosines(units: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return for each of units [m, D] the mean cosine to those `inside` (bool [m]) other than itself; nan for none."""
    total = units[inside].sum(0)
    others = inside.sum() - inside
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = (units @ total - inside * np.einsum("md,md->m", units, units)) / others
    return np.where(others > 0, scores, np.nan).astype(np.float32)


def agreeing(units: np.ndarray, inside: np.ndarray, threshold: float, *, rounds: int = 4) -> np.ndarray:
    """Return bool [m]: those whose mean cosine to the agreeing others reaches the threshold, beginning with `inside`.

    Stops when nothing changes, or when nobody would be left: then what was there before stays.
    """
    for _ in range(rounds):
        scores = mean_cosines(units, inside)
        # Beside nobody but itself a picture has no score, and stays.
        now = (scores >= threshold) | (np.isnan(scores) & inside)
        if not now.any() or (now == inside).all():
            break
        inside = now
    return inside


def block_clusters(units: np.ndarray, starts: np.ndarray, threshold: float, *, seed: int) -> np.ndarray:
    """Return the Chinese-whispers cluster of each row [m] of a block whose identities begin at `starts`.

    Only pictures of one identity are compared, so no cluster spans two. An edge votes with the square of its excess
    over the threshold: a few chance pairs do not tie a stranger to an identity.
    """
    parts = [_shifted(pairs_within(units[a:b], threshold), int(a)) for a, b in pairwise(starts) if b - a > 1]
    columns = [np.concatenate(column) for column in zip(*parts)] if parts else [np.zeros(0)] * 3
    first, second, weight = (c.astype(t) for c, t in zip(columns, (np.int32, np.int32, np.float32)))
    graph = SimilarityGraph(len(units), first, second, weight)
    return chinese_whispers(weigh_edges(graph, threshold, "excess2"), seed=seed)


def pairs_within(units: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return first, second (first < second) and cosine of the pairs of units [m, D] above the threshold.

    Of more than 2,048 pictures only pairs of which one is among the other's 64 nearest.
    """
    if len(units) > _ALL_PAIRS:
        graph = nearest_neighbors(units, _NEIGHBORS, threshold=threshold)
        return graph.first, graph.second, graph.weight
    cosines = units @ units.T
    first, second = np.nonzero(np.triu(cosines > threshold, 1))
    return first, second, cosines[first, second]


def _shifted(
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray], offset: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return pairs[0] + offset, pairs[1] + offset, pairs[2]


def main_cluster(clusters: np.ndarray, units: np.ndarray) -> int:
    """Return the cluster of one identity with the most pictures; of equals the one that agrees best within itself."""
    sizes = np.bincount(clusters)
    largest = np.flatnonzero(sizes == sizes.max())
    if len(largest) == 1:
        return int(largest[0])
    lengths = [float(np.linalg.norm(units[clusters == cluster].sum(0))) for cluster in largest]
    return int(largest[int(np.argmax(np.round(lengths, 5)))])


def nearest_mean(
    units: np.ndarray, means: Means, *, excluded: np.ndarray | None = None, least: int = 1, device: str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """Return for units [m, D] the greatest mean cosine to an identity, float32 [m], and that identity, int32 [m].

    `excluded` int [m] is one identity that each does not ask about. Identities of fewer than `least` pictures are
    passed over; where none is left the answer is -inf and -1. m * K products.
    """
    queries = torch.from_numpy(units).to(device)
    best = torch.full((len(units),), -torch.inf, device=device)
    found = torch.full((len(units),), -1, dtype=torch.int64, device=device)
    own = None if excluded is None else torch.from_numpy(excluded.astype(np.int64)).to(device)
    for start in range(0, len(means.vectors), _TILE):
        tile = torch.from_numpy(means.vectors[start : start + _TILE]).to(device)
        cosines = queries @ tile.T  # [m, tile]
        cosines[:, torch.from_numpy(means.counts[start : start + _TILE] < least).to(device)] = -torch.inf
        if own is not None:
            rows = torch.nonzero((own >= start) & (own < start + len(tile)))[:, 0]
            cosines[rows, own[rows] - start] = -torch.inf
        top, where = cosines.max(1)
        better = top > best
        best, found = torch.where(better, top, best), torch.where(better, where + start, found)
    return best.cpu().numpy(), found.cpu().numpy().astype(np.int32)


def greatest_scores(units: np.ndarray, means: Means, *, device: str = "cpu") -> np.ndarray:
    """Return the greatest mean cosine of each identity to any of units [m, D], float32 [K]; -inf where it is empty."""
    queries = torch.from_numpy(units).to(device)
    best = np.full(len(means.vectors), -np.inf, np.float32)
    for start in range(0, len(means.vectors), _TILE):
        tile = torch.from_numpy(means.vectors[start : start + _TILE]).to(device)
        best[start : start + _TILE] = (queries @ tile.T).max(0).values.cpu().numpy()
    best[means.counts == 0] = -np.inf
    return best
