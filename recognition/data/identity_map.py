"""Which class ids the people of several sets get when the sets become one. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recognition.errors import DataError

_UNMAPPED = -1


class IdentityMap:
    """Calling it with (number of the set, class id in it, place for errors) gives the class id in the whole."""

    def __init__(self, tables: Sequence[npt.NDArray[np.int64]], num_classes: int) -> None:
        self._tables = tables
        self.num_classes = num_classes

    def __call__(self, set_number: int, label: int, place: str) -> int:
        found = int(self._tables[set_number][label])
        if found == _UNMAPPED:
            raise DataError(f"{place}: class {label} of set {set_number} is not in the map; expected every class to be")
        return found

    def whole(self, set_number: int, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the class ids in the whole of all `labels` of a set."""
        found = self._tables[set_number][labels]
        for label in labels[found == _UNMAPPED][:1].tolist():
            self(set_number, label, f"set {set_number}")
        return found


def offset_identities(num_classes: Sequence[int]) -> IdentityMap:
    """Number the people of each set behind those of the sets before it."""
    starts = np.cumsum([0, *num_classes])
    tables = [np.arange(start, start + number) for start, number in zip(starts, num_classes)]
    return IdentityMap(tables, int(starts[-1]))


def same_identities(num_classes: Sequence[int]) -> IdentityMap:
    """A class id means the same person in every set."""
    return IdentityMap([np.arange(number) for number in num_classes], max(num_classes))


def read_identity_map(path: Path, num_classes: Sequence[int]) -> IdentityMap:
    """Read lines `set TAB class id TAB new class id`; sets are counted from 0."""
    tables = [np.full(number, _UNMAPPED, dtype=np.int64) for number in num_classes]
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    _enter(tables, line, f"{path}:{number}")
    except (OSError, UnicodeDecodeError) as err:
        raise DataError(f"{path}: cannot be read ({err}); expected lines 'set TAB class id TAB new class id'") from err
    return IdentityMap(tables, max((int(table.max()) for table in tables), default=_UNMAPPED) + 1)


def _enter(tables: list[npt.NDArray[np.int64]], line: str, place: str) -> None:
    fields = line.split()
    if len(fields) != 3 or not all(field.isascii() and field.isdigit() and len(field) < 11 for field in fields):
        raise DataError(f"{place}: {line.strip()!r}; expected 'set TAB class id TAB new class id'")
    set_number, label, new = map(int, fields)
    if set_number >= len(tables) or label >= len(tables[set_number]):
        known = f"class {label} of set {set_number}"
        raise DataError(f"{place}: there is no {known}; expected sets below {len(tables)} and classes they have")
    if tables[set_number][label] not in (_UNMAPPED, new):
        raise DataError(f"{place}: class {label} of set {set_number} was given {tables[set_number][label]} above")
    tables[set_number][label] = new
