"""Turn pair distances or scores into the numbers of face verification; numpy only, exact, no interpolation.

A *distance* is the squared L2 distance of two unit embeddings, 2 - 2 cos, in [0, 4]; a *score* is larger for pairs
that are more alike, as the cosine is. `is_same` says which pairs show one person. Everything is computed from sorted
values or counts, so ties are treated exactly and ten million pairs take seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recognition.embedding.unit_rows import to_unit_rows_
from recognition.errors import DataError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

FIELD_THRESHOLDS: Floats = np.arange(0, 4, 0.01)
"""The thresholds on the distance that published 10-fold accuracies were chosen from."""


@dataclass(frozen=True)
class FoldAccuracy:
    """Accuracy on each held-out fold, at the threshold that was best on the other folds."""

    accuracies: Floats  # [folds]
    thresholds: Floats  # [folds], squared L2

    @property
    def mean(self) -> float:
        return float(np.mean(self.accuracies))

    @property
    def std(self) -> float:
        """The population's, as the field reports it."""
        return float(np.std(self.accuracies))

    @property
    def threshold_l2(self) -> float:
        """The mean chosen threshold as a squared L2 distance: same person when below."""
        return float(np.mean(self.thresholds))

    @property
    def threshold_cosine(self) -> float:
        """The same threshold as a cosine: same person when above."""
        return 1.0 - self.threshold_l2 / 2.0


@dataclass(frozen=True)
class TarAtFar:
    """The largest true accept rate whose false accept rate stays at or below `target`."""

    target: float
    tar: float
    far: float
    """The false accept rate achieved; at most `target`."""
    threshold: float
    """Accept a pair when its score is at least this."""
    resolution: float
    """The smallest false accept rate above zero that this many negatives can show."""

    @property
    def is_resolved(self) -> bool:
        """Whether there are enough negatives for `target` to differ from zero."""
        return self.target >= self.resolution


@dataclass(frozen=True)
class RocCurve:
    """Every operating point, from accepting nothing to accepting all; one point per distinct score."""

    far: Floats
    tar: Floats
    thresholds: Floats
    """Accept a pair when its score is at least this; +inf at the first point."""


def unit_rows(embeddings: npt.ArrayLike) -> Floats:
    """Return the rows scaled to length one, in float64; a row of zeros stays zeros."""
    rows = np.array(embeddings, dtype=np.float64)
    to_unit_rows_(rows)
    return rows


def pair_distances(embeddings: npt.ArrayLike) -> Floats:
    """Return the squared L2 distance of each pair: rows 2i and 2i+1 of `embeddings` [2n, D], scaled to length one."""
    units = unit_rows(embeddings)
    distances: npt.NDArray[np.float64] = np.sum(np.square(units[0::2] - units[1::2]), axis=1)
    return distances


def fold_sizes(num_pairs: int, folds: int) -> list[int]:
    """Return the sizes of consecutive folds; the first `num_pairs % folds` hold one pair more."""
    each, extra = divmod(num_pairs, folds)
    return [each + (fold < extra) for fold in range(folds)]


def check_pairs(is_same: Bools, folds: int) -> None:
    """Raise DataError unless there are pairs of both kinds, and enough of them for `folds`."""
    _check_folds(len(is_same), folds)
    _check_kinds(int(np.count_nonzero(is_same)), len(is_same))


def fold_accuracy(
    distances: Floats, is_same: Bools, *, folds: int = 10, thresholds: Floats = FIELD_THRESHOLDS
) -> FoldAccuracy:
    """Return the accuracy of each fold of consecutive pairs, its threshold chosen on all the others.

    A pair is called the same person when its distance is below the threshold; the chosen one is the first of the
    ascending `thresholds` at which most pairs of the other folds are right. A fold that holds one kind of pairs only is
    scored like any other. Raises DataError for fewer pairs than folds and for distances that are not finite.
    """
    distances, is_same = _checked(distances, is_same, "distances")
    _check_folds(len(distances), folds)
    sizes = np.asarray(fold_sizes(len(distances), folds))
    # A pair is accepted from the first threshold above its distance on: count there, sum up along the thresholds.
    first_accepting = np.searchsorted(thresholds, distances, side="right")
    width = len(thresholds) + 1
    cell = np.repeat(np.arange(folds), sizes) * width + first_accepting
    gain = np.bincount(cell, np.where(is_same, 1, -1), minlength=folds * width).reshape(folds, width)
    rejected_right = np.bincount(np.repeat(np.arange(folds), sizes), ~is_same, minlength=folds)  # [folds]
    right = rejected_right[:, None] + np.cumsum(gain[:, :-1], axis=1)  # [folds, thresholds]; whole numbers, exact
    chosen = np.argmax(right.sum(axis=0) - right, axis=1)
    return FoldAccuracy(right[np.arange(folds), chosen] / sizes, thresholds[chosen])


def every_threshold(distances: Floats) -> Floats:
    """Return ascending thresholds that separate `distances` in every possible way.

    The field's thresholds are 0.01 apart, too coarse for measures whose distances crowd together (raw pixels).
    """
    distinct = np.unique(distances)
    return np.append(distinct, np.nextafter(distinct[-1], np.inf))


def tar_at_far(scores: Floats, is_same: Bools, target: float) -> TarAtFar:
    """Return the largest true accept rate whose false accept rate is at most `target`.

    The threshold is the lowest score above the negative that would be one too many. Tied scores are accepted or
    rejected together. A target below one over the number of negatives allows no false accept at all.
    Raises DataError without positives or without negatives.
    """
    positives, negatives = _split(scores, is_same)
    count = len(negatives)
    allowed = min(int(target * count) + 1, count)
    while allowed > 0 and allowed / count > target:  # decided in the same division a reader of `far` would check
        allowed -= 1
    if allowed == count:
        threshold = min(positives[0], negatives[0])
    else:
        too_many = negatives[count - 1 - allowed]
        threshold = _lowest_above(positives, negatives, too_many)
    tar = (len(positives) - np.searchsorted(positives, threshold)) / len(positives)
    far = (count - np.searchsorted(negatives, threshold)) / count
    return TarAtFar(target, float(tar), float(far), float(threshold), 1.0 / count)


def roc_auc(scores: Floats, is_same: Bools) -> float:
    """Return the probability that a positive scores above a negative, ties counting half (Mann-Whitney)."""
    positives, negatives = _split(scores, is_same)
    below = int(np.searchsorted(negatives, positives, side="left").sum())
    not_above = int(np.searchsorted(negatives, positives, side="right").sum())
    return (below + not_above) / (2 * len(positives) * len(negatives))


def roc_curve(scores: Floats, is_same: Bools) -> RocCurve:
    """Return the false and true accept rate at every distinct score, thresholds descending."""
    positives, negatives = _split(scores, is_same)
    thresholds = np.unique(np.concatenate([positives, negatives]))[::-1]
    accepted_same = len(positives) - np.searchsorted(positives, thresholds)
    accepted_different = len(negatives) - np.searchsorted(negatives, thresholds)
    return RocCurve(
        np.concatenate([[0.0], accepted_different / len(negatives)]),
        np.concatenate([[0.0], accepted_same / len(positives)]),
        np.concatenate([[np.inf], thresholds]),
    )


def equal_error_rate(scores: Floats, is_same: Bools) -> float:
    """Return the mean of false accept and false reject rate where the two are closest; of ties, the lowest mean."""
    curve = roc_curve(scores, is_same)
    false_reject = 1.0 - curve.tar
    order = np.lexsort(((curve.far + false_reject) / 2, np.round(np.abs(curve.far - false_reject), 12)))
    best = order[0]
    return float((curve.far[best] + false_reject[best]) / 2)


def _lowest_above(positives: Floats, negatives: Floats, bound: float) -> float:
    """Return the lowest score above `bound`, or the next float after it when there is none."""
    candidates = []
    for side in (positives, negatives):  # ascending
        position = np.searchsorted(side, bound, side="right")
        if position < len(side):
            candidates.append(side[position])
    return float(min(candidates)) if candidates else float(np.nextafter(bound, np.inf))


def _split(scores: Floats, is_same: Bools) -> tuple[Floats, Floats]:
    """Return the scores of positives and of negatives, each ascending."""
    scores, is_same = _checked(scores, is_same, "scores")
    positives, negatives = np.sort(scores[is_same]), np.sort(scores[~is_same])
    _check_kinds(len(positives), len(scores))
    return positives, negatives


def _check_folds(num_pairs: int, folds: int) -> None:
    if folds < 2:
        raise DataError(f"{folds} fold requested; expected at least 2: one to test on, one to choose the threshold on")
    if num_pairs < folds:
        raise DataError(f"{num_pairs} pairs; expected at least one per fold; add pairs or lower the {folds} folds")


def _check_kinds(num_same: int, num_pairs: int) -> None:
    if num_same in (0, num_pairs):
        raise DataError(
            f"{num_same} of {num_pairs} pairs show the same person; expected pairs of both kinds; add the missing kind"
        )


def _checked(values: npt.ArrayLike, is_same: npt.ArrayLike, what: str) -> tuple[Floats, Bools]:
    numbers, same = np.asarray(values, dtype=np.float64), np.asarray(is_same, dtype=bool)
    assert numbers.ndim == 1, f"{what} have the shape {numbers.shape}"
    assert numbers.shape == same.shape, f"{len(numbers)} {what} for {len(same)} pairs"
    broken = int(np.count_nonzero(~np.isfinite(numbers)))
    if broken:
        raise DataError(f"{broken} of {len(numbers)} {what} are not finite; expected numbers; look for NaN in weights")
    return numbers, same
