"""From a list of pairs and a folder of pictures to the files, and to what is known of them. Torch-free."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recognition.console import count
from recognition.errors import DataError
from recognition.formats.pair_layouts import people_of
from recognition.formats.pair_list import PicturePair
from recognition.formats.pairs_about import PairsAbout, sizes_of_folds
from recognition.formats.picture_names import PictureFinder

MAX_NAMED = 10  # missing pictures that are named; the rest are counted
ALIGNMENT = "align.json"
"""What align_faces.py writes beside its crops."""
_MAX_ALIGNMENT_BYTES = 1 << 16


def find_pictures(pairs: Sequence[PicturePair], images: Path) -> list[Path]:
    """Return the two paths of every pair in turn; DataError that names the first of those that are missing."""
    finder = PictureFinder(images)
    found: dict[str, Path | None] = {}
    for name in (name for pair in pairs for name in (pair.first, pair.second)):
        if name not in found:
            if finder.leads_out(name):
                raise DataError(f"{images}: {name!r} leads out of it; expected a path below; fix the list of pairs")
            found[name] = finder.find(name)
    missing = [name for name, path in found.items() if path is None]
    if missing:
        named = ", ".join(missing[:MAX_NAMED]) + (", ..." if len(missing) > MAX_NAMED else "")
        raise DataError(
            f"{images}: {len(missing):,} of {count(len(found), 'image')} are missing: {named}; expected every "
            "image of the pairs; add them or leave the pairs out"
        )
    return [path for pair in pairs for name in (pair.first, pair.second) if (path := found[name]) is not None]


def about_pairs(pairs: Sequence[PicturePair], images: Path) -> PairsAbout:
    """Return what a list and the folder of its pictures say of them."""
    folds = [pair.fold for pair in pairs]
    groups = [group for pair in pairs for group in pair.groups or ()]
    return PairsAbout(
        names=tuple(name for pair in pairs for name in (pair.first, pair.second)),
        people=people_of(pairs),
        groups=tuple(groups) if len(groups) == 2 * len(pairs) else None,
        fold_sizes=sizes_of_folds(folds) if len(set(folds)) > 1 else None,
        alignment=read_alignment(images),
        list_sha256=pairs_sha256(pairs),
    )


def pairs_sha256(pairs: Sequence[PicturePair]) -> str:
    """Return the SHA-256 of the pairs as lines `path TAB path TAB 0|1`, whatever layout they were read from."""
    lines = (f"{pair.first}\t{pair.second}\t{int(pair.is_same)}\n" for pair in pairs)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def read_alignment(images: Path) -> dict[str, Any] | None:
    """Return the align.json of a folder of crops; None where there is none that can be read."""
    try:
        with open(images / ALIGNMENT, "rb") as handle:
            found = json.loads(handle.read(_MAX_ALIGNMENT_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
