"""RFW's lists, one a race: LFW's lines without its first one, in ten folds one after the other. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recognition.formats.pair_layouts import equal_folds, numbered_lines
from recognition.formats.pair_list import PicturePair, lfw_pair, split_fields


class Rfw:
    """A `<Race>_pairs.txt`; the race is the group of all its people."""

    def fits(self, path: Path, head: Sequence[str]) -> bool:
        """Return whether the first line is one of LFW's, with tabs, where LFW has its numbers of folds and pairs."""
        fields = head[0].split("\t") if head else []
        numbers = (fields[1:] if len(fields) == 3 else fields[1::2]) if len(fields) in (3, 4) else []
        return bool(numbers) and all(field.strip().isdigit() for field in numbers)

    def read(self, path: Path) -> list[PicturePair]:
        """Return the pairs in ten folds."""
        race = path.stem.removesuffix("_pairs")
        groups = (race, race) if race != path.stem else None
        lines = numbered_lines(path)
        return equal_folds([lfw_pair(path, number, split_fields(text), groups=groups) for number, text in lines], path)
