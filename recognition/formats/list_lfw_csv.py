"""LFW's pairs.csv as Kaggle has it: `name,imagenum1,imagenum2,` and then three or four fields a line. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recognition.formats.pair_layouts import equal_folds, numbered_lines
from recognition.formats.pair_list import PicturePair, lfw_pair


class LfwCsv:
    """LFW's pairs in their order, with commas and without the numbers of folds and pairs."""

    def fits(self, path: Path, head: Sequence[str]) -> bool:
        """Return whether the header is there."""
        return bool(head) and head[0].replace(" ", "").lower().startswith("name,imagenum1,imagenum2")

    def read(self, path: Path) -> list[PicturePair]:
        """Return the pairs in ten folds."""
        pairs = []
        for number, text in numbered_lines(path)[1:]:
            fields = [field.strip() for field in text.split(",")]
            pairs.append(lfw_pair(path, number, fields[:-1] if len(fields) == 4 and not fields[3] else fields))
        return equal_folds(pairs, path)
