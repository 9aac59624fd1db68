"""Files of scores, one line a pair: what verify writes with --scores, and any other system's to be judged. Torch-free.

Tab-separated under a header line. `score` (larger: more alike) and `same` (1 or 0) are needed; `person1 person2`,
`group1 group2`, `picture1 picture2` and `fold` are used where they are there. Without a header there are two columns,
score and same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recognition.errors import DataError
from recognition.formats.pairs_about import PairsAbout, sizes_of_folds
from recognition.formats.text_lines import read_lines
from recognition.verification.metrics import check_pairs
from recognition.verification.protocols import PairSet
from recognition.verification.sorted_scores import Floats
from recognition.work.files import file_sha256, write_bytes

_NEEDED = ("score", "same")
_SIDES = {"people": "person", "groups": "group", "names": "picture"}
"""Field of PairsAbout -> the columns of the two pictures, with 1 and 2 after it."""


def write_scores(path: Path, pair_set: PairSet, scores: Floats) -> None:
    """Write one line a pair with all that is known of it; replaces what was there."""
    columns = {
        "score": [repr(score) for score in scores.tolist()],
        "same": [str(int(same)) for same in pair_set.is_same],
    }
    for field, word in _SIDES.items():
        values = getattr(pair_set.about, field)
        if values is not None:
            columns |= {f"{word}1": list(values[0::2]), f"{word}2": list(values[1::2])}
    if pair_set.about.fold_sizes is not None:
        sizes = pair_set.about.fold_sizes
        columns["fold"] = [str(fold) for fold, size in enumerate(sizes, 1) for _ in range(size)]
    lines = ["\t".join(columns), *("\t".join(row) for row in zip(*columns.values()))]
    write_bytes(path, ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"))


def read_scores(path: Path, *, name: str | None = None, folds: int | None = None) -> tuple[PairSet, Floats]:
    """Return the pairs of a file, without pictures, and their scores.

    Raises DataError naming the line that holds a text where a number is needed, a score that is not finite, or another
    number of fields; and for pairs of one kind only.
    """
    numbered = [(number, line) for number, line in enumerate(read_lines(path, "scores"), 1) if line.strip()]
    if not numbered:
        raise DataError(f"{path}: is empty; expected lines `score TAB same`; check the file")
    header, rows = _header(path, numbered)
    scores, flags = np.empty(len(rows)), np.empty(len(rows), bool)
    table: dict[str, list[str]] = {column: [] for column in header}
    for i, (number, text) in enumerate(rows):
        fields = text.split("\t") if "\t" in text else text.split()
        if len(fields) != len(header):
            raise _bad(path, number, text, f"{len(header)} fields: {' '.join(header)}")
        row = dict(zip(header, (field.strip() for field in fields)))
        scores[i], flags[i] = _score(path, number, row["score"]), _flag(path, number, row["same"])
        for column, value in row.items():
            table[column].append(value)
    sizes = sizes_of_folds(_folds(path, rows, table)) if "fold" in table else None
    columns = {field: _both_sides(table, word) for field, word in _SIDES.items()}
    about = PairsAbout(columns["names"], columns["people"], columns["groups"], sizes)
    found = PairSet(name or path.stem, path, file_sha256(path), [], flags, about)
    try:
        check_pairs(flags, len(found.sizes(folds)))
    except DataError as err:
        raise DataError(f"{path}: {err}") from err
    return found, scores


def _header(path: Path, numbered: Sequence[tuple[int, str]]) -> tuple[list[str], Sequence[tuple[int, str]]]:
    """Return the columns' names and the lines after them."""
    first = numbered[0][1].lstrip("#").split()
    if first and _is_number(first[0]):
        return list(_NEEDED), numbered
    header = [word.lower() for word in first]
    if not set(_NEEDED) <= set(header) or len(set(header)) != len(header):
        raise _bad(path, numbered[0][0], numbered[0][1], f"a header with {' and '.join(_NEEDED)}, or a score")
    return header, numbered[1:]


def _score(path: Path, number: int, text: str) -> float:
    if not _is_number(text) or not math.isfinite(float(text)):
        raise _bad(path, number, text, "a finite number as the score")
    return float(text)


def _flag(path: Path, number: int, text: str) -> bool:
    if text not in ("0", "1"):
        raise _bad(path, number, text, "1 for one person or 0 for two")
    return text == "1"


def _folds(path: Path, rows: Sequence[tuple[int, str]], table: dict[str, list[str]]) -> list[int]:
    for (number, _), text in zip(rows, table["fold"]):
        if not text.isdigit():
            raise _bad(path, number, text, "the number of a fold")
    return [int(text) for text in table["fold"]]


def _both_sides(table: dict[str, list[str]], word: str) -> tuple[str, ...] | None:
    first, second = table.get(f"{word}1"), table.get(f"{word}2")
    if first is None or second is None:
        return None
    return tuple(value for both in zip(first, second) for value in both)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _bad(path: Path, number: int, found: str, expected: str) -> DataError:
    return DataError(f"{path}:{number}: found {found.strip()[:80]!r}; expected {expected}; fix the line")
