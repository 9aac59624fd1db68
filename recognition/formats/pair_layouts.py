"""The layouts in which lists of verification pairs are published, and which of them a path has: its content tells.

Torch-free. What a line means in each of them is in docs/formats.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from recognition.errors import DataError
from recognition.formats.pair_list import PicturePair, alternating, read_pair_list
from recognition.formats.text_lines import read_lines
from recognition.registry import Registry

Line = tuple[int, str]
"""Number, from 1, and text of a line that is not blank."""
NUM_FOLDS = 10
_HEAD_LINES = 4


class PairLayout(Protocol):
    """A layout of lists: what is registered."""

    def fits(self, path: Path, head: Sequence[str]) -> bool:
        """Return whether a path is such a list, by its name or its first lines (none of a folder or a binary file)."""

    def read(self, path: Path) -> list[PicturePair]:
        """Return the pairs in fold order; DataError names the line that is not as it should be."""


PAIR_LAYOUTS: Registry[Callable[[], PairLayout]] = Registry("layout of pairs")
"""Name -> layout. A path is shown to one after the other; what none of them takes is LFW's or `path path 0|1`."""

PAIR_LAYOUTS.register_at("cfp", "recognition.formats.list_cfp:Cfp")
PAIR_LAYOUTS.register_at("agedb", "recognition.formats.list_agedb:AgeDb")
PAIR_LAYOUTS.register_at("bfw", "recognition.formats.list_bfw:Bfw")
PAIR_LAYOUTS.register_at("lfw_csv", "recognition.formats.list_lfw_csv:LfwCsv")
PAIR_LAYOUTS.register_at("calfw", "recognition.formats.list_calfw:TwoLines")
PAIR_LAYOUTS.register_at("rfw", "recognition.formats.list_rfw:Rfw")


@dataclass(frozen=True)
class OddPairs:
    """Pairs that a list should not have, and some published ones do."""

    num_self: int
    """A picture with itself."""
    num_doubled: int
    """Pairs that an earlier line has already, in this order or the other."""

    def warning(self, place: str) -> str | None:
        """Return a line that counts them, or None."""
        found = [f"{self.num_self:,} of a picture with itself"] if self.num_self else []
        found += [f"{self.num_doubled:,} that were listed before"] if self.num_doubled else []
        return f"{place}: of its pairs, {' and '.join(found)}; kept as they are" if found else None


def read_published(path: Path, *, layout: str | None = None, folds: Collection[int] | None = None) -> list[PicturePair]:
    """Return the pairs of a list in any layout, in fold order, or those of the chosen folds (counted from 1).

    Raises DataError naming what is wrong with it, and ConfigError for an unknown `layout`.
    """
    name = layout or find_pair_layout(path)
    if name == "lfw":
        return read_pair_list(path, folds=folds)
    pairs = PAIR_LAYOUTS[name]().read(path)
    if not pairs:
        raise DataError(f"{path}: holds no pairs; expected a list in the layout {name!r}; fetch the file again")
    if folds is None:
        return pairs
    known = {pair.fold for pair in pairs}
    if not set(folds) <= known:
        raise DataError(f"{path}: has folds {sorted(known)}; found {sorted(folds)} in --folds; choose among them")
    return [pair for pair in pairs if pair.fold in set(folds)]


def find_pair_layout(path: Path) -> str:
    """Return the name of the layout that a path has; "lfw" stands for LFW's own and for `path path 0|1`."""
    head: list[str] = []
    if path.is_file() and path.suffix.lower() != ".mat":
        head = [line for line in read_lines(path, "a list of pairs")[:_HEAD_LINES] if line.strip()]
    fitting = (name for name in PAIR_LAYOUTS if PAIR_LAYOUTS[name]().fits(path, head))
    return next(fitting, "lfw")


def numbered_lines(path: Path) -> list[Line]:
    """Return the lines of a text file that are not blank, with their numbers."""
    return [(number, line) for number, line in enumerate(read_lines(path, "a list of pairs"), 1) if line.strip()]


def bad_line(path: Path, number: int, found: str, expected: str) -> DataError:
    """Return the error about a line."""
    return DataError(f"{path}:{number}: found {found.strip()[:100]!r}; expected {expected}; fix the line")


def blocks_into_folds(pairs: Sequence[PicturePair], place: Path) -> list[PicturePair]:
    """Return pairs listed in two blocks, first all of one person and then all of two, as ten folds with both kinds.

    Fold k has the k-th tenth of each block. Raises DataError when a block cannot be cut into ten.
    """
    same = [pair for pair in pairs if pair.is_same]
    different = [pair for pair in pairs if not pair.is_same]
    if len(same) % NUM_FOLDS or len(different) % NUM_FOLDS or not same or not different:
        raise DataError(
            f"{place}: {len(same):,} same and {len(different):,} different pairs; expected multiples of {NUM_FOLDS}, "
            "for as many folds; fetch the file again"
        )
    found: list[PicturePair] = []
    for fold in range(NUM_FOLDS):
        members = [
            replace(pair, fold=fold + 1)
            for block in (same, different)
            for pair in block[fold * len(block) // NUM_FOLDS : (fold + 1) * len(block) // NUM_FOLDS]
        ]
        found += alternating(members)
    return found


def equal_folds(pairs: Sequence[PicturePair], place: Path) -> list[PicturePair]:
    """Return pairs whose ten folds lie one after the other, with same and different ones alternating in each."""
    if len(pairs) % NUM_FOLDS:
        raise DataError(f"{place}: {len(pairs):,} pairs; expected a multiple of {NUM_FOLDS} folds; fetch it again")
    each = len(pairs) // NUM_FOLDS
    folds = (pairs[fold * each : (fold + 1) * each] for fold in range(NUM_FOLDS))
    return [replace(pair, fold=fold) for fold, members in enumerate(folds, 1) for pair in alternating(list(members))]


def odd_pairs(pairs: Iterable[PicturePair]) -> OddPairs:
    """Count the pictures that are paired with themselves, and the pairs that are listed again."""
    seen, num_self, num_doubled = set[tuple[str, str]](), 0, 0
    for pair in pairs:
        key = (min(pair.first, pair.second), max(pair.first, pair.second))
        num_self += pair.first == pair.second
        num_doubled += key in seen
        seen.add(key)
    return OddPairs(num_self, num_doubled)


def people_of(pairs: Sequence[PicturePair]) -> tuple[str, ...] | None:
    """Return whom the 2n pictures show; None where the names do not say it, or contradict the flags of the pairs."""
    if any("" in pair.people or (pair.people[0] == pair.people[1]) != pair.is_same for pair in pairs):
        return None
    return tuple(person for pair in pairs for person in pair.people)


def person_before_number(name: str) -> str:
    """Return the person in `Some_Name_0001.jpg`, "" where the name has no number at its end."""
    person, _, number = os.path.splitext(name.rpartition("/")[2])[0].rpartition("_")
    return person if number.isdigit() else ""
