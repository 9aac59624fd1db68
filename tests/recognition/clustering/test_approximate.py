"""Approximate neighbors: near to the exact ones, and honest about what they miss."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from recognition.clustering.approximate import STORAGES, Storage, approximate_neighbors, graph_recall
from recognition.clustering.graph import SimilarityGraph
from recognition.clustering.neighbors import nearest_neighbors
from recognition.errors import ConfigError, DataError
from tests.helpers.graphs import edges_of, exact_cosines, people


@pytest.mark.parametrize("storage", STORAGES)
def test_searching_every_group_finds_the_exact_neighbors(storage: Storage) -> None:
    pytest.importorskip("faiss")
    embeddings = people(1500)
    found = approximate_neighbors(embeddings, 6, threshold=0.3, num_lists=8, num_probes=8, storage=storage)
    exact = nearest_neighbors(embeddings, 6, threshold=0.3)
    shared = len(set(edges_of(found.graph)) & set(edges_of(exact)))
    least = {"float32": 1.0, "float16": 0.99, "int8": 0.95}[storage]
    assert shared >= least * max(exact.num_edges, found.graph.num_edges)
    assert found.recall >= least and found.num_sampled == 1000
    error = {"float32": 1e-6, "float16": 1e-3, "int8": 1e-2}[storage]
    cosines = exact_cosines(embeddings)[found.graph.first, found.graph.second]
    np.testing.assert_allclose(found.graph.weight, cosines, rtol=0, atol=error)


def test_recall_tells_what_few_probes_miss() -> None:
    pytest.importorskip("faiss")
    embeddings = people(2000, dimension=16)
    few, all_of_them = (
        approximate_neighbors(embeddings, 10, num_lists=30, num_probes=probes, storage="float32", num_sampled=2000)
        for probes in (1, 30)
    )
    assert all_of_them.recall > 0.999
    exact = set(edges_of(nearest_neighbors(embeddings, 10)))
    found = len(exact & set(edges_of(few.graph))) / len(exact)
    # Counted by pairs here and by neighbors there: one found from either side counts twice there.
    assert found < few.recall < 0.97
    assert few.recall < found + 0.1


def test_recall_is_the_share_of_the_samples_neighbors() -> None:
    embeddings = people(50)
    exact = nearest_neighbors(embeddings, 3)
    sample = np.arange(50)
    assert graph_recall(exact, embeddings, 3, sample) == 1
    nothing = SimilarityGraph(50, exact.first[:0], exact.second[:0], exact.weight[:0])
    assert graph_recall(nothing, embeddings, 3, sample) == 0
    assert graph_recall(nothing, embeddings, 3, sample, threshold=0.9999) == 1, "there is nothing to find"
    cosines = exact_cosines(embeddings)
    np.fill_diagonal(cosines, -np.inf)
    nearest = np.argsort(-cosines, axis=1)[:, :3]
    half = SimilarityGraph(50, exact.first[::2], exact.second[::2], exact.weight[::2])
    kept = set(edges_of(half))
    wanted = [(min(i, j), max(i, j)) for i in range(10, 20) for j in nearest[i].tolist()]
    assert graph_recall(half, embeddings, 3, np.arange(10, 20)) == sum(pair in kept for pair in wanted) / 30


def test_a_missing_faiss_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"faiss is not installed; expected the package faiss-cpu; pip install"):
        approximate_neighbors(people(100), 5)


def test_an_index_that_does_not_fit_the_memory_is_refused() -> None:
    pytest.importorskip("faiss")
    message = r"an index of 3,000 rows of 32 float32 numbers: takes .* KiB; expected at most half of the 512.0 KiB"
    with pytest.raises(DataError, match=message):
        approximate_neighbors(people(3000), 5, storage="float32", memory_bytes=2**19)
