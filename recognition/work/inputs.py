"""What may stand in the place of a file that is to be read. Torch-free."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from recognition.errors import ArcShardError, DataError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def require_plain(path: str | Path, kind: type[ArcShardError] = DataError) -> None:
    """Raise `kind` when `path` is a folder, or a pipe, a device or a socket, of which reading may never end.

    A path where nothing is, is left to the one who opens it. Every reader calls this before it opens.
    """
    try:
        found = _KINDS.get(stat.S_IFMT(os.stat(path).st_mode))
    except (OSError, ValueError):
        return
    if found is not None:
        raise kind(f"{path}: is {found}; expected a plain file; give the path of one")
