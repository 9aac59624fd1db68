"""Scores of same and of different pairs, each sorted once; numpy only, exact, no interpolation.

Every number that depends on the order of the scores alone is a few searches in the two sorted arrays, so ten million
pairs take seconds, and ties are treated exactly: tied pairs are accepted or rejected together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recognition.errors import DataError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


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

    @property
    def num_above(self) -> int:
        """How many pairs of different people are accepted."""
        return round(self.far / self.resolution)


def tar_name(target: float) -> str:
    """Spell a target the field's way: tar@far1e-3."""
    return f"tar@far{target:.0e}".replace("e-0", "e-")


@dataclass(frozen=True)
class RocCurve:
    """Every operating point, from accepting nothing to accepting all; one point per distinct score."""

    far: Floats
    tar: Floats
    thresholds: Floats
    """Accept a pair when its score is at least this; +inf at the first point."""

    @property
    def fnmr(self) -> Floats:
        """The false reject rates: with `far`, the curve that is drawn as DET."""
        rejected: Floats = 1.0 - self.tar
        return rejected


@dataclass(frozen=True)
class Counts:
    """What one threshold makes of all pairs."""

    true_accepts: int
    false_accepts: int
    true_rejects: int
    false_rejects: int

    @property
    def precision(self) -> float:
        """The share of the accepted pairs that show one person; 0 where none is accepted."""
        accepted = self.true_accepts + self.false_accepts
        return self.true_accepts / accepted if accepted else 0.0

    @property
    def recall(self) -> float:
        """The share of the same pairs that are accepted: the true accept rate."""
        return self.true_accepts / (self.true_accepts + self.false_rejects)

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall; 0 where nothing right is accepted."""
        found = 2 * self.true_accepts
        return found / (found + self.false_accepts + self.false_rejects) if found else 0.0


@dataclass(frozen=True, eq=False)
class SortedScores:
    """The scores of pairs of one person and of two, each ascending."""

    positives: Floats
    negatives: Floats

    @classmethod
    def of(cls, scores: npt.ArrayLike, is_same: npt.ArrayLike) -> SortedScores:
        """Sort the two kinds; DataError when one is missing or a score is not finite."""
        numbers, same = checked(scores, is_same, "scores")
        check_kinds(int(np.count_nonzero(same)), len(same))
        positives, negatives = numbers[same], numbers[~same]
        positives.sort()
        negatives.sort()
        return cls(positives, negatives)

    def tar_at_far(self, target: float) -> TarAtFar:
        """Return the largest true accept rate whose false accept rate is at most `target`.

        The threshold is the lowest score above the negative that would be one too many. A target below one over the
        number of negatives allows no false accept at all.
        """
        count = len(self.negatives)
        allowed = min(int(target * count) + 1, count)
        while allowed > 0 and allowed / count > target:  # decided in the same division a reader of `far` would check
            allowed -= 1
        if allowed == count:
            threshold = min(self.positives[0], self.negatives[0])
        else:
            threshold = self._lowest_above(self.negatives[count - 1 - allowed])
        tar = (len(self.positives) - np.searchsorted(self.positives, threshold)) / len(self.positives)
        far = (count - np.searchsorted(self.negatives, threshold)) / count
        return TarAtFar(target, float(tar), float(far), float(threshold), 1.0 / count)

    def auc(self) -> float:
        """Return the probability that a positive scores above a negative, ties counting half (Mann-Whitney)."""
        below = int(np.searchsorted(self.negatives, self.positives, side="left").sum())
        not_above = int(np.searchsorted(self.negatives, self.positives, side="right").sum())
        return (below + not_above) / (2 * len(self.positives) * len(self.negatives))

    def roc(self) -> RocCurve:
        """Return the false and true accept rate at every distinct score, thresholds descending."""
        both = np.concatenate([self.negatives, self.positives])
        order = np.argsort(both, kind="stable")  # merges two runs that are sorted: linear in their length
        both = both[order]
        starts = np.flatnonzero(np.append(True, both[1:] != both[:-1]))  # of each run of equal scores
        positives_below = np.append(0, np.cumsum(order >= len(self.negatives)))[starts]
        negatives_below = starts - positives_below
        far, tar = (
            np.append(0.0, ((len(side) - below) / len(side))[::-1])
            for side, below in ((self.negatives, negatives_below), (self.positives, positives_below))
        )
        return RocCurve(far, tar, np.append(np.inf, both[starts][::-1]))

    def equal_error(self, curve: RocCurve | None = None) -> tuple[float, float]:
        """Return the equal error rate and its threshold.

        The rate is the mean of false accept and false reject rate where the two are closest; of ties, the lowest mean.
        `curve` is what `roc` returned, where it is at hand.
        """
        curve = curve or self.roc()
        gap = np.round(np.abs(curve.far - curve.fnmr), 12)
        closest = np.flatnonzero(gap == gap.min())
        means = (curve.far[closest] + curve.fnmr[closest]) / 2
        best = int(np.argmin(means))
        return float(means[best]), float(curve.thresholds[closest[best]])

    def counts(self, threshold: float) -> Counts:
        """Return what accepting every score of at least `threshold` makes of the pairs."""
        false_rejects = int(np.searchsorted(self.positives, threshold))
        true_rejects = int(np.searchsorted(self.negatives, threshold))
        return Counts(
            len(self.positives) - false_rejects, len(self.negatives) - true_rejects, true_rejects, false_rejects
        )

    def _lowest_above(self, bound: float) -> float:
        """Return the lowest score above `bound`, or the next float after it when there is none."""
        candidates = []
        for side in (self.positives, self.negatives):
            position = np.searchsorted(side, bound, side="right")
            if position < len(side):
                candidates.append(side[position])
        return float(min(candidates)) if candidates else float(np.nextafter(bound, np.inf))


def check_kinds(num_same: int, num_pairs: int) -> None:
    """Raise DataError unless there are pairs of both kinds."""
    if num_same in (0, num_pairs):
        raise DataError(
            f"{num_same} of {num_pairs} pairs show the same person; expected pairs of both kinds; add the missing kind"
        )


def checked(values: npt.ArrayLike, is_same: npt.ArrayLike, what: str) -> tuple[Floats, Bools]:
    """Return both as arrays of one length; DataError when a value is not finite."""
    numbers, same = np.asarray(values, dtype=np.float64), np.asarray(is_same, dtype=bool)
    assert numbers.ndim == 1, f"{what} have the shape {numbers.shape}"
    assert numbers.shape == same.shape, f"{len(numbers)} {what} for {len(same)} pairs"
    broken = int(np.count_nonzero(~np.isfinite(numbers)))
    if broken:
        raise DataError(f"{broken} of {len(numbers)} {what} are not finite; expected numbers; look for NaN in weights")
    return numbers, same
