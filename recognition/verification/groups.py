"""False accepts and false rejects by group, at one threshold common to all. Torch-free.

A threshold of its own would hide what a group suffers: in use there is one. A pair of one person belongs to the
person's group; a pair of two people to the group that both are of, or else to "across groups".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from recognition.errors import DataError
from recognition.formats.pair_list import split_fields
from recognition.formats.pairs_about import PairsAbout
from recognition.formats.text_lines import read_lines
from recognition.verification.intervals import (
    MIN_ABOVE,
    Interval,
    PairPeople,
    WeightedScores,
    draw_people,
    intervals,
)
from recognition.verification.protocols import FAR_TARGETS, PairSet, VerificationResult
from recognition.verification.sorted_scores import Floats

ACROSS = "across groups"


@dataclass(frozen=True)
class GroupRates:
    """The errors of one group's pairs."""

    group: str
    num_same: int
    fnmr: float | None
    """Share of the pairs of one person that are rejected; None without such pairs."""
    num_different: int
    fmr: float | None
    """Share of the pairs of two people that are accepted."""
    fnmr_interval: Interval | None = None
    fmr_interval: Interval | None = None


@dataclass(frozen=True)
class GroupTable:
    """All groups at one threshold: accept above it, or at it."""

    threshold: float
    chosen_by: str
    """What the threshold is of, for people."""
    rows: tuple[GroupRates, ...]


def with_groups(pair_set: PairSet, groups: Mapping[str, str], place: Path) -> PairsAbout:
    """Return what is known of a set, with the groups that a file gives to its people or pictures.

    Raises DataError when neither people nor pictures are known, or one is in no group.
    """
    about = pair_set.about
    for column in (about.people, about.names):
        if column is not None and any(name in groups for name in column):
            missing = next((name for name in column if name not in groups), None)
            if missing is not None:
                raise DataError(f"{place}: no group of {missing!r}; expected one of everybody; add a line")
            return PairsAbout(
                **{**vars(about), "groups": tuple(groups[name] for name in column)},
            )
    raise DataError(
        f"{place}: names nobody of {pair_set.path}; expected `person TAB group` or `picture TAB group` of a set whose "
        "people are known; pack the set with its list"
    )


def read_groups(path: Path) -> dict[str, str]:
    """Return name -> group from lines `name TAB group`; DataError names the line that is none."""
    found: dict[str, str] = {}
    for number, line in enumerate(read_lines(path, "groups"), 1):
        if not line.strip():
            continue
        fields = line.split(",") if "\t" not in line and line.count(",") == 1 else split_fields(line)
        fields = [field.strip() for field in fields]
        if len(fields) != 2 or not all(fields) or found.get(fields[0], fields[1]) != fields[1]:
            raise DataError(
                f"{path}:{number}: found {line.strip()[:80]!r}; expected `name TAB group`, one group a name; fix it"
            )
        found[fields[0]] = fields[1]
    return found


def group_table(result: VerificationResult, about: PairsAbout) -> GroupTable | None:
    """Return the errors by group at the threshold of TAR at the first FAR target; None where no groups are known.

    Where the set is too small for that FAR, the threshold is the one of the accuracy.
    """
    if about.groups is None:
        return None
    point = result.tar_at_far[0]
    if point.is_resolved and point.num_above:
        threshold, chosen_by = point.threshold, f"FAR {point.target:g} over all pairs"
    else:
        threshold, chosen_by = float(np.nextafter(result.threshold_cosine, np.inf)), "the accuracy over all pairs"
    group = _group_of_pairs(about.groups)
    accepted = result.cosines >= threshold
    names = sorted(set(group) - {ACROSS}) + ([ACROSS] if ACROSS in group else [])
    found = _intervals(result, about, group, names, point.is_resolved and bool(point.num_above))
    rows = []
    for name in names:
        same, different = (accepted[(group == name) & (result.is_same == kind)] for kind in (True, False))
        num_wrong = int(np.count_nonzero(different))
        rows.append(
            GroupRates(
                name,
                len(same),
                float(np.mean(~same)) if len(same) else None,
                len(different),
                float(np.mean(different)) if len(different) else None,
                found.get(f"fnmr {name}"),
                found.get(f"fmr {name}") if num_wrong >= MIN_ABOVE else None,
            )
        )
    return GroupTable(threshold, chosen_by, tuple(rows))


def _group_of_pairs(groups: tuple[str, ...]) -> np.ndarray:
    first, second = np.asarray(groups[0::2], dtype=object), np.asarray(groups[1::2], dtype=object)
    return np.where(first == second, first, ACROSS)


def _intervals(
    result: VerificationResult, about: PairsAbout, group: np.ndarray, names: list[str], by_far: bool
) -> dict[str, Interval]:
    """Return the intervals of each group's errors, the threshold at the FAR target being chosen anew in each draw."""
    if about.people is None or not by_far:
        return {}
    people = PairPeople.of(about.people)
    ordered = WeightedScores(result.cosines, result.is_same)
    members = {name: group == name for name in names}

    def measure(drawn: Floats) -> dict[str, float]:
        weights = people.weights(drawn, result.is_same)
        _, different = ordered.accepted(weights)
        if different[-1] <= 0:
            return {}
        num_within = int(np.searchsorted(different / different[-1], FAR_TARGETS[0], side="right"))
        accepted = result.cosines >= ordered.score_at(num_within - 1) if num_within else np.zeros(len(weights), bool)
        rates = {}
        for name, member in members.items():
            for kind, same, wrong in (("fnmr", True, ~accepted), ("fmr", False, accepted)):
                of_group = np.where(member & (result.is_same == same), weights, 0.0)
                if of_group.sum() > 0:
                    rates[f"{kind} {name}"] = float(of_group[wrong].sum() / of_group.sum())
        return rates

    return intervals(measure, partial(draw_people, people.num))
