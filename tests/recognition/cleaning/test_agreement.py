"""Agreement of pictures with identities, against sums written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recognition.cleaning import agreement
from recognition.cleaning.agreement import (
    Means,
    agreeing,
    block_clusters,
    greatest_scores,
    identity_means,
    main_cluster,
    mean_cosines,
    nearest_mean,
    pairs_within,
)
from recognition.cleaning.pictures import Pictures, group_rows
from tests.helpers.people import people, person_vectors, write_set


def _slow_mean_cosines(units: np.ndarray, inside: np.ndarray) -> list[float]:
    scores = []
    for i in range(len(units)):
        others = [float(units[i] @ units[j]) for j in range(len(units)) if inside[j] and j != i]
        scores.append(sum(others) / len(others) if others else float("nan"))
    return scores


@pytest.mark.parametrize("inside", [[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]])
def test_the_mean_cosine_leaves_the_picture_itself_out(inside: list[int]) -> None:
    units, chosen = person_vectors(0, 5), np.array(inside, bool)
    np.testing.assert_allclose(mean_cosines(units, chosen), _slow_mean_cosines(units, chosen), atol=1e-5)


def test_one_threshold_serves_identities_of_any_size() -> None:
    few = [mean_cosines(person_vectors(person, 2), np.ones(2, bool))[0] for person in range(200)]
    many = mean_cosines(person_vectors(0, 200), np.ones(200, bool))
    assert abs(np.mean(few) - np.mean(many)) < 0.01


def test_those_who_agree_are_found_from_a_bad_beginning() -> None:
    units = np.concatenate([person_vectors(0, 6), person_vectors(1, 2)])
    assert agreeing(units, np.ones(8, bool), 0.5).tolist() == [True] * 6 + [False] * 2
    alone = agreeing(person_vectors(0, 1), np.ones(1, bool), 0.99)
    assert alone.tolist() == [True]
    strangers = np.concatenate([person_vectors(0, 1), person_vectors(1, 1)])
    assert agreeing(strangers, np.ones(2, bool), 0.5).tolist() == [True, True]


def test_clusters_never_span_two_identities() -> None:
    units = np.concatenate([person_vectors(0, 4), person_vectors(0, 3, seed=1), person_vectors(1, 3)])
    clusters = block_clusters(units, np.array([0, 4, 4, 10]), 0.5, seed=0)
    assert len(set(clusters[:4])) == len(set(clusters[4:7])) == len(set(clusters[7:])) == 1
    assert len(set(clusters)) == 3


def test_a_large_identity_is_clustered_by_its_neighbors(monkeypatch: pytest.MonkeyPatch) -> None:
    units = np.concatenate([person_vectors(0, 30), person_vectors(1, 12)])
    expected = block_clusters(units, np.array([0, 42]), 0.5, seed=0)
    monkeypatch.setattr(agreement, "_ALL_PAIRS", 20)
    assert block_clusters(units, np.array([0, 42]), 0.5, seed=0).tolist() == expected.tolist()


def test_pairs_are_those_above_the_threshold() -> None:
    units = person_vectors(0, 12, noise=1.0)
    first, second, cosines = pairs_within(units, 0.5)
    expected = {(i, j) for i in range(12) for j in range(i + 1, 12) if units[i] @ units[j] > 0.5}
    assert set(zip(first.tolist(), second.tolist())) == expected
    np.testing.assert_allclose(cosines, [units[i] @ units[j] for i, j in zip(first, second)], atol=1e-6)


def test_the_main_cluster_is_the_largest_and_of_equals_the_closest() -> None:
    loose, close = person_vectors(0, 2, noise=1.0), person_vectors(1, 2, noise=0.1)
    units = np.concatenate([loose, close])
    assert main_cluster(np.array([0, 0, 1, 1]), units) == 1
    assert main_cluster(np.array([0, 0, 0, 1]), units) == 0


def test_means_are_those_of_each_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = people({"a": 3, "b": 1, "c": 4})
    pictures = Pictures(write_set(tmp_path, vectors)[1])
    names = sorted(vectors)
    monkeypatch.setattr(agreement, "BLOCK", 4)
    chosen = np.array([name != "b/000.jpg" for name in names])
    means = identity_means(pictures, group_rows(pictures.labels, 3, chosen))
    assert means.counts.tolist() == [3, 0, 4]
    expected = [np.mean([vectors[n] for n in names if n[0] == c and n[0] != "b"] or [np.zeros(64)], 0) for c in "abc"]
    np.testing.assert_allclose(means.vectors, expected, atol=1e-6)


def test_the_nearest_identity_passes_over_the_own_the_empty_and_the_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "_TILE", 3)
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(10, 8)).astype(np.float32)
    counts = np.array([5, 0, 1, 2, 3, 9, 1, 0, 4, 2])
    units = generator.normal(size=(20, 8)).astype(np.float32)
    own = generator.integers(0, 10, 20)
    best, found = nearest_mean(units, Means(vectors, counts), excluded=own, least=2)
    for i in range(20):
        scores = {k: float(units[i] @ vectors[k]) for k in range(10) if counts[k] >= 2 and k != own[i]}
        assert found[i] == max(scores, key=scores.__getitem__)
        assert best[i] == pytest.approx(max(scores.values()), abs=1e-5)
    nobody, none = nearest_mean(units, Means(vectors, counts), least=100)
    assert set(none) == {-1} and set(nobody) == {-np.inf}
    greatest = greatest_scores(units, Means(vectors, counts))
    expected = [(units @ vectors[k]).max() if counts[k] else -np.inf for k in range(10)]
    np.testing.assert_allclose(greatest, expected, atol=1e-5)
