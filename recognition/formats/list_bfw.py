"""BFW's datatable: comma-separated, a line a pair, with its fold and the group of each person. Torch-free."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from recognition.formats.pair_layouts import bad_line
from recognition.formats.pair_list import PicturePair, alternating
from recognition.formats.text_lines import read_lines

_NEEDED = ("fold", "p1", "p2", "label", "id1", "id2", "att1", "att2")


class Bfw:
    """A `bfw-*-datatable.csv`; other columns, such as other people's scores, are passed over."""

    def fits(self, path: Path, head: Sequence[str]) -> bool:
        """Return whether the header names every column that is needed."""
        return bool(head) and set(_NEEDED) <= {field.strip() for field in head[0].split(",")}

    def read(self, path: Path) -> list[PicturePair]:
        """Return the pairs by fold, same and different ones alternating."""
        rows = csv.reader(read_lines(path, "a list of pairs"))
        header = [field.strip() for field in next(rows, [])]
        missing = [name for name in _NEEDED if name not in header]
        if missing:
            raise bad_line(path, 1, ",".join(header), f"a header with {', '.join(missing)}")
        at = {name: header.index(name) for name in _NEEDED}
        folds: dict[int, list[PicturePair]] = {}
        for row in rows:
            if any(field.strip() for field in row):
                pair = _pair(path, rows.line_num, row, at)
                folds.setdefault(pair.fold, []).append(pair)
        return [pair for fold in sorted(folds) for pair in alternating(folds[fold])]


def _pair(path: Path, number: int, row: list[str], at: dict[str, int]) -> PicturePair:
    expected = "fold p1 p2 label id1 id2 att1 att2, as the header says, with a label of 0 or 1"
    if len(row) <= max(at.values()):
        raise bad_line(path, number, ",".join(row), expected)
    value = {name: row[place].strip() for name, place in at.items()}
    label = value["label"].removesuffix(".0")
    if label not in ("0", "1") or not value["fold"].isdigit() or not value["p1"] or not value["p2"]:
        raise bad_line(path, number, ",".join(row), expected)
    # The numbers of people start anew in each group.
    shown = (f"{value['att1']}/{value['id1']}", f"{value['att2']}/{value['id2']}")
    groups = (value["att1"], value["att2"])
    return PicturePair(value["p1"], value["p2"], label == "1", int(value["fold"]), shown=shown, groups=groups)
