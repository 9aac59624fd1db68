"""The metrics against slow literal versions, written from their definitions."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recognition.errors import DataError
from recognition.verification.metrics import (
    FIELD_THRESHOLDS,
    check_pairs,
    equal_error_rate,
    every_threshold,
    fold_accuracy,
    fold_sizes,
    pair_distances,
    roc_auc,
    roc_curve,
    tar_at_far,
    unit_rows,
)

# Few distinct values, on the thresholds and beside them: ties are the rule.
_distance = st.one_of(st.sampled_from([0.0, 0.01, 0.29, 0.3, 1.0, 1.23, 2.0, 3.99, 4.0]), st.floats(0, 4))
_score = st.one_of(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0]), st.floats(-1, 1))


def _labeled(value, min_size):
    return st.lists(st.tuples(value, st.booleans()), min_size=min_size, max_size=60)


def _arrays(rows):
    return np.array([value for value, _ in rows]), np.array([same for _, same in rows], dtype=bool)


def slow_fold_accuracy(distances, is_same, folds, thresholds):
    """One pair, one threshold, one fold at a time."""
    num_pairs = len(distances)
    accuracies, chosen = [], []
    start = 0
    for fold in range(folds):
        stop = start + num_pairs // folds + (1 if fold < num_pairs % folds else 0)
        test = [i for i in range(num_pairs) if start <= i < stop]
        train = [i for i in range(num_pairs) if not start <= i < stop]
        best_accuracy, best_threshold = -1.0, None
        for threshold in thresholds:
            right = sum((distances[i] < threshold) == is_same[i] for i in train)
            if right / len(train) > best_accuracy:
                best_accuracy, best_threshold = right / len(train), threshold
        accuracies.append(sum((distances[i] < best_threshold) == is_same[i] for i in test) / len(test))
        chosen.append(best_threshold)
        start = stop
    return accuracies, chosen


def slow_tar_at_far(scores, is_same, target):
    """Try every threshold that can matter and keep the best allowed one."""
    positives, negatives = scores[is_same], scores[~is_same]
    best = (0.0, 0.0)
    for threshold in [*scores, np.nextafter(scores.max(), np.inf)]:
        far = sum(negatives >= threshold) / len(negatives)
        tar = sum(positives >= threshold) / len(positives)
        if far <= target:
            best = max(best, (tar, far))
    return best


@settings(max_examples=60, deadline=None)
@given(rows=_labeled(_distance, 12), folds=st.integers(2, 12))
def test_fold_accuracy_equals_the_literal_loops_to_the_last_digit(rows, folds):
    distances, is_same = _arrays(rows)
    thresholds = FIELD_THRESHOLDS[::7]
    fast = fold_accuracy(distances, is_same, folds=folds, thresholds=thresholds)
    accuracies, chosen = slow_fold_accuracy(distances, is_same, folds, thresholds)
    assert fast.accuracies.tolist() == accuracies
    assert fast.thresholds.tolist() == chosen
    assert (fast.mean, fast.std) == (float(np.mean(accuracies)), float(np.std(accuracies)))


def test_ten_fold_accuracy_on_the_field_thresholds_equals_the_literal_loops():
    rng = np.random.default_rng(0)
    is_same = np.repeat([True, False] * 10, 15)
    distances = np.where(is_same, rng.normal(1.0, 0.3, 300), rng.normal(1.5, 0.3, 300)).round(2)
    fast = fold_accuracy(distances, is_same)
    accuracies, chosen = slow_fold_accuracy(distances, is_same, 10, np.arange(0, 4, 0.01))
    assert fast.accuracies.tolist() == accuracies
    assert fast.thresholds.tolist() == chosen
    assert fast.threshold_l2 == pytest.approx(np.mean(chosen))
    assert fast.threshold_cosine == pytest.approx(np.mean([1 - t / 2 for t in chosen]))


def test_fold_accuracy_counts_a_distance_on_the_threshold_as_different():
    is_same = np.array([True, False] * 10)
    distances = np.where(is_same, 0.0, 0.01)
    # 0.01 itself separates: 0 < 0.01 is the same person, 0.01 < 0.01 is not.
    result = fold_accuracy(distances, is_same)
    assert result.mean == 1.0
    assert result.thresholds.tolist() == [0.01] * 10


def test_fold_accuracy_of_pairs_sorted_by_kind_is_scored_like_any_other():
    is_same = np.repeat([True, False], 30)
    distances = np.where(is_same, 0.5, 2.5)
    assert fold_accuracy(distances, is_same).mean == 1.0
    # Two folds of one kind each: the first threshold that suits one kind is all the other fold can teach.
    assert fold_accuracy(distances, is_same, folds=2).thresholds.tolist() == [0.0, 0.51]
    assert fold_accuracy(distances, is_same, folds=2).accuracies.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(("num_pairs", "folds"), [(600, 10), (603, 10), (10, 10), (7, 3)])
def test_fold_sizes_cover_all_pairs_and_differ_by_one_at_most(num_pairs, folds):
    sizes = fold_sizes(num_pairs, folds)
    assert sum(sizes) == num_pairs
    assert sorted(sizes, reverse=True) == sizes
    assert max(sizes) - min(sizes) <= 1


def test_every_threshold_reaches_the_best_split_of_crowded_distances():
    is_same = np.array([True, False] * 50)
    distances = np.where(is_same, 1e-5, 2e-5)
    assert fold_accuracy(distances, is_same).mean == 0.5
    assert fold_accuracy(distances, is_same, thresholds=every_threshold(distances)).mean == 1.0


def test_six_thousand_pairs_take_milliseconds():
    rng = np.random.default_rng(1)
    distances, is_same = rng.uniform(0, 4, 6000), rng.random(6000) < 0.5
    fold_accuracy(distances, is_same)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        fold_accuracy(distances, is_same)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05


def test_distances_are_two_minus_twice_the_cosine():
    rng = np.random.default_rng(2)
    embeddings = rng.normal(size=(40, 16)).astype(np.float32) * 30
    a, b = embeddings[0::2].astype(np.float64), embeddings[1::2].astype(np.float64)
    cosine = (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))
    np.testing.assert_allclose(pair_distances(embeddings), 2 - 2 * cosine, atol=1e-12)


def test_a_row_of_zeros_stays_zeros():
    assert unit_rows([[0.0, 0.0], [3.0, 4.0]]).tolist() == [[0.0, 0.0], [0.6, 0.8]]


@settings(max_examples=200, deadline=None)
@given(rows=_labeled(_score, 2), target=st.sampled_from([0.0, 1e-4, 1e-3, 0.05, 0.1, 1 / 3, 0.5, 0.7, 1.0]))
def test_tar_at_far_is_the_best_allowed_operating_point(rows, target):
    scores, is_same = _arrays([*rows, (0.3, True), (0.1, False)])
    fast = tar_at_far(scores, is_same, target)
    assert (fast.tar, fast.far) == slow_tar_at_far(scores, is_same, target)
    assert fast.far <= target
    # The threshold reported is the one that gives these rates.
    assert fast.tar == sum(scores[is_same] >= fast.threshold) / sum(is_same)
    assert fast.far == sum(scores[~is_same] >= fast.threshold) / sum(~is_same)


def test_tar_at_far_on_a_list_checked_by_hand():
    positives = [0.9, 0.8, 0.6, 0.4]
    negatives = [0.7, 0.5, 0.3, 0.2, 0.1, 0.0, -0.1, -0.2, -0.3, -0.4]
    scores, is_same = np.array(positives + negatives), np.array([True] * 4 + [False] * 10)
    tenth = tar_at_far(scores, is_same, 0.1)  # one false accept: 0.7; all above 0.5
    assert (tenth.tar, tenth.far, tenth.threshold) == (0.75, 0.1, 0.6)
    assert tenth.is_resolved
    # 0.19 allows one false accept, not the nearest two.
    assert (tar_at_far(scores, is_same, 0.19).tar, tar_at_far(scores, is_same, 0.19).far) == (0.75, 0.1)
    fine = tar_at_far(scores, is_same, 0.05)  # below 1/10: no false accept
    assert (fine.tar, fine.far, fine.threshold, fine.resolution) == (0.5, 0.0, 0.8, 0.1)
    assert not fine.is_resolved
    everything = tar_at_far(scores, is_same, 1.0)
    assert (everything.tar, everything.far, everything.threshold) == (1.0, 1.0, -0.4)


def test_tied_negatives_are_rejected_together():
    scores, is_same = np.array([0.5, 0.5, 0.5, 0.1, 0.5, 0.6]), np.array([False] * 4 + [True] * 2)
    result = tar_at_far(scores, is_same, 0.5)  # two of four would be allowed, but three tie
    assert (result.tar, result.far, result.threshold) == (0.5, 0.0, 0.6)


def test_a_negative_on_top_leaves_nothing_to_accept():
    result = tar_at_far(np.array([1.0, 0.2]), np.array([False, True]), 1e-3)
    assert (result.tar, result.far) == (0.0, 0.0)
    assert 1.0 < result.threshold < 1.0 + 1e-12


@pytest.mark.parametrize(
    ("count", "target", "allowed"), [(3000, 1e-3, 3), (1000, 1e-3, 1), (29, 1 / 29, 1), (7, 3 / 7, 3)]
)
def test_a_target_that_is_a_whole_number_of_negatives_is_reached(count, target, allowed):
    scores = np.concatenate([np.linspace(0, 0.5, count), [0.9]])
    is_same = np.array([False] * count + [True])
    assert tar_at_far(scores, is_same, target).far == allowed / count


@settings(max_examples=200, deadline=None)
@given(rows=_labeled(_score, 2))
def test_auc_equals_the_probability_counted_pair_by_pair(rows):
    scores, is_same = _arrays([*rows, (0.3, True), (0.1, False)])
    wins = [1.0 if p > n else 0.5 if p == n else 0.0 for p, n in itertools.product(scores[is_same], scores[~is_same])]
    assert roc_auc(scores, is_same) == sum(wins) / len(wins)


@settings(max_examples=100, deadline=None)
@given(rows=_labeled(_score, 2))
def test_the_area_under_the_curve_is_the_auc(rows):
    scores, is_same = _arrays([*rows, (0.3, True), (0.1, False)])
    curve = roc_curve(scores, is_same)
    assert (curve.far[0], curve.tar[0], curve.far[-1], curve.tar[-1]) == (0, 0, 1, 1)
    area = np.sum(np.diff(curve.far) * (curve.tar[1:] + curve.tar[:-1]) / 2)
    assert area == pytest.approx(roc_auc(scores, is_same), abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(rows=_labeled(_score, 2))
def test_equal_error_rate_is_where_the_two_errors_meet(rows):
    scores, is_same = _arrays([*rows, (0.3, True), (0.1, False)])
    points = []
    for threshold in [*scores, np.inf]:
        far = sum(scores[~is_same] >= threshold) / sum(~is_same)
        frr = sum(scores[is_same] < threshold) / sum(is_same)
        points.append((round(abs(far - frr), 12), (far + frr) / 2))
    assert equal_error_rate(scores, is_same) == pytest.approx(min(points)[1], abs=1e-12)


def test_equal_error_rate_on_lists_checked_by_hand():
    assert equal_error_rate(np.array([0.9, 0.8, 0.2, 0.1]), np.array([True, True, False, False])) == 0.0
    assert equal_error_rate(np.array([0.9, 0.2, 0.8, 0.1]), np.array([True, True, False, False])) == 0.5
    scores = np.array([0.9, 0.8, 0.7, 0.4, 0.6, 0.3, 0.2, 0.1])
    assert equal_error_rate(scores, np.array([True] * 4 + [False] * 4)) == 0.25


def test_one_kind_of_pairs_is_an_error_that_counts_them():
    scores = np.array([0.1, 0.2, 0.3])
    for measure in (roc_auc, equal_error_rate, lambda s, m: tar_at_far(s, m, 1e-3)):
        with pytest.raises(DataError, match="3 of 3 pairs show the same person; expected pairs of both kinds"):
            measure(scores, np.array([True] * 3))
        with pytest.raises(DataError, match="0 of 3 pairs show the same person"):
            measure(scores, np.array([False] * 3))


def test_fewer_pairs_than_folds_is_an_error():
    with pytest.raises(DataError, match="4 pairs; expected at least one per fold; add pairs or lower the 10 folds"):
        fold_accuracy(np.zeros(4), np.array([True, False] * 2))
    with pytest.raises(DataError, match="4 pairs; expected at least one per fold"):
        check_pairs(np.array([True, False] * 2), 10)
    with pytest.raises(DataError, match="1 fold requested; expected at least 2"):
        fold_accuracy(np.zeros(4), np.array([True, False] * 2), folds=1)


def test_distances_that_are_not_finite_are_an_error():
    with pytest.raises(DataError, match="2 of 20 distances are not finite; expected numbers; look for NaN"):
        fold_accuracy(np.array([np.nan, np.inf] + [1.0] * 18), np.array([True, False] * 10))
