"""Chinese whispers: dlib's partition, label for label, and that of a slow version that skips nothing."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from recognition.clustering import whispers
from recognition.clustering.graph import SimilarityGraph, pairs_above
from recognition.clustering.whispers import adjacency, chinese_whispers, number_by_appearance
from tests.helpers.graphs import people


def _random_graph(num_nodes: int, num_edges: int, seed: int, *, levels: int = 0) -> SimilarityGraph:
    """Any edges, one of them at the last node; with `levels` few weights, and hence many equal scores."""
    rng = np.random.default_rng(seed)
    keys = np.unique(rng.integers(0, num_nodes, (num_edges, 2)), axis=0)
    keys = np.unique(np.sort(keys[keys[:, 0] != keys[:, 1]], axis=1), axis=0)
    keys = np.unique(np.concatenate([keys, [[0, num_nodes - 1]]]), axis=0).astype(np.int32)
    weight = rng.integers(1, levels + 1, len(keys)) / 4 if levels else rng.random(len(keys))
    return SimilarityGraph(num_nodes, keys[:, 0], keys[:, 1], weight.astype(np.float32))


def _slowly(graph: SimilarityGraph, order: np.ndarray, *, self_weight: float = 0.0) -> np.ndarray:
    """The rules word by word: every visit is made, scores are dictionaries."""
    around: list[list[tuple[int, float]]] = [[] for _ in range(graph.num_nodes)]
    for first, second, weight in zip(graph.first.tolist(), graph.second.tolist(), graph.weight.tolist()):
        around[first].append((second, weight))
        around[second].append((first, weight))
    labels = list(range(graph.num_nodes))
    for node in order.tolist():
        scores: dict[int, float] = {labels[node]: self_weight} if self_weight else {}
        for other, weight in sorted(around[node]):
            scores[labels[other]] = scores.get(labels[other], 0.0) + weight
        if scores:
            labels[node] = min(scores, key=lambda label: (-scores[label], label))
    names: dict[int, int] = {}
    return np.array([names.setdefault(label, len(names)) for label in labels])


def _edges(graph: SimilarityGraph, *, weighted: bool) -> list[tuple[int, int] | tuple[int, int, float]]:
    ends = zip(graph.first.tolist(), graph.second.tolist())
    return [(*pair, weight) for pair, weight in zip(ends, graph.weight.tolist())] if weighted else list(ends)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_the_partition_is_dlibs(seed: int, weighted: bool) -> None:
    dlib = pytest.importorskip("dlib")
    for graph in (_random_graph(300, 300 + 40 * seed, seed, levels=4 * (seed % 2)), pairs_above(people(400), 0.45)):
        assert graph.second.max() == graph.num_nodes - 1, "dlib's nodes end with the last edge"
        expected = dlib.chinese_whispers(_edges(graph, weighted=weighted))
        found = chinese_whispers(graph, weighted=weighted)
        assert 1 < max(expected) + 1 < graph.num_nodes
        assert found.tolist() == expected
        assert found.dtype == np.int32


@pytest.mark.parametrize("seed", range(4))
def test_whole_clustering_is_dlibs_at_the_matching_distance(seed: int) -> None:
    """dlib joins descriptors nearer than a distance, without weights, and every one with itself."""
    dlib = pytest.importorskip("dlib")
    rows = people(350, dimension=24, seed=seed)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    distance = 1.05
    descriptors = [dlib.vector(row) for row in rows.astype(np.float64)]
    expected = dlib.chinese_whispers_clustering(descriptors, distance)
    graph = pairs_above(rows, 1 - distance**2 / 2)
    assert 1 < max(expected) + 1 < 300
    assert chinese_whispers(graph, weighted=False, self_weight=1).tolist() == expected


@pytest.mark.parametrize("is_compiled", [True, False])
@pytest.mark.parametrize("self_weight", [0.0, 1.0])
@pytest.mark.parametrize("levels", [0, 3])
def test_skipping_idle_visits_changes_nothing(
    is_compiled: bool, self_weight: float, levels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_compiled:
        pytest.importorskip("numba")
        monkeypatch.setattr(whispers, "_PLAIN_EDGES", 0)
    for seed in range(5):
        graph = _random_graph(120, 260, seed, levels=levels)
        order = np.random.default_rng(seed).integers(0, 120, 120 * (1 + 4 * seed))
        found = chinese_whispers(graph, self_weight=self_weight, order=order)
        assert found.tolist() == _slowly(graph, order, self_weight=self_weight).tolist()


def test_visits_are_those_of_dlibs_generator() -> None:
    """The 10,000th number of a Mersenne twister seeded with 5489 is 4,123,659,995; dlib begins behind it."""
    generator = np.random.RandomState(whispers._mersenne_seed(0))
    assert int(generator.randint(0, 2**32, 10_000, np.uint32)[-1]) == 4_123_659_995
    high, low = (int(value) for value in generator.randint(0, 2**32, 2, np.uint32))
    visits = np.concatenate(list(whispers._visits(977, 3, 0)))
    assert len(visits) == 3 * 977
    assert visits[0] == (high * 2**32 + low) % 977
    assert whispers._mersenne_seed(12) == ord("1") * 37 + ord("2")


def test_chunks_do_not_change_the_visits(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(whispers._visits(50, 10, 7)))
    monkeypatch.setattr(whispers, "_VISITS", 33)
    assert np.concatenate(list(whispers._visits(50, 10, 7))).tolist() == whole.tolist()
    assert np.concatenate(list(whispers._visits(50, 10, 8))).tolist() != whole.tolist()


def test_seeds_give_other_orders_and_iterations_bound_the_visits() -> None:
    graph = _random_graph(400, 700, 1)
    assert chinese_whispers(graph, seed=1).tolist() != chinese_whispers(graph, seed=2).tolist()
    order = np.concatenate(list(whispers._visits(400, 1, 5)))
    once = chinese_whispers(graph, seed=5, iterations=1)
    assert once.tolist() == _slowly(graph, order).tolist() != chinese_whispers(graph, seed=5).tolist()


def test_equal_scores_go_to_the_lowest_label() -> None:
    graph = SimilarityGraph(3, np.int32([0, 1]), np.int32([1, 2]), np.float32([0.5, 0.5]))
    assert chinese_whispers(graph, order=np.array([1])).tolist() == [0, 0, 1]
    heavier = graph.reweighted(np.array([0.5, 0.6]))
    assert chinese_whispers(heavier, order=np.array([1])).tolist() == [0, 1, 1]
    assert chinese_whispers(heavier, order=np.array([1]), weighted=False).tolist() == [0, 0, 1]


@pytest.mark.parametrize("num_nodes", [0, 1, 5])
def test_nodes_without_edges_stay_alone(num_nodes: int) -> None:
    empty = SimilarityGraph(num_nodes, np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))
    assert chinese_whispers(empty).tolist() == list(range(num_nodes))


@pytest.mark.parametrize("self_weight", [0.0, 0.5])
def test_neighbors_stand_by_index(self_weight: float) -> None:
    graph = _random_graph(40, 150, 3)
    dense = np.zeros((40, 40), np.float32)
    dense[graph.first, graph.second] = dense[graph.second, graph.first] = graph.weight
    np.fill_diagonal(dense, self_weight)
    offsets, neighbors, weights = adjacency(graph, self_weight=self_weight)
    rows, columns = np.nonzero(dense)
    assert np.diff(offsets).tolist() == np.bincount(rows, minlength=40).tolist()
    assert neighbors.tolist() == columns.tolist()
    assert weights.tolist() == dense[rows, columns].tolist()


def test_clusters_are_numbered_by_their_first_node() -> None:
    assert number_by_appearance(np.array([7, 2, 7, 9, 2, 0])).tolist() == [0, 1, 0, 2, 1, 3]


def test_large_graphs_without_numba_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(whispers, "_jit", lambda: None)
    monkeypatch.setattr(whispers, "_PLAIN_EDGES", 50)
    monkeypatch.setattr(whispers, "_SLOW_EDGES", 100)
    with caplog.at_level(logging.WARNING):
        chinese_whispers(_random_graph(60, 200, 0))
    assert "edges without numba takes long; pip install numba" in caplog.text
