"""Read lists of verification pairs: LFW's pairs.txt, and lines `path path 0|1`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from recognition.errors import ConfigError, DataError
from recognition.formats.image_tree import identity_of
from recognition.formats.text_lines import read_lines

_MAX_FOLDS = 1000


@dataclass(frozen=True)
class PicturePair:
    """Two pictures by their path below the image folder (LFW's without suffix), and whether they show one person."""

    first: str
    second: str
    is_same: bool
    fold: int = 1
    shown: tuple[str, str] | None = None
    """The two people, where their names are not the first folders of the paths."""
    groups: tuple[str, str] | None = None
    """Of the two people, where the list says them."""

    @property
    def people(self) -> tuple[str, str]:
        """The identities of the two pictures."""
        return self.shown or (identity_of(self.first), identity_of(self.second))


def read_pair_list(path: Path, *, folds: Collection[int] | None = None) -> list[PicturePair]:
    """Return the pairs of a file in its order, or those of the chosen folds (counted from 1; LFW's form only).

    Within a fold of LFW's form, which lists its same pairs first, same and different pairs alternate: verification cuts
    a set into ten parts by position, and a part of one kind alone would be scored at a threshold made for the other.
    For all ten folds the parts are the folds, and the order within them changes no number.
    Raises DataError naming the line that is neither form, and when LFW's header disagrees with the lines.
    """
    lines = read_lines(path, "a list of pairs")
    numbered = [(number, split_fields(line)) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise DataError(f"{path}: holds no pairs; expected LFW's pairs.txt or lines `path path 0|1`")
    head = numbered[0][1]
    if len(head) <= 2 and all(_is_number(field) for field in head):
        return _read_lfw(path, head, numbered[1:], folds)
    if folds is not None:
        raise DataError(f"{path}: has no LFW header `folds pairs`; expected one for --folds; leave --folds out")
    return [_labeled(path, number, fields) for number, fields in numbered]


def parse_folds(text: str) -> list[int]:
    """Parse `5`, `1-4` or `1,3-5` into fold numbers."""
    folds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not _is_number(first) or (dash and not _is_number(last)) or int(last or first) > _MAX_FOLDS:
            raise ConfigError(f"--folds {text}: {part!r} is no fold; expected numbers such as 5, 1-4 or 1,3-5")
        folds += range(int(first), int(last if dash else first) + 1)
    return folds


def _read_lfw(
    path: Path, head: list[str], numbered: list[tuple[int, list[str]]], folds: Collection[int] | None
) -> list[PicturePair]:
    num_folds, each = (int(head[0]), int(head[1])) if len(head) == 2 else (1, int(head[0]))
    if not 1 <= num_folds <= _MAX_FOLDS or not each:
        raise DataError(f"{path}: says {num_folds} folds of {each} pairs; expected 1 to {_MAX_FOLDS} with some in each")
    if len(numbered) != 2 * num_folds * each:
        raise DataError(
            f"{path}: {len(numbered):,} pairs; expected 2 x {each} in each of {num_folds} folds, as its first line "
            "says; fetch the file again"
        )
    wanted = set(range(1, num_folds + 1)) if folds is None else set(folds)
    if not wanted or not wanted <= set(range(1, num_folds + 1)):
        raise DataError(f"{path}: has folds 1 to {num_folds}; found {sorted(wanted)} in --folds; choose among them")
    pairs = [lfw_pair(path, number, fields, 1 + i // (2 * each)) for i, (number, fields) in enumerate(numbered)]
    return [pair for fold in sorted(wanted) for pair in alternating([p for p in pairs if p.fold == fold])]


def alternating(pairs: list[PicturePair]) -> list[PicturePair]:
    """Return same and different pairs in turn, and at the end what one kind has more."""
    same = [pair for pair in pairs if pair.is_same]
    different = [pair for pair in pairs if not pair.is_same]
    paired = [pair for both in zip(same, different) for pair in both]
    shorter = min(len(same), len(different))
    return paired + same[shorter:] + different[shorter:]


def lfw_pair(
    path: Path, line: int, fields: list[str], fold: int = 1, *, groups: tuple[str, str] | None = None
) -> PicturePair:
    """Return the pair of LFW's `name i j` or `name1 i name2 j`; DataError names the line that is neither."""
    if len(fields) == 3 and _is_number(fields[1]) and _is_number(fields[2]):
        name, first, second = fields
        return PicturePair(_lfw_picture(name, first), _lfw_picture(name, second), True, fold, groups=groups)
    if len(fields) == 4 and _is_number(fields[1]) and _is_number(fields[3]):
        name, first, other, second = fields
        return PicturePair(_lfw_picture(name, first), _lfw_picture(other, second), False, fold, groups=groups)
    raise DataError(f"{path}:{line}: found {' '.join(fields)!r}; expected `name i j` or `name1 i name2 j`; fix it")


def _lfw_picture(name: str, number: str) -> str:
    return f"{name}/{name}_{int(number):04d}"


def _labeled(path: Path, line: int, fields: list[str]) -> PicturePair:
    if len(fields) != 3 or fields[2] not in ("0", "1"):
        raise DataError(f"{path}:{line}: found {' '.join(fields)[:100]!r}; expected `path path 0|1`; fix the line")
    return PicturePair(fields[0], fields[1], fields[2] == "1")


def _is_number(field: str) -> bool:
    return field.isascii() and field.isdigit() and len(field) < 10


def split_fields(line: str) -> list[str]:
    """Return the fields of a line, separated by tabs or else by blanks."""
    # Names may hold blanks where tabs separate.
    return [field.strip() for field in line.split("\t")] if "\t" in line else line.split()
