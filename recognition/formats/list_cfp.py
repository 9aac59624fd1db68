"""CFP's protocol: lists of numbered images, and a folder a fold with the pairs of numbers. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from recognition.errors import DataError
from recognition.formats.pair_layouts import NUM_FOLDS, Line, bad_line, numbered_lines
from recognition.formats.pair_list import PicturePair, alternating

_LISTS = {"FF": ("Pair_list_F.txt", "Pair_list_F.txt"), "FP": ("Pair_list_F.txt", "Pair_list_P.txt")}
"""Split -> the lists that its first and second numbers point into."""


class Cfp:
    """`Protocol/Split/FF` (frontal with frontal) or `Protocol/Split/FP` (frontal with profile)."""

    def fits(self, path: Path, head: Sequence[str]) -> bool:
        """Return whether a path is the folder of one of the two splits."""
        return path.is_dir() and path.resolve().name in _LISTS

    def read(self, path: Path) -> list[PicturePair]:
        """Return the pairs of the ten folders; paths are below the folder that holds Protocol."""
        kind = path.resolve().name
        if kind not in _LISTS:
            raise DataError(f"{path}: no split of CFP; expected the folder Protocol/Split/FF or FP; check the path")
        protocol = path.resolve().parent.parent
        first, second = (_images(protocol / name) for name in _LISTS[kind])
        pairs: list[PicturePair] = []
        for fold in range(1, NUM_FOLDS + 1):
            members = []
            for name, is_same in (("same.txt", True), ("diff.txt", False)):
                place = path / f"{fold:02d}" / name
                for line in numbered_lines(place):
                    one, other = _two_images(place, line, first, second)
                    members.append(PicturePair(one, other, is_same, fold, shown=(_person(one), _person(other))))
            pairs += alternating(members)
        return pairs


def _images(path: Path) -> dict[str, str]:
    """Return number -> path below the set's folder."""
    found = {}
    for number, text in numbered_lines(path):
        index, _, name = text.strip().partition(" ")
        if not index.isdigit() or not name.strip():
            raise bad_line(path, number, text, "`number path`")
        found[str(int(index))] = os.path.normpath(os.path.join("Protocol", name.strip())).replace(os.sep, "/")
    return found


def _two_images(path: Path, line: Line, first: dict[str, str], second: dict[str, str]) -> tuple[str, str]:
    number, text = line
    fields = [field.strip() for field in text.split(",")]
    if len(fields) != 2 or fields[0] not in first or fields[1] not in second:
        raise bad_line(path, number, text, f"`a,b`, numbers from 1 to {len(first)} and 1 to {len(second)} of the lists")
    return first[fields[0]], second[fields[1]]


def _person(name: str) -> str:
    """Return 001 of Data/Images/001/frontal/01.jpg."""
    parts = name.split("/")
    return parts[-3] if len(parts) >= 3 else ""
