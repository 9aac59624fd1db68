"""Rows around a few centers, and what the graph of their cosines must be."""

from __future__ import annotations

import numpy as np

from recognition.clustering.graph import SimilarityGraph


def people(num_rows: int, *, dimension: int = 32, seed: int = 0) -> np.ndarray:
    """Rows around 20 centers, of lengths between 0.1 and 30."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((20, dimension))
    rows = centers[rng.integers(0, 20, num_rows)] + rng.standard_normal((num_rows, dimension))
    return (rows * rng.uniform(0.1, 5, (num_rows, 1))).astype(np.float32)


def exact_cosines(embeddings: np.ndarray) -> np.ndarray:
    rows = embeddings.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.where(lengths > 0, lengths, 1)
    return rows @ rows.T


def edges_of(graph: SimilarityGraph) -> list[tuple[int, int]]:
    return list(zip(graph.first.tolist(), graph.second.tolist()))
