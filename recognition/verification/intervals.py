"""Confidence intervals by drawing people, not pairs, and choosing every threshold anew in each draw.

The pairs of one person resemble each other: drawing pairs as if each were new evidence gives intervals that are too
narrow. So people are drawn with replacement: with w_i the number of times that person i was drawn, a pair of person i
weighs w_i, and a pair of persons i and j weighs w_i w_j (the bootstrap of a two-sample statistic whose units are the
people; Bolle, Ratha and Pankanti, "Error analysis of pattern recognition systems: the subsets bootstrap", CVIU 2004,
draws people too). An interval holds the middle 95 % of the draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from recognition.verification.metrics import FoldTable
from recognition.verification.sorted_scores import Bools, Floats, tar_name

NUM_DRAWS = 200
LEVEL = 0.95
MIN_ABOVE = 10
"""Fewest pairs of different people above a threshold for which an interval of what it gives is stated."""
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Interval:
    """Where the middle 95 % of the draws lie."""

    low: float
    high: float


@dataclass(frozen=True, eq=False)
class PairPeople:
    """Who the two pictures of each pair show, as numbers below `num`; of a same pair `second` is `first`."""

    first: Indices  # [n]
    second: Indices  # [n]
    num: int

    @classmethod
    def of(cls, names: npt.ArrayLike) -> PairPeople:
        """Number the people by their names [2n], those of pair i being 2i and 2i + 1."""
        distinct, numbers = np.unique(np.asarray(names, dtype=np.str_), return_inverse=True)
        numbers = numbers.astype(np.int64)
        return cls(numbers[0::2], numbers[1::2], len(distinct))

    def weights(self, drawn: Floats, is_same: Bools) -> Floats:
        """Return how much each pair weighs [n] when person i was drawn `drawn[i]` times."""
        first = drawn[self.first]
        weights: Floats = np.where(is_same, first, first * drawn[self.second])
        return weights


def draw_people(num: int, generator: np.random.Generator) -> Floats:
    """Return how often each of `num` people is drawn in `num` draws with replacement."""
    return np.bincount(generator.integers(0, num, num), minlength=num).astype(np.float64)


def intervals(
    measure: Callable[[Floats], Mapping[str, float]], draw: Callable[[np.random.Generator], Floats], *, seed: int = 0
) -> dict[str, Interval]:
    """Return the interval of each number that `measure` makes of a draw, over NUM_DRAWS draws.

    A draw without pairs of one kind gives no numbers, and is left out.
    """
    generator = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for _ in range(NUM_DRAWS):
        for name, value in measure(draw(generator)).items():
            found.setdefault(name, []).append(value)
    return {name: interval_of(values) for name, values in found.items()}


def interval_of(values: list[float]) -> Interval:
    """Return where the middle 95 % of draws lie."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


class WeightedScores:
    """Pairs sorted by score once, for numbers under any weights of the pairs."""

    def __init__(self, scores: Floats, is_same: Bools) -> None:
        self._order = np.argsort(-scores, kind="stable")
        self._scores = scores[self._order]  # descending
        self._is_same = is_same[self._order]
        # The last of each run of equal scores: only there a threshold can lie.
        self._ends = np.flatnonzero(np.append(np.diff(self._scores) != 0, True))

    def accepted(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return the weight of the same and of the different pairs at or above each distinct score, descending."""
        ordered = weights[self._order]
        same = np.cumsum(np.where(self._is_same, ordered, 0.0))[self._ends]
        different = np.cumsum(np.where(self._is_same, 0.0, ordered))[self._ends]
        return same, different

    def score_at(self, place: int) -> float:
        """Return the distinct score of that place, from 0, descending."""
        return float(self._scores[self._ends[place]])

    def place_of(self, threshold: float) -> int:
        """Return how many distinct scores are above `threshold`."""
        return int(np.searchsorted(-self._scores[self._ends], -threshold, side="left"))


def rates(same: Floats, different: Floats, targets: tuple[float, ...]) -> dict[str, float]:
    """Return TAR at each FAR target, AUC and EER from the weights accepted at descending thresholds.

    Nothing is returned where one kind weighs nothing.
    """
    num_same, num_different = same[-1], different[-1]
    if num_same <= 0 or num_different <= 0:
        return {}
    tar, far = same / num_same, different / num_different
    found = {}
    for target in targets:
        num_within = int(np.searchsorted(far, target, side="right"))
        found[tar_name(target)] = float(tar[num_within - 1]) if num_within else 0.0
    # Each same pair counts the different ones below it, and half of those beside it.
    gained = np.diff(same, prepend=0.0)
    below = num_different - different
    beside = np.diff(different, prepend=0.0)
    found["auc"] = float(np.sum(gained * (below + beside / 2)) / (num_same * num_different))
    nearest = int(np.argmin(np.abs(far - (1.0 - tar))))
    found["eer"] = float((far[nearest] + 1.0 - tar[nearest]) / 2)
    return found


def decision_rates(same: Floats, different: Floats, place: int) -> dict[str, float]:
    """Return precision, recall and F1 of accepting the first `place` distinct scores."""
    if same[-1] <= 0 or different[-1] <= 0:
        return {}
    right = float(same[place - 1]) if place else 0.0
    wrong = float(different[place - 1]) if place else 0.0
    return {
        "precision": right / (right + wrong) if right + wrong else 0.0,
        "recall": right / float(same[-1]),
        "f1": 2 * right / (right + wrong + float(same[-1])) if right else 0.0,
    }


def verification_intervals(
    *,
    scores: Floats,
    is_same: Bools,
    table: FoldTable,
    score_of: Callable[[float], float],
    people: PairPeople,
    targets: tuple[float, ...],
    seed: int = 0,
) -> dict[str, Interval]:
    """Return the intervals of accuracy, precision, recall, f1, TAR at each target, AUC and EER.

    `table` holds the same pairs as `scores` [n]; `score_of` turns one of its thresholds into a score.
    """
    ordered = WeightedScores(scores, is_same)

    def measure(drawn: Floats) -> dict[str, float]:
        weights = people.weights(drawn, is_same)
        same, different = ordered.accepted(weights)
        found = rates(same, different, targets)
        if not found:
            return {}
        accuracy = table.measure(weights)
        place = ordered.place_of(score_of(float(np.mean(accuracy.thresholds))))
        return {"accuracy": accuracy.mean, **decision_rates(same, different, place), **found}

    return intervals(measure, partial(draw_people, people.num), seed=seed)
