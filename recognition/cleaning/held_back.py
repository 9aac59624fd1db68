"""Are embeddings good enough to clean with? Pictures whose person is known are put with others, and cleaned.

The number holds for a network that was not trained on these pictures: one that was has learned their labels, the wrong
ones too.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np

from recognition.cleaning.agreement import mean_cosines
from recognition.cleaning.calibration import calibrate
from recognition.cleaning.context import Context, HeldBack
from recognition.cleaning.decisions import DROP, Decisions, all_kept, apply_changes, doubt_of
from recognition.cleaning.pictures import group_rows
from recognition.cleaning.within import drop_far, drop_minorities

GOOD_ENOUGH = 0.05
"""The share of pictures with other people that cleaning may keep: measured in docs/measurements/cleaning.md."""

_LEAST_PICTURES = 4  # of a person: among fewer, it is often not the network that cannot tell which one is wrong
_LEAST_PEOPLE = 20
_MOST_PEOPLE = 500
_SURE = 0.5  # a doubt below this is little
_SHARE = 0.1  # of the pictures of such people, that are put with others


def put_with_others(context: Context) -> HeldBack | None:
    """Put a tenth of the pictures of people of four pictures or more, one of a person and 500 at most, with others of
    them, and clean by the steps `within` and `far`; None where there are fewer than 20 such people.

    All thresholds come from the set with these pictures in it, as they would if they had been there by mistake. Nothing
    of the set itself is changed.
    """
    pictures = context.pictures
    groups = group_rows(pictures.labels, len(pictures.identities))
    able = np.flatnonzero(groups.counts >= _LEAST_PICTURES)
    if len(able) < _LEAST_PEOPLE:
        return None
    generator = np.random.default_rng((context.settings.seed, 1))
    num = int(np.clip(_SHARE * groups.counts[able].sum(), _LEAST_PEOPLE, min(_MOST_PEOPLE, len(able))))
    chosen = generator.permutation(able)[:num]
    put = np.array([generator.choice(groups.of(person)) for person in chosen])
    trial = copy.copy(pictures)
    trial.labels = pictures.labels.copy()
    trial.labels[put] = np.roll(chosen, -1)
    calibration = calibrate(trial, seed=context.settings.seed)
    thresholds = calibration.thresholds(num_identities=int((groups.counts > 1).sum()))
    machine = replace(context.machine, quiet=True)
    changed = replace(context, pictures=trial, thresholds=thresholds, spread=calibration.spread(), machine=machine)
    after, before = (_cleaned(changed, labels, np.isin(labels, able)) for labels in (trial.labels, pictures.labels))
    return _compare(changed, put, after, before)


def held_back_line(put: int, kept: int) -> str:
    """Return the line that says how many stayed, and whether that is good enough."""
    share = kept / put
    verdict = "good enough to clean with" if share <= GOOD_ENOUGH else "too many to clean with: take a better network"
    return (
        f"of {put:,} pictures put with other people for a trial, within and far keep {kept:,} ({100 * share:.1f} %; up "
        f"to {100 * GOOD_ENOUGH:.0f} % is good enough): {verdict}"
    )


def _cleaned(context: Context, labels: np.ndarray, inside: np.ndarray) -> Decisions:
    """Return the decisions of `within` and `far` about the pictures `inside` (bool [n]), under these labels."""
    decisions = all_kept(labels, context.pictures.identities)
    decisions = replace(decisions, action=np.where(inside, decisions.action, DROP).astype(np.uint8))
    for step in (drop_minorities, drop_far):
        decisions = apply_changes(decisions, step(context, decisions), labels)
    return decisions


def _compare(context: Context, put: np.ndarray, after: Decisions, before: Decisions) -> HeldBack:
    """Return what became of the pictures `put` (rows), and of the others, with the trial and without it."""
    stays = put[after.kept[put]]
    groups = group_rows(after.identity, len(after.identities), after.kept)
    scores = np.full(len(stays), np.nan)
    for number, row in enumerate(stays.tolist()):
        rows = groups.of(int(after.identity[row]))
        scores[number] = mean_cosines(context.pictures.units(rows), np.ones(len(rows), bool))[rows == row][0]
    doubts = doubt_of(scores, context.thresholds["far"], context.spread)
    dropped = ~after.kept & (after.reason != 0) & (after.doubt < _SURE)
    is_put = np.zeros(len(dropped), bool)
    is_put[put] = True
    lost = dropped & ~is_put & before.kept
    return HeldBack(len(put), len(stays), int((doubts < _SURE).sum()), int(dropped.sum()), int(lost.sum()))
