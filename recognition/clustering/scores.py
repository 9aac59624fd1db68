"""How well a partition agrees with the truth: pairwise and BCubed precision, recall and F, in O(N log N)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Agreement(NamedTuple):
    """Precision, recall and their harmonic mean."""

    precision: float
    recall: float
    f: float


def pairwise(clusters: np.ndarray, truth: np.ndarray) -> Agreement:
    """Return the agreement over pairs of items: precision is the share of joined pairs that belong together.

    Where no pair is joined, or none belongs together, the empty share counts as 1.
    """
    together, of_cluster, of_class = _contingency(clusters, truth)
    hits = _num_pairs(together)
    return _agreement(_share(hits, _num_pairs(of_cluster)), _share(hits, _num_pairs(of_class)))


def bcubed(clusters: np.ndarray, truth: np.ndarray) -> Agreement:
    """Return the agreement averaged over items: precision is the share of an item's cluster that is of its class.

    Amigo et al., "A comparison of extrinsic clustering evaluation metrics", 2009. An item counts in its own cluster.
    """
    together, of_cluster, of_class = _contingency(clusters, truth, spread=True)
    squares = together.astype(np.float64) ** 2
    return _agreement(
        _share((squares / of_cluster).sum(), len(clusters)), _share((squares / of_class).sum(), len(truth))
    )


def _contingency(
    clusters: np.ndarray, truth: np.ndarray, *, spread: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the sizes of the non-empty intersections, of the clusters and of the classes.

    With `spread` the latter two stand beside each intersection instead of once each.
    """
    assert clusters.shape == truth.shape and clusters.ndim == 1, "a cluster and a class for each item"
    _, cluster_ids, cluster_sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    class_names, class_ids, class_sizes = np.unique(truth, return_inverse=True, return_counts=True)
    width = max(1, len(class_names))
    cells, sizes = np.unique(cluster_ids.astype(np.int64) * width + class_ids, return_counts=True)
    if spread:
        return sizes, cluster_sizes[cells // width], class_sizes[cells % width]
    return sizes, cluster_sizes, class_sizes


def _num_pairs(sizes: np.ndarray) -> int:
    return int((sizes.astype(np.int64) * (sizes - 1) // 2).sum())


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else 1.0


def _agreement(precision: float, recall: float) -> Agreement:
    total = precision + recall
    return Agreement(precision, recall, 2 * precision * recall / total if total else 0.0)
