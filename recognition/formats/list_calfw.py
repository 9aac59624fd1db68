"""CALFW's and CPLFW's lists: two lines a pair, `image.jpg number`, first all pairs of one person. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from recognition.formats.pair_layouts import bad_line, blocks_into_folds, numbered_lines, person_before_number
from recognition.formats.pair_list import PicturePair

# A name may hold blanks, but no second image: that would be a line `path path 0|1`.
_LINE = re.compile(r"\s*((?:(?!\.(?:jpe?g|png|bmp)\s).)+\.(?:jpe?g|png|bmp))\s+(\d{1,9})\s*", re.IGNORECASE)
_EXPECTED = "`image.jpg number`, 0 for different people and any other number for one"


class TwoLines:
    """Both lists; CALFW numbers the folds of its same pairs, CPLFW writes 1."""

    def fits(self, path: Path, head: Sequence[str]) -> bool:
        """Return whether the first two lines each hold an image and a number."""
        return len(head) >= 2 and all(_LINE.fullmatch(line) for line in head[:2])

    def read(self, path: Path) -> list[PicturePair]:
        """Return the pairs of the two blocks as ten folds."""
        lines = []
        for number, text in numbered_lines(path):
            found = _LINE.fullmatch(text)
            if found is None:
                raise bad_line(path, number, text, _EXPECTED)
            lines.append((number, text, found[1], found[2] != "0"))
        if len(lines) % 2:
            raise bad_line(path, lines[-1][0], lines[-1][1], "two lines for each pair, and this is an odd one")
        pairs = []
        for (_, _, first, is_same), (number, text, second, again) in zip(lines[0::2], lines[1::2]):
            if is_same != again:
                raise bad_line(path, number, text, f"a number that says, as the line before, same {is_same}")
            shown = (person_before_number(first), person_before_number(second))
            pairs.append(PicturePair(first, second, is_same, shown=shown))
        return blocks_into_folds(pairs, path)
