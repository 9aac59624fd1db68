"""nearest_neighbors: the k nearest by a full sort, in both directions, each pair once."""

from __future__ import annotations

import numpy as np
import pytest

from recognition.clustering import neighbors
from recognition.clustering.neighbors import NeighborLists, nearest_neighbors, nearest_of_block
from recognition.errors import DataError
from tests.helpers.graphs import edges_of, exact_cosines, people


def _by_sorting(embeddings: np.ndarray, k: int, threshold: float) -> list[tuple[int, int]]:
    cosines = exact_cosines(embeddings)
    np.fill_diagonal(cosines, -np.inf)
    nearest = np.argsort(-cosines, axis=1)[:, : min(k, len(cosines) - 1)]
    return sorted(
        {(min(i, j), max(i, j)) for i, row in enumerate(nearest.tolist()) for j in row if cosines[i, j] > threshold}
    )


@pytest.mark.parametrize("threshold", [-1.0, 0.4])
@pytest.mark.parametrize("k", [1, 7, 80])
@pytest.mark.parametrize("num_rows", [1, 2, 33, 150])
def test_the_neighbors_are_those_a_sort_finds(
    num_rows: int, k: int, threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbors, "_WIDTH", 50)
    embeddings = people(num_rows)
    graph = nearest_neighbors(embeddings, k, threshold=threshold, memory_bytes=2**21)
    assert edges_of(graph) == _by_sorting(embeddings, k, threshold)
    assert (graph.first.dtype, graph.second.dtype, graph.weight.dtype) == (np.int32, np.int32, np.float32)
    np.testing.assert_allclose(graph.weight, exact_cosines(embeddings)[graph.first, graph.second], rtol=0, atol=1e-6)


def test_blocks_do_not_change_the_neighbors() -> None:
    embeddings = people(1500)
    graphs = [nearest_neighbors(embeddings, 5, memory_bytes=memory) for memory in (2**22, 2**30)]
    assert edges_of(graphs[0]) == edges_of(graphs[1])


def test_chosen_rows_get_their_neighbors_nearest_first() -> None:
    embeddings = people(60)
    cosines = exact_cosines(embeddings)
    np.fill_diagonal(cosines, -np.inf)
    rows = np.array([59, 3, 20])
    found, ids = nearest_of_block(embeddings, rows, 4)
    assert ids.tolist() == np.argsort(-cosines[rows], axis=1)[:, :4].tolist()
    np.testing.assert_allclose(found, np.take_along_axis(cosines[rows], ids, 1), atol=1e-6)
    found, ids = nearest_of_block(embeddings[:3], np.array([1]), 4)
    assert sorted(ids[0, :2].tolist()) == [0, 2] and ids[0, 2:].tolist() == [-1, -1]
    assert found[0, 2:].tolist() == [-np.inf, -np.inf]


def test_a_pair_found_from_both_sides_is_one_edge() -> None:
    lists = NeighborLists(4, 0.0, 2**20)
    lists.add(range(0, 2), np.array([[1.0, 0.5], [0.5, -0.1]]), np.array([[0, 1], [0, 3]]))  # 0 finds itself, too
    lists.add(range(2, 4), np.array([[0.7, 0.0], [0.7, 0.6]]), np.array([[3, -1], [2, 0]]))
    graph = lists.graph()
    assert edges_of(graph) == [(0, 1), (0, 3), (2, 3)]
    assert graph.weight.tolist() == np.float32([0.5, 0.6, 0.7]).tolist()


def test_neighbors_that_do_not_fit_the_memory_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"neighbors after [\d,]+ of 3,000 rows; expected what fits 2.0 MiB; take fewer"
    ):
        nearest_neighbors(people(3000), 40, memory_bytes=2**22)
