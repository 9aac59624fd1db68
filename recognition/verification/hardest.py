"""The pairs that a model gets most wrong, and the people it confuses most. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recognition.verification.protocols import PairSet, VerificationResult

NUM_SHOWN = 12
NUM_CONFUSED = 5


@dataclass(frozen=True)
class HardPair:
    """A pair of a set, by its place in it."""

    pair: int
    score: float
    is_wrong: bool
    """Whether the threshold of the accuracy decides it wrongly."""


@dataclass(frozen=True)
class ConfusedPeople:
    """Two people whose pairs score high."""

    first: str
    second: str
    num_pairs: int
    num_accepted: int
    """At the threshold of the accuracy."""
    highest: HardPair


def hardest_accepts(result: VerificationResult, num: int = NUM_SHOWN) -> list[HardPair]:
    """Return the pairs of different people with the highest scores, the highest first."""
    return _hardest(result, ~result.is_same, -result.cosines, num)


def hardest_rejects(result: VerificationResult, num: int = NUM_SHOWN) -> list[HardPair]:
    """Return the pairs of one person with the lowest scores, the lowest first."""
    return _hardest(result, result.is_same, result.cosines, num)


def _hardest(result: VerificationResult, kind: np.ndarray, order: np.ndarray, num: int) -> list[HardPair]:
    places = np.flatnonzero(kind)
    chosen = places[np.argsort(order[places], kind="stable")[:num]]
    return [
        HardPair(
            int(pair),
            float(result.cosines[pair]),
            bool((result.cosines[pair] > result.threshold_cosine) != result.is_same[pair]),
        )
        for pair in chosen
    ]


def most_confused(result: VerificationResult, pair_set: PairSet, num: int = NUM_CONFUSED) -> list[ConfusedPeople]:
    """Return the two people with the most pairs that are wrongly accepted, and the next; nothing of unknown people.

    Among equal numbers the higher score comes first; two people without a wrong pair are not confused.
    """
    people = pair_set.about.people
    if people is None:
        return []
    pairs_of: dict[tuple[str, str], list[int]] = {}
    for pair in np.flatnonzero(~result.is_same).tolist():
        first, second = sorted((people[2 * pair], people[2 * pair + 1]))
        pairs_of.setdefault((first, second), []).append(pair)
    found = []
    for (first, second), pairs in pairs_of.items():
        best = max(pairs, key=lambda pair: float(result.cosines[pair]))
        accepted = int(np.count_nonzero(result.cosines[pairs] > result.threshold_cosine))
        if accepted:
            highest = HardPair(best, float(result.cosines[best]), True)
            found.append(ConfusedPeople(first, second, len(pairs), accepted, highest))
    return sorted(found, key=lambda each: (-each.num_accepted, -each.highest.score, each.first))[:num]
