"""What an edge's vote weighs in Chinese whispers, by its cosine."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from recognition.clustering.graph import SimilarityGraph

EdgeWeight = Literal["equal", "cosine", "excess", "excess2"]

EDGE_WEIGHTS: tuple[EdgeWeight, ...] = get_args(EdgeWeight)


def weigh_edges(graph: SimilarityGraph, threshold: float, kind: EdgeWeight) -> SimilarityGraph:
    """Return the graph with weights made of its cosines: 1, the cosine, its excess over the threshold, or its square.

    The excess lets many pairs that barely pass weigh less than a few that clearly agree, and so forgives a threshold
    that is too low; the figures are in docs/cleaning.md.
    """
    if kind == "cosine":
        return graph
    # A pair decided in float64 may lie below the threshold by a rounding of float32.
    excess = np.maximum(graph.weight - np.float32(threshold), 0)
    if kind == "equal":
        return graph.reweighted(np.ones_like(excess))
    return graph.reweighted(excess if kind == "excess" else excess**2)
