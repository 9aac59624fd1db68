"""Turn pair distances or scores into the numbers of face verification; numpy only, exact, no interpolation.

A *distance* is the squared L2 distance of two unit embeddings, 2 - 2 cos, in [0, 4]; a *score* is larger for pairs
that are more alike, as the cosine is. `is_same` says which pairs show one person. What depends on the order of scores
alone is in sorted_scores.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recognition.embedding.unit_rows import to_unit_rows_
from recognition.errors import DataError
from recognition.verification.sorted_scores import (
    Bools,
    Floats,
    RocCurve,
    SortedScores,
    TarAtFar,
    check_kinds,
    checked,
)

FIELD_THRESHOLDS: Floats = np.arange(0, 4, 0.01)
"""The thresholds on the distance that published 10-fold accuracies were chosen from."""
MAX_DISTINCT = 1 << 17
"""Most thresholds that are tried where all that matter are asked for: ten folds of them are counted in 10 MiB."""


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
    check_kinds(int(np.count_nonzero(is_same)), len(is_same))


@dataclass(frozen=True, eq=False)
class FoldTable:
    """Pairs counted by fold and by the first threshold that accepts them: fold accuracies for any weights of the pairs.

    A pair is called the same person when its distance is below the threshold.
    """

    fold: npt.NDArray[np.int64]  # [n]
    first_accepting: npt.NDArray[np.int64]  # [n]
    is_same: Bools  # [n]
    thresholds: Floats
    num_folds: int

    @classmethod
    def of(cls, distances: Floats, is_same: Bools, *, sizes: Sequence[int], thresholds: Floats) -> FoldTable:
        """Count consecutive folds of these `sizes`; DataError for distances that are not finite."""
        distances, is_same = checked(distances, is_same, "distances")
        assert sum(sizes) == len(distances), f"folds of {sum(sizes)} pairs for {len(distances)}"
        fold = np.repeat(np.arange(len(sizes)), sizes)
        return cls(fold, np.searchsorted(thresholds, distances, side="right"), is_same, thresholds, len(sizes))

    def measure(self, weights: Floats | None = None) -> FoldAccuracy:
        """Return the accuracy of each fold, its threshold chosen on all the others; a pair counts `weights` [n] times.

        The chosen threshold is the first of the ascending ones at which most pairs of the other folds are right. A fold
        whose pairs all weigh nothing has no accuracy, and is not among those returned.
        """
        # A pair is accepted from the first threshold above its distance on: count there, sum up along the thresholds.
        width = len(self.thresholds) + 1
        cell = self.fold * width + self.first_accepting
        signs = np.where(self.is_same, 1.0, -1.0) if weights is None else np.where(self.is_same, weights, -weights)
        gain = np.bincount(cell, signs, minlength=self.num_folds * width).reshape(self.num_folds, width)
        different = ~self.is_same if weights is None else np.where(self.is_same, 0.0, weights)
        rejected_right = np.bincount(self.fold, different, minlength=self.num_folds)  # [folds]
        # [folds, thresholds]; whole numbers for whole weights, exact
        right = rejected_right[:, None] + np.cumsum(gain[:, :-1], axis=1)
        chosen = np.argmax(right.sum(axis=0) - right, axis=1)
        sizes = np.bincount(self.fold, weights, minlength=self.num_folds)
        held = np.flatnonzero(sizes > 0)
        return FoldAccuracy(right[held, chosen[held]] / sizes[held], self.thresholds[chosen[held]])


def fold_accuracy(
    distances: Floats,
    is_same: Bools,
    *,
    folds: int = 10,
    sizes: Sequence[int] | None = None,
    thresholds: Floats = FIELD_THRESHOLDS,
) -> FoldAccuracy:
    """Return the accuracy of each fold of consecutive pairs, its threshold chosen on all the others.

    `sizes` are those of the folds, where a list has its own. A fold that holds one kind of pairs only is scored like
    any other. Raises DataError for fewer pairs than folds and for distances that are not finite.
    """
    _check_folds(len(distances), folds if sizes is None else len(sizes))
    sizes = fold_sizes(len(distances), folds) if sizes is None else sizes
    return FoldTable.of(distances, is_same, sizes=sizes, thresholds=thresholds).measure()


def every_threshold(distances: Floats) -> Floats:
    """Return ascending thresholds that separate `distances` in every possible way, if there are few enough.

    The field's thresholds are 0.01 apart, too coarse for measures whose distances crowd together (raw pixels). Of more
    distinct distances, evenly spread ranks are taken: an approximation that moves an accuracy by at most one in
    MAX_DISTINCT pairs.
    """
    distinct = np.unique(distances)
    if len(distinct) > MAX_DISTINCT:
        distinct = distinct[np.linspace(0, len(distinct) - 1, MAX_DISTINCT).astype(np.int64)]
    return np.append(distinct, np.nextafter(distinct[-1], np.inf))


def tar_at_far(scores: Floats, is_same: Bools, target: float) -> TarAtFar:
    """Return the largest true accept rate whose false accept rate is at most `target` (`SortedScores.tar_at_far`).

    Raises DataError without positives or without negatives.
    """
    return SortedScores.of(scores, is_same).tar_at_far(target)


def roc_auc(scores: Floats, is_same: Bools) -> float:
    """Return the probability that a positive scores above a negative, ties counting half (Mann-Whitney)."""
    return SortedScores.of(scores, is_same).auc()


def roc_curve(scores: Floats, is_same: Bools) -> RocCurve:
    """Return the false and true accept rate at every distinct score, thresholds descending."""
    return SortedScores.of(scores, is_same).roc()


def equal_error_rate(scores: Floats, is_same: Bools) -> float:
    """Return the mean of false accept and false reject rate where the two are closest; of ties, the lowest mean."""
    return SortedScores.of(scores, is_same).equal_error()[0]


def _check_folds(num_pairs: int, folds: int) -> None:
    if folds < 2:
        raise DataError(f"{folds} fold requested; expected at least 2: one to test on, one to choose the threshold on")
    if num_pairs < folds:
        raise DataError(f"{num_pairs} pairs; expected at least one per fold; add pairs or lower the {folds} folds")
