"""Every metric on 40 random sets against independent versions: scikit-learn's, and loops written from the definition.

From 10 to 100,000 pairs; with ties, all scores equal, people known and unknown.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recognition.errors import DataError
from recognition.formats.pairs_about import PairsAbout
from recognition.verification.protocols import PairSet, verify_embeddings, verify_scores

SIZES = [10, 11, 20, 37, 100, 101, 250, 600, 1000, 1003]
LARGE = [6000, 7000, 20_000, 100_000]
KINDS = ("smooth", "ties", "equal")
CASES = [(size, kind) for size in SIZES for kind in KINDS] + [(size, kind) for size in LARGE for kind in KINDS[:2]]
CASES += [(6000, "equal"), (100_000, "equal")]
assert len(CASES) == 40

metrics = pytest.importorskip("sklearn.metrics")
selection = pytest.importorskip("sklearn.model_selection")


def a_set(size: int, kind: str, *, known: bool = True) -> tuple[PairSet, np.ndarray]:
    """Return pairs of both kinds in each of ten folds as far as there are enough, and unit embeddings [2n, 8]."""
    rng = np.random.default_rng((size, KINDS.index(kind)))
    is_same = rng.permutation(np.arange(size) % 2 == 0)
    is_same[:2] = (True, False)
    rows = rng.normal(size=(2 * size, 8))
    rows[1::2][is_same] += 2.0 * rows[0::2][is_same]
    if kind == "ties":
        rows = np.eye(8)[rng.integers(0, 8, 2 * size)] + 0.5 * np.eye(8)[rng.integers(0, 3, 2 * size)]
    if kind == "equal":
        rows[:] = 1.0
    people = [
        name for i in range(size) for name in ((f"p{i % 50}",) * 2 if is_same[i] else (f"p{i % 50}", f"q{i % 7}"))
    ]
    about = PairsAbout(people=tuple(people) if known else None)
    return PairSet("x", Path("x.bin"), "0" * 64, [], is_same, about), rows


def fold_accuracy_of_the_field(rows: np.ndarray, is_same: np.ndarray) -> tuple[float, float]:
    """Return mean and std as arcface_torch computes them, by its definition: a threshold a fold, best on the others."""
    units = rows / np.sqrt((rows * rows).sum(1))[:, None]
    distances = np.sum(np.square(units[0::2] - units[1::2]), 1)
    accuracies = []
    for train, test in selection.KFold(10, shuffle=False).split(np.arange(len(is_same))):
        by_threshold = [np.mean(np.less(distances[train], t) == is_same[train]) for t in np.arange(0, 4, 0.01)]
        best = np.arange(0, 4, 0.01)[np.argmax(by_threshold)]
        accuracies.append(np.mean(np.less(distances[test], best) == is_same[test]))
    return float(np.mean(accuracies)), float(np.std(accuracies))


@pytest.mark.slow
@pytest.mark.parametrize(("size", "kind"), CASES)
def test_every_metric_equals_an_independent_one(size: int, kind: str) -> None:
    known = size % 2 == 0
    pair_set, rows = a_set(size, kind, known=known)
    is_same = pair_set.is_same
    result = verify_embeddings(pair_set, rows, with_intervals=size <= 1003)
    scores = result.cosines
    assert (result.accuracy, result.std) == fold_accuracy_of_the_field(rows, is_same)
    assert result.auc == pytest.approx(metrics.roc_auc_score(is_same, scores), abs=1e-12)
    far, tar, _ = metrics.roc_curve(is_same, scores, drop_intermediate=False)
    assert result.eer == pytest.approx(slow_eer(far, tar), abs=1e-12)
    for point in result.tar_at_far:
        assert point.tar == pytest.approx(tar[far <= point.target].max(), abs=1e-12)
    accepted = scores > result.threshold_cosine
    expected = metrics.precision_recall_fscore_support(is_same, accepted, average="binary", zero_division=0)
    assert (result.counts.precision, result.counts.recall, result.counts.f1) == pytest.approx(expected[:3], abs=1e-12)
    assert (result.num_people is not None) == known
    if size <= 1003:
        assert ("auc" in result.intervals) == known
    again = verify_scores(pair_set, scores, method="model")
    assert (again.auc, again.eer, again.tar_at_far) == (result.auc, result.eer, result.tar_at_far)


def slow_eer(far: np.ndarray, tar: np.ndarray) -> float:
    gaps = np.abs(far - (1 - tar)).round(12)
    return float(min((far[i] + 1 - tar[i]) / 2 for i in np.flatnonzero(gaps == gaps.min())))


def test_det_is_the_roc_s_other_side() -> None:
    pair_set, rows = a_set(600, "ties")
    from recognition.verification.sorted_scores import SortedScores

    scores = verify_embeddings(pair_set, rows).cosines
    curve = SortedScores.of(scores, pair_set.is_same).roc()
    for threshold, far, fnmr in zip(curve.thresholds[1:], curve.far[1:], curve.fnmr[1:]):
        assert far == np.mean(scores[~pair_set.is_same] >= threshold)
        assert fnmr == pytest.approx(np.mean(scores[pair_set.is_same] < threshold), abs=1e-15)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    pair_set, rows = a_set(100, "smooth")
    rows[7, 3] = value
    with pytest.raises(DataError, match="1 of 200 embeddings are not finite"):
        verify_embeddings(pair_set, rows)
    with pytest.raises(DataError, match="1 of 100 distances are not finite"):
        verify_scores(pair_set, np.append(np.zeros(99), value), method="model")


def test_no_interval_where_the_people_are_unknown_or_too_few_impostors_are_above() -> None:
    unknown, rows = a_set(600, "smooth", known=False)
    assert verify_embeddings(unknown, rows, with_intervals=True).intervals == {}
    known, rows = a_set(600, "smooth")
    result = verify_embeddings(known, rows, with_intervals=True)
    assert {"auc", "accuracy", "eer"} <= set(result.intervals), "some impostors are above these thresholds"
    assert not {"tar@far1e-3", "tar@far1e-4"} & set(result.intervals), "300 impostors: none or one above"
    is_same = known.is_same
    perfect = verify_scores(known, np.where(is_same, 0.9, 0.1), method="model", with_intervals=True)
    assert set(perfect.intervals) == {"auc"}
