"""Which paths a config's data section names."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from recognition.config.schema import DataConfig


def data_paths(config: DataConfig) -> list[Path]:
    """Return the packed sets and folders that data.rec and data.more_rec name; patterns stand for what they match.

    A pattern without a match is returned as it is, and fails as the missing file it names.
    """
    paths: list[Path] = []
    for spelled in (config.rec, *config.more_rec):
        if spelled is not None:
            expanded = os.path.expanduser(spelled)
            paths += [Path(match) for match in sorted(glob.glob(expanded)) or [expanded]]
    return paths


def is_there(path: Path) -> bool:
    """Return whether `path` is a set, or the path of one without its suffix."""
    return os.path.exists(path) or os.path.isfile(f"{path}.rec")
