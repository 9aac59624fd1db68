"""Are embeddings good enough to clean with? Pictures whose person is known are put with others, and cleaned.

The number holds for a network that was not trained on these pictures: one that was has learned their labels, the wrong
ones too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from recognition.cleaning.context import Context
from recognition.cleaning.decisions import DROP, all_kept, apply_changes
from recognition.cleaning.pictures import group_rows
from recognition.cleaning.within import drop_far, drop_minorities

GOOD_ENOUGH = 0.05
"""The share of pictures with other people that cleaning may keep: measured in docs/measurements/cleaning.md."""

_LEAST_PICTURES = 3  # of a person: of two, nobody can tell which is the wrong one
_LEAST_PEOPLE = 20
_MOST_PEOPLE = 500
_PER_PERSON = 64


@dataclass(frozen=True)
class HeldBack:
    """How many pictures were put with other people, and how many of them cleaning keeps there."""

    put: int
    kept: int


def put_with_others(context: Context) -> HeldBack | None:
    """Put a picture each of at most 500 people of three pictures or more with the next one, and clean by the steps
    `within` and `far`; None where there are fewer than 20 such people. Nothing of the set is changed."""
    pictures = context.pictures
    groups = group_rows(pictures.labels, len(pictures.identities))
    generator = np.random.default_rng((context.settings.seed, 1))
    able = generator.permutation(np.flatnonzero(groups.counts >= _LEAST_PICTURES))[:_MOST_PEOPLE]
    if len(able) < _LEAST_PEOPLE:
        return None
    sample = [generator.permutation(groups.of(person))[:_PER_PERSON] for person in able]
    put = np.array([rows[0] for rows in sample])
    labels = pictures.labels.copy()
    labels[put] = np.roll(able, -1)
    decisions = all_kept(labels, pictures.identities)
    outside = np.ones(len(labels), bool)
    outside[np.concatenate(sample)] = False
    decisions = replace(decisions, action=np.where(outside, DROP, decisions.action).astype(np.uint8))
    quiet = replace(context, machine=replace(context.machine, quiet=True))
    for step in (drop_minorities, drop_far):
        decisions = apply_changes(decisions, step(quiet, decisions), labels)
    stays = decisions.kept[put] & (decisions.identity[put] == labels[put])
    return HeldBack(len(put), int(stays.sum()))


def held_back_line(put: int, kept: int) -> str:
    """Return the line that says how many stayed, and whether that is good enough."""
    share = kept / put
    verdict = "good enough to clean with" if share <= GOOD_ENOUGH else "too many to clean with: take a better network"
    return (
        f"of {put:,} pictures put with other people for a trial, within and far keep {kept:,} ({100 * share:.1f} %; up "
        f"to {100 * GOOD_ENOUGH:.0f} % is good enough): {verdict}"
    )
