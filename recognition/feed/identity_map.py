"""Which class ids the people of several sets get when the sets become one. Torch-free."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from recognition.console import count
from recognition.errors import DataError
from recognition.formats.recordio import MAX_CLASSES
from recognition.work.inputs import require_plain

_MAX_LINE_BYTES = 200
_UNMAPPED = -1
_SHOWN = 3
Labels = npt.NDArray[np.int64]


class _Numbering(Protocol):
    """Class ids in a set -> class ids in the whole, -1 for those that have none."""

    def __call__(self, labels: Labels) -> Labels: ...

    def tables(self) -> list[Labels]:
        """Return the arrays that say all of it."""
        ...


class IdentityMap:
    """Calling it with (number of the set, class id in it, place for errors) gives the class id in the whole.

    What it holds grows with the people a file names, never with a number of classes that some set claims.
    """

    def __init__(self, numberings: Sequence[_Numbering], num_classes: int, *, is_disjoint: bool = False) -> None:
        self._numberings = numberings
        self.num_classes = num_classes
        self.is_disjoint = is_disjoint
        """Whether nobody is in two sets."""

    def __call__(self, set_number: int, label: int, place: str) -> int:
        found = int(self._numberings[set_number](np.array([label], dtype=np.int64))[0])
        if found == _UNMAPPED:
            raise DataError(f"{place}: class {label} of set {set_number} is not in the map; expected every class to be")
        return found

    def tables(self) -> list[Labels]:
        """Return the arrays that say all of it, for comparing two maps."""
        return [table for numbering in self._numberings for table in numbering.tables()]

    def check(self, name: str, used: Sequence[Labels], paths: Sequence[Path]) -> None:
        """Raise DataError unless every person has a class id; `used` are the different class ids of each set.

        `name` is that of the map, `paths` those of the sets.
        """
        missed = []
        for number, (labels, path) in enumerate(zip(used, paths)):
            unmapped = labels[self._numberings[number](labels) == _UNMAPPED]
            if len(unmapped):
                first = ", ".join(map(str, unmapped[:_SHOWN].tolist())) + (", ..." if len(unmapped) > _SHOWN else "")
                people = count(len(labels), "identity")
                missed.append(f"misses {len(unmapped):,} of the {people} of set {number}, {path} (class {first})")
        if missed:
            raise DataError(f"{name}: {'; '.join(missed)}; expected a line for each; add them")

    def whole(self, set_number: int, labels: Labels) -> Labels:
        """Return the class ids in the whole of all `labels` of a set."""
        found = self._numberings[set_number](labels)
        for label in labels[found == _UNMAPPED][:1].tolist():
            self(set_number, label, f"set {set_number}")
        return found


class _Shifted:
    """Every class id moved by one number."""

    def __init__(self, shift: int) -> None:
        self._shift = shift

    def __call__(self, labels: Labels) -> Labels:
        return labels + self._shift

    def tables(self) -> list[Labels]:
        return [np.array([self._shift], dtype=np.int64)]


class _Listed:
    """The class ids that a file gives to the people of one set; both arrays [n], the first rising."""

    def __init__(self, labels: Labels, new: Labels) -> None:
        self._labels, self._new = labels, new

    def __call__(self, labels: Labels) -> Labels:
        if not len(self._labels):
            return np.full(len(labels), _UNMAPPED, dtype=np.int64)
        at = np.minimum(np.searchsorted(self._labels, labels), len(self._labels) - 1)
        return np.where(self._labels[at] == labels, self._new[at], _UNMAPPED)

    def tables(self) -> list[Labels]:
        return [self._labels, self._new]


def offset_identities(num_classes: Sequence[int]) -> IdentityMap:
    """Number the people of each set after those of the sets before it."""
    starts = [sum(num_classes[:number]) for number in range(len(num_classes) + 1)]
    return IdentityMap([_Shifted(start) for start in starts[:-1]], starts[-1], is_disjoint=True)


def same_identities(num_classes: Sequence[int]) -> IdentityMap:
    """A class id means the same person in every set."""
    return IdentityMap([_Shifted(0) for _ in num_classes], max(num_classes))


def read_identity_map(path: Path, num_classes: Sequence[int]) -> IdentityMap:
    """Read lines `set TAB class id TAB new class id`; sets are counted from 0."""
    rows = [(array("q"), array("q"), array("q")) for _ in num_classes]  # class ids, new ones, lines
    require_plain(path)
    try:
        with open(path, "rb") as handle:
            for number, line in enumerate(iter(lambda: handle.readline(_MAX_LINE_BYTES), b""), 1):
                if line.strip():
                    _enter(rows, num_classes, line.decode("utf-8").removeprefix("\ufeff"), f"{path}:{number}", number)
    except (OSError, UnicodeDecodeError) as err:
        raise DataError(f"{path}: cannot be read ({err}); expected lines 'set TAB class id TAB new class id'") from err
    numberings = [_listed(path, number, *columns) for number, columns in enumerate(rows)]
    highest = max((max(new) for _, new, _ in rows if len(new)), default=_UNMAPPED)
    return IdentityMap(numberings, highest + 1)


def _listed(path: Path, number: int, *columns: array[int]) -> _Listed:
    """Sort one set's rows by class id; DataError where an id is given two new ones."""
    labels, new, lines = (np.array(column, dtype=np.int64) for column in columns)
    order = np.argsort(labels, kind="stable")
    labels, new, lines = labels[order], new[order], lines[order]
    clash = np.flatnonzero((labels[1:] == labels[:-1]) & (new[1:] != new[:-1]))
    if len(clash):
        at = int(clash[np.argmin(lines[clash + 1])])
        raise DataError(f"{path}:{lines[at + 1]}: class {labels[at]} of set {number} was given {new[at]} above")
    return _Listed(labels, new)


def _enter(
    rows: Sequence[tuple[array[int], array[int], array[int]]],
    num_classes: Sequence[int],
    line: str,
    place: str,
    number: int,
) -> None:
    fields = line.split()
    if len(fields) != 3 or not all(field.isascii() and field.isdigit() and len(field) < 11 for field in fields):
        raise DataError(f"{place}: {line.strip()!r}; expected 'set TAB class id TAB new class id'; fix the line")
    set_number, label, new = map(int, fields)
    if set_number >= len(rows) or label >= num_classes[set_number]:
        known = f"class {label} of set {set_number}"
        raise DataError(f"{place}: there is no {known}; expected sets below {len(rows)} and their classes; fix it")
    if new >= MAX_CLASSES:
        raise DataError(f"{place}: new class id {new}; expected one below {MAX_CLASSES}")
    for column, value in zip(rows[set_number], (label, new, number)):
        column.append(value)
