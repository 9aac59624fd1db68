"""Verification pairs drawn from people's pictures, in folds that share nobody. Torch-free."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from recognition.console import count
from recognition.errors import DataError

Pair = tuple[str, str, bool]
"""Two pictures, and whether they show one person."""


def draw_pairs(people: Mapping[str, Sequence[str]], *, num_pairs: int, num_folds: int, seed: int) -> list[Pair]:
    """Return pairs in fold order, same and different ones alternating.

    `people` maps an identity to its images. Raises DataError when a fold cannot supply enough distinct pairs.
    """
    each, remainder = divmod(num_pairs, 2 * num_folds)
    if remainder:
        raise DataError(
            f"--pairs {num_pairs}: expected a multiple of 2 x {num_folds} folds; choose {each * 2 * num_folds}"
        )
    generator = random.Random(seed)
    pairs: list[Pair] = []
    for fold, members in enumerate(_deal(people, num_folds, generator)):
        same = _same_pairs(members, people, each, fold, generator)
        different = _different_pairs(members, people, each, fold, generator)
        # By position too, any tenth of the set then holds both kinds, however many folds were drawn.
        pairs += [pair for both in zip(same, different) for pair in both]
    return pairs


def most_pairs(people: Mapping[str, Sequence[str]], *, num_folds: int, seed: int) -> int:
    """Return how many pairs `draw_pairs` can draw of these people with this seed; 0 where a fold has none."""
    dealt = _deal(people, num_folds, random.Random(seed))
    supplies = [min(_same_supply(members, people), _different_supply(members, people)) for members in dealt]
    return 2 * num_folds * min(supplies)


def _deal(people: Mapping[str, Sequence[str]], num_folds: int, generator: random.Random) -> list[list[str]]:
    names = sorted(people)
    generator.shuffle(names)
    return [names[fold::num_folds] for fold in range(num_folds)]


def _same_supply(members: Sequence[str], people: Mapping[str, Sequence[str]]) -> int:
    return sum(len(people[name]) * (len(people[name]) - 1) // 2 for name in members)


def _different_supply(members: Sequence[str], people: Mapping[str, Sequence[str]]) -> int:
    sizes = [len(people[name]) for name in members]
    return (sum(sizes) ** 2 - sum(size * size for size in sizes)) // 2


def _same_pairs(
    members: Sequence[str], people: Mapping[str, Sequence[str]], wanted: int, fold: int, generator: random.Random
) -> list[Pair]:
    _check_supply("same", _same_supply(members, people), members, wanted, fold)
    able = [name for name in members if len(people[name]) > 1]
    chosen: dict[tuple[str, str], None] = {}
    while len(chosen) < wanted:
        first, second = sorted(generator.sample(people[generator.choice(able)], 2))
        chosen[first, second] = None
    return [(a, b, True) for a, b in chosen]


def _different_pairs(
    members: Sequence[str], people: Mapping[str, Sequence[str]], wanted: int, fold: int, generator: random.Random
) -> list[Pair]:
    _check_supply("different", _different_supply(members, people), members, wanted, fold)
    chosen: dict[tuple[str, str], None] = {}
    while len(chosen) < wanted:
        one, other = sorted(generator.sample(members, 2))
        chosen[generator.choice(people[one]), generator.choice(people[other])] = None
    return [(a, b, False) for a, b in chosen]


def _check_supply(kind: str, supply: int, members: Sequence[str], wanted: int, fold: int) -> None:
    if supply < wanted:
        raise DataError(
            f"fold {fold + 1}: its {count(len(members), 'identity')} give {supply} {kind} pairs; expected {wanted}; "
            "lower --pairs"
        )
