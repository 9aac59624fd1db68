"""Thresholds from the data's own score histograms, whatever network made the embeddings and however wrong the labels.

What agrees and what does not is learned on a sample: cosines within identities and between them. Some pictures sit in
the wrong identity, so the scores within are a mixture; how much of it is strangers shows where only strangers score.
A picture that is compared with everybody meets strangers who agree by chance, the more of them the larger the set; how
many, the upper tail of the scores between says.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import numpy as np

from recognition.cleaning.agreement import agreeing, block_clusters, main_cluster, mean_cosines
from recognition.cleaning.pictures import Pictures, group_rows
from recognition.errors import DataError

BINS = 4000
"""Of the histograms, over [-1, 1]."""

SAMPLE = 2**16
_PARTNERS = 16
_PER_IDENTITY = 256  # pictures of an identity that are sampled at most
_LEAST = 30  # scores a histogram needs
_SURE = 0.1
_MERGED_BY_CHANCE = 0.01  # of the identities, which other identities are taken for
_FOUND_BY_CHANCE = 0.05  # of the identities or pictures, with which a picture of a stranger is held to agree
_LINKED = 0.02  # of right scores, that a link between identities which may be one person misses
_LINKED_BY_CHANCE = 0.05  # of the identities, which are linked with a stranger
_TAIL = (0.01, 1e-5)  # probabilities between which scores of strangers show how their tail goes on
_TAIL_SCORES = 30  # of strangers above the last score that is read off
_DUPLICATE = 1 / 6
_QUARTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Separation:
    """Histograms int64 [BINS] of scores within identities, as labeled, and between them."""

    within: np.ndarray
    between: np.ndarray

    @property
    def wrong_share(self) -> float:
        """The share of the scores within that are between strangers.

        Below the median of strangers lie half of them and hardly anything else. Where that first guess puts the equal
        error e, strangers and e of the right scores lie below: this counts nearly all strangers, not half of them.
        """
        within, between = _cumulated(self.within), _cumulated(self.between)
        guess = min(0.9, 2 * within[int(np.argmax(between >= 0.5))])
        at = int(np.argmax(_without(within, between, guess) >= 1 - between))
        error = 1 - between[at]
        return float(np.clip((within[at] - error) / max(1 - 2 * error, 0.1), 0, 0.9))

    @property
    def genuine(self) -> np.ndarray:
        """The share of right scores at or below each bin, float64 [BINS]: those within, less the strangers."""
        return _without(_cumulated(self.within), _cumulated(self.between), self.wrong_share)

    def equal_error(self) -> float:
        """Return the threshold that as many right scores miss as wrong ones reach."""
        return _edge(int(np.argmax(self.genuine >= 1 - _cumulated(self.between))))

    def fewest_errors(self) -> float:
        """Return the threshold below which a score is more often wrong than right, at the share of wrong ones here.

        Of the thresholds above the median of strangers that chance alone may have made worse than the best, the middle
        one: in the gap between well separated scores it keeps away from both. Where nothing is wrong, nothing is lost.
        """
        within, between = _cumulated(self.within), _cumulated(self.between)
        middle = int(np.argmax(between >= 0.5))
        wrong, num = self.wrong_share, max(1, self.within.sum())
        errors = (within - 2 * wrong * between)[middle:]
        chance = np.sqrt(max(1, wrong * num)) / num  # a standard deviation of the number of wrong scores
        best = np.flatnonzero(errors <= errors.min() + chance)
        return _edge(middle + int(best[len(best) // 2]))

    def right(self, share: float) -> float:
        """Return the score that all but `share` of the right ones reach."""
        return _edge(int(np.argmax(self.genuine >= share)))

    def rare(self, probability: float) -> float:
        """Return the score that one between strangers exceeds with this probability.

        Where the sample is too small for it, the upper tail is carried on as that of a normal distribution through
        its last two scores that can be read off.
        """
        between = _cumulated(self.between)
        least = max(_TAIL_SCORES / max(1, self.between.sum()), _TAIL[1])

        def read_off(share: float) -> float:
            return _edge(int(np.argmax(between >= 1 - share)))

        if probability >= least or least >= _TAIL[0]:
            return read_off(max(probability, least))
        deviations = [NormalDist().inv_cdf(1 - share) for share in (_TAIL[0], least, probability)]
        scores = [read_off(_TAIL[0]), read_off(least)]
        slope = (scores[1] - scores[0]) / (deviations[1] - deviations[0])
        return round(min(1.0, scores[1] + slope * (deviations[2] - deviations[1])), 4)

    def as_json(self) -> dict[str, Any]:
        """Return the share of wrong scores within and the quartiles of the right and of the wrong ones."""
        between = _cumulated(self.between)
        return {
            "num_within": int(self.within.sum()),
            "num_between": int(self.between.sum()),
            "wrong_share": round(self.wrong_share, 4),
            "right": [self.right(share) for share in _QUARTILES],
            "wrong": [_edge(int(np.argmax(between >= share))) for share in _QUARTILES],
        }

    def between_median(self) -> float:
        """Return the median score between strangers."""
        return _edge(int(np.argmax(_cumulated(self.between) >= 0.5)))


@dataclass(frozen=True)
class Calibration:
    """Scores of pairs of pictures, of pictures with identities, and of halves of identities with each other."""

    pairs: Separation
    pictures: Separation
    halves: Separation

    def thresholds(self, *, num_identities: int, num_tested: int = 0) -> dict[str, float]:
        """Return a threshold for each step that has one, for so many identities and pictures of test sets.

        Nine of ten right scores reach those of the steps between identities, unless chance would reach them too often.
        """
        sure, many = self.pictures.right(_SURE), max(1, num_identities)
        return {
            "within": self.pairs.equal_error(),
            "far": self.pictures.fewest_errors(),
            # Of K identities there are K / 2 pairs for each.
            "merge": max(self.halves.right(_SURE), self.halves.rare(2 * _MERGED_BY_CHANCE / many)),
            "misplaced": max(sure, self.pictures.rare(_FOUND_BY_CHANCE / many)),
            # Six times closer than two ordinary pictures of a person.
            "duplicates": round(1 - _DUPLICATE * (1 - self.pairs.right(0.5)), 4),
            "tests": max(sure, self.pictures.rare(_FOUND_BY_CHANCE / max(1, num_tested))),
        }

    def link_thresholds(self, *, num_identities: int) -> dict[str, float]:
        """Return the mean cosines from which two of so many identities may be one person: of identities of `several`
        pictures, and where one has a `single` picture.

        Lower than the step `merge` asks: a link only keeps two identities on one side of training and test.
        """
        many = max(1, num_identities)
        return {
            "several": max(self.halves.right(_LINKED), self.halves.rare(2 * _LINKED_BY_CHANCE / many)),
            "single": max(self.pictures.right(_LINKED), self.pictures.rare(_LINKED_BY_CHANCE / many)),
        }

    def as_json(self) -> dict[str, Any]:
        """Return what the histograms say, for summary.json."""
        return {name: getattr(self, name).as_json() for name in ("pairs", "pictures", "halves")}

    def spread(self) -> float:
        """Return half the way from the usual wrong score of a picture to the usual right one."""
        return max(1e-3, (self.pictures.right(0.5) - self.pictures.between_median()) / 2)


def histogram(scores: np.ndarray) -> np.ndarray:
    """Return the counts of scores in [-1, 1] as int64 [BINS]; nan is left out."""
    found = scores[~np.isnan(scores)]
    return np.bincount(np.clip(((found + 1) * (BINS / 2)).astype(np.int64), 0, BINS - 1), minlength=BINS)


def calibrate(pictures: Pictures, *, seed: int, sample: int = SAMPLE) -> Calibration:
    """Measure about `sample` pictures, whole identities chosen at random; DataError when they are too few to tell."""
    generator = np.random.default_rng(seed)
    rows, starts = _sample(pictures, generator, sample)
    units = pictures.units(rows)
    labels = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    pairs = Separation(_within_pairs(units, starts, generator), _between_pairs(units, labels, generator))
    if min(pairs.within.sum(), pairs.between.sum()) < _LEAST:
        raise DataError(
            f"{len(units):,} pictures of {len(starts) - 1:,} identities with two or more: too few to calibrate "
            f"thresholds; expected {_LEAST} pairs within identities and between them; give the thresholds"
        )
    own, halves, means = _agreements(units, starts, pairs.equal_error(), generator)
    return Calibration(
        pairs,
        Separation(histogram(own), _strangers(units, labels, means, generator)),
        Separation(histogram(halves), _mean_pairs(means)),
    )


def _sample(pictures: Pictures, generator: np.random.Generator, sample: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows grouped by identity, and where each identity begins."""
    groups = group_rows(pictures.labels, len(pictures.identities))
    parts: list[np.ndarray] = []
    num_rows = 0
    for identity in generator.permutation(np.flatnonzero(groups.counts > 1)):
        rows = groups.of(identity)
        if len(rows) > _PER_IDENTITY:
            rows = np.sort(generator.choice(rows, _PER_IDENTITY, replace=False))
        parts.append(rows)
        num_rows += len(rows)
        if num_rows >= sample:
            break
    starts = np.cumsum([0, *(len(rows) for rows in parts)])
    return np.concatenate([np.zeros(0, np.int64), *parts]), starts


def _within_pairs(units: np.ndarray, starts: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the histogram of each picture's cosines with others of its identity, the same number for all."""
    counts = np.zeros(BINS, np.int64)
    for a, b in pairwise(starts):
        shifts = generator.integers(1, b - a, _PARTNERS)
        for shift in shifts:
            counts += histogram(np.einsum("md,md->m", units[a:b], np.roll(units[a:b], shift, axis=0)))
    return counts


def _between_pairs(units: np.ndarray, labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the histogram of each picture's cosines with random pictures of other identities."""
    counts = np.zeros(BINS, np.int64)
    for _ in range(_PARTNERS):
        other = generator.permutation(len(units))
        apart = labels != labels[other]
        counts += histogram(np.einsum("md,md->m", units[apart], units[other[apart]]))
    return counts


def _agreements(
    units: np.ndarray, starts: np.ndarray, threshold: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each picture's score with the core of its identity, that of two halves of each core, and its mean."""
    clusters = block_clusters(units, starts, threshold, seed=0)
    scores, halves, means = np.full(len(units), np.nan, np.float32), [], []
    for a, b in pairwise(starts):
        own = units[a:b]
        core = clusters[a:b] == main_cluster(clusters[a:b], own)
        core = agreeing(own, core, threshold)
        scores[a:b] = mean_cosines(own, core)
        means.append(own[core].mean(0))
        chosen = generator.permutation(np.flatnonzero(core))
        if len(chosen) > 1:
            middle = len(chosen) // 2
            halves.append(own[chosen[:middle]].mean(0) @ own[chosen[middle:]].mean(0))
    return scores, np.array(halves, np.float32), np.stack(means)


def _strangers(units: np.ndarray, labels: np.ndarray, means: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the histogram of each picture's scores with random other identities."""
    counts = np.zeros(BINS, np.int64)
    for _ in range(_PARTNERS):
        other = (labels + generator.integers(1, max(2, len(means)), len(labels))) % len(means)
        counts += histogram(np.einsum("md,md->m", units, means[other]))
    return counts


def _mean_pairs(means: np.ndarray) -> np.ndarray:
    """Return the histogram of the scores between the first identities of the sample, which is in random order."""
    first = means[:2048]
    return histogram((first @ first.T)[np.triu_indices(len(first), 1)])


def _without(within: np.ndarray, between: np.ndarray, share: float) -> np.ndarray:
    """Return a cumulated histogram less a share of another."""
    return np.clip(np.maximum.accumulate((within - share * between) / (1 - share)), 0, 1)


def _cumulated(counts: np.ndarray) -> np.ndarray:
    shares: np.ndarray = np.cumsum(counts) / max(1, counts.sum())
    return shares


def _edge(index: int) -> float:
    """Return the upper end of a bin, where the scores counted up to it end."""
    return round((index + 1) * 2 / BINS - 1, 4)
