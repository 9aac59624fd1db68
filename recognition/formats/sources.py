"""Which packed sets and folders a text names."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path


def named_paths(texts: Iterable[str]) -> list[Path]:
    """Return the packed sets and folders that `texts` name; patterns stand for what they match.

    A pattern without a match is returned as it is, and fails as the missing file it names.
    """
    paths: list[Path] = []
    for text in texts:
        expanded = os.path.expanduser(text)
        paths += [Path(match) for match in sorted(glob.glob(expanded)) or [expanded]]
    return paths


def is_there(path: Path) -> bool:
    """Return whether `path` is a set, or the path of one without its suffix."""
    return os.path.exists(path) or os.path.isfile(f"{path}.rec")
