"""How often the 95 % interval of TAR at FAR 1e-3 covers the truth: drawing people, and drawing pairs instead.

    python benchmarks/interval_coverage.py --sets 500

A set has 300 people with 4 pictures each, some people much harder than others: a picture is its person's direction
plus noise of the person's own size. All pairs are compared: 1,800 of one person, 717,600 of two. The truth is measured
on millions of independent pairs of the same population. About a second a set.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

import numpy as np

from recognition.console import progress
from recognition.verification.intervals import Interval, PairPeople, WeightedScores, draw_people, intervals, rates
from recognition.verification.sorted_scores import Floats, tar_name

TARGET = 1e-3
PEOPLE, PICTURES, DIMENSION = 300, 4, 32
PAIRS_OF_PERSON = PICTURES * (PICTURES - 1) // 2
NUM_SAME = PEOPLE * PAIRS_OF_PERSON
NUM_DIFFERENT = (PEOPLE * PICTURES) * (PEOPLE * PICTURES - 1) // 2 - NUM_SAME
NOISE, UNEQUAL = 0.9, 0.35
"""Typical length of the noise beside a direction of length one, and the spread of its logarithm over the people."""


def main() -> int:
    """Print the coverage of both ways of drawing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    truth = true_tar(np.random.default_rng(args.seed), num_pairs=4_000_000)
    people, pairs = coverage(args.sets, truth, seed=args.seed)
    print(f"{args.sets} sets of {PEOPLE} people x {PICTURES}; true TAR at FAR {TARGET:g}: {truth:.4f}")
    print(f"drawing people covers the truth in {people:.3f} of the sets, drawing pairs in {pairs:.3f}")
    return 0


def coverage(num_sets: int, truth: float, *, seed: int) -> tuple[float, float]:
    """Return in which share of the sets the interval holds `truth`: drawing people, and drawing pairs."""
    covered = np.zeros(2)
    for number in progress(range(num_sets), total=num_sets, unit="set", label="cover"):
        drawn = draw_set(np.random.default_rng((seed, number)))
        found = (drawn.tar_by_people(seed=number), drawn.tar_by_pairs(seed=number))
        covered += [interval.low <= truth <= interval.high for interval in found]
    return float(covered[0] / num_sets), float(covered[1] / num_sets)


@dataclass(frozen=True, eq=False)
class DrawnSet:
    """All pairs of a set's pictures. Those below the top hundredth of the different pairs are only counted."""

    scores: Floats  # [n] of the pairs at the top
    is_same: np.ndarray  # bool [n]
    people: PairPeople

    def tar_by_people(self, *, seed: int) -> Interval:
        """Return the interval of the library: people are drawn."""
        ordered = WeightedScores(self.scores, self.is_same)

        def measure(drawn: Floats) -> dict[str, float]:
            pictures = PICTURES * drawn
            num_same = PAIRS_OF_PERSON * float(drawn.sum())
            num_different = float(pictures.sum() ** 2 - np.square(pictures).sum()) / 2
            return _tar(ordered, self.people.weights(drawn, self.is_same), num_same, num_different)

        return intervals(measure, partial(draw_people, PEOPLE), seed=seed)[tar_name(TARGET)]

    def tar_by_pairs(self, *, seed: int) -> Interval:
        """Return the interval by drawing the pairs of each kind as if each were new evidence."""
        ordered = WeightedScores(self.scores, self.is_same)

        def draw(generator: np.random.Generator) -> Floats:
            weights = np.empty(len(self.scores))
            for kind, num in ((self.is_same, NUM_SAME), (~self.is_same, NUM_DIFFERENT)):
                shares = np.full(int(kind.sum()) + 1, 1 / num)
                shares[-1] = 1 - shares[:-1].sum()
                weights[kind] = generator.multinomial(num, shares)[:-1]
            return weights

        def measure(weights: Floats) -> dict[str, float]:
            return _tar(ordered, weights, NUM_SAME, NUM_DIFFERENT)

        return intervals(measure, draw, seed=seed)[tar_name(TARGET)]


def _tar(ordered: WeightedScores, weights: Floats, num_same: float, num_different: float) -> dict[str, float]:
    same, different = ordered.accepted(weights)
    assert different[-1] > TARGET * num_different, "the threshold lies below the top"
    found = rates(np.append(same, num_same), np.append(different, num_different), (TARGET,))
    return {tar_name(TARGET): found[tar_name(TARGET)]}


def draw_set(generator: np.random.Generator) -> DrawnSet:
    """Draw 300 people and their pictures, and compare them all."""
    directions, sizes = _people(generator, PEOPLE)
    owner = np.repeat(np.arange(PEOPLE), PICTURES)
    faces = _pictures(generator, directions[owner], sizes[owner])
    first, second = np.triu_indices(len(faces), 1)
    scores = (faces @ faces.T)[first, second]
    is_same = owner[first] == owner[second]
    assert (int(is_same.sum()), int((~is_same).sum())) == (NUM_SAME, NUM_DIFFERENT)
    top = np.flatnonzero(scores >= np.quantile(scores[~is_same], 1 - 10 * TARGET))
    return DrawnSet(scores[top], is_same[top], PairPeople(owner[first[top]], owner[second[top]], PEOPLE))


def true_tar(generator: np.random.Generator, *, num_pairs: int) -> float:
    """Return the population's TAR at FAR 1e-3 from independent pairs, each of people of its own."""
    same, different = [], []
    for _ in range(0, num_pairs, 100_000):
        directions, sizes = _people(generator, 100_000)
        faces = _pictures(generator, directions, sizes)
        same.append(np.sum(faces * _pictures(generator, directions, sizes), axis=1))
        different.append(np.sum(faces * np.roll(faces, 1, axis=0), axis=1))
    threshold = np.quantile(np.concatenate(different), 1 - TARGET)
    return float(np.mean(np.concatenate(same) >= threshold))


def _people(generator: np.random.Generator, num: int) -> tuple[Floats, Floats]:
    directions = generator.normal(size=(num, DIMENSION))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return directions, NOISE * np.exp(UNEQUAL * generator.normal(size=num))


def _pictures(generator: np.random.Generator, directions: Floats, sizes: Floats) -> Floats:
    noise = generator.normal(size=directions.shape) * (sizes / np.sqrt(DIMENSION))[:, None]
    faces = directions + noise
    return np.asarray(faces / np.linalg.norm(faces, axis=1, keepdims=True))


if __name__ == "__main__":
    sys.exit(main())
