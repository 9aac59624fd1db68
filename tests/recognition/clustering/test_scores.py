"""Pairwise and BCubed scores against their definitions over all pairs of items."""

from __future__ import annotations

import numpy as np
import pytest

from recognition.clustering.scores import bcubed, pairwise


def _same(names: np.ndarray) -> np.ndarray:
    return names[:, None] == names[None]


def _harmonic(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_the_definitions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 12, 90) * 5 - 7
    clusters = np.where(rng.random(90) < 0.6, truth, rng.integers(0, 25, 90))
    joined, belong = _same(clusters), _same(truth)
    upper = np.triu(np.ones((90, 90), bool), 1)
    hits = (joined & belong & upper).sum()
    precision, recall = hits / (joined & upper).sum(), hits / (belong & upper).sum()
    assert pairwise(clusters, truth) == pytest.approx((precision, recall, _harmonic(precision, recall)), rel=1e-12)
    together = (joined & belong).sum(1)
    precision, recall = np.mean(together / joined.sum(1)), np.mean(together / belong.sum(1))
    assert bcubed(clusters, truth) == pytest.approx((precision, recall, _harmonic(precision, recall)), rel=1e-12)


@pytest.mark.parametrize("score", [pairwise, bcubed])
def test_extremes(score) -> None:
    truth = np.array([0, 0, 1, 1])
    assert score(np.array([5, 5, 3, 3]), truth) == (1, 1, 1)
    everything = score(np.zeros(4, int), truth)
    assert everything.recall == 1 and everything.precision < 1
    alone = score(np.arange(4), truth)
    assert alone.precision == 1 and alone.recall < 1
    assert score(np.arange(4), np.arange(4)) == (1, 1, 1), "no pairs to find, and none found"
    assert score(np.empty(0, int), np.empty(0, int)) == (1, 1, 1)


def test_ten_million_pairs_of_clusters_need_no_table() -> None:
    """A table of clusters and classes would hold 10^12 cells here."""
    names = np.arange(1_000_000)
    assert pairwise(names // 2, names // 4) == pytest.approx((1, 1 / 3, 0.5))
    assert bcubed(names // 2, names // 4) == pytest.approx((1, 0.5, 2 / 3))
