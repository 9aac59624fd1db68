"""Publish several files that belong together, so that a kill leaves the old ones, the new ones, or a refusal.

Torch-free. Everything of a run lies in one folder beside the first file, `.<its stem>.part`, which the run holds by a
lock; the next run removes what a killed one left there. Renames cannot be one step: while they last, a file
`publishing` in that folder has every reader refuse the set, and the second file of the set, without which other
programs do not read it, is gone from before the first rename until after the last.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from recognition.errors import DataError
from recognition.work.files import (
    empty_folder,
    held_folder,
    missing_parents,
    refuse_existing,
    remove_empty,
    sync_file,
    writing,
)

_PUBLISHING = "publishing"


def work_path(first: Path) -> Path:
    """Return the folder in which the set whose first file is `first` is made."""
    return first.with_name(f".{first.stem}.part")


def check_published(first: Path) -> None:
    """Raise DataError when a run was stopped while it put the set whose first file is `first` into its place."""
    if (work_path(first) / _PUBLISHING).exists():
        raise DataError(
            f"{first}: is unfinished: the run that put it here was stopped; expected a whole set; run that command "
            "again"
        )


class FileSet:
    """The files of a set under way: `paths` are to be written, `scratch` is a folder for what is only needed for it."""

    def __init__(self, targets: Sequence[Path], stale: Sequence[Path]) -> None:
        self._targets, self._stale = tuple(targets), tuple(stale)
        self.scratch = work_path(self._targets[0])
        self.paths = [self.scratch / target.name for target in self._targets]

    @property
    def is_publishing(self) -> bool:
        """Whether the files are on the way to their places."""
        return (self.scratch / _PUBLISHING).exists()

    def publish(self) -> None:
        """Put the files into their places; called again, it goes on where it was interrupted."""
        for path in self.paths:
            if path.exists():
                sync_file(path)
        (self.scratch / _PUBLISHING).touch()
        if self.paths[0].exists():
            # Nothing of two sets ever lies side by side: what goes with the old first file leaves before it.
            for path in (*self._targets[1:], *self._stale):
                path.unlink(missing_ok=True)
        for path, target in [(self.paths[0], self._targets[0]), *reversed([*zip(self.paths, self._targets)][1:])]:
            if path.exists():
                os.replace(path, target)
        (self.scratch / _PUBLISHING).unlink(missing_ok=True)


@contextlib.contextmanager
def staged_set(
    targets: Sequence[Path], *, overwrite: bool, stale: Sequence[Path] = (), derived: Sequence[Path] = ()
) -> Iterator[FileSet]:
    """Yield where to write the files of a set; publish them on success, remove them on error.

    The second of `targets` is the one without which other programs do not read the set. `stale` are files of an earlier
    set that go with it, `derived` those that programs made from it. Raises DataError when a target or a stale file
    exists and `overwrite` is false, unless a run was stopped while it published them; when another run is at work; and
    when the disk does not take the files.
    """
    files = FileSet(targets, [*stale, *derived])
    folder = files.scratch
    made = missing_parents(folder)
    try:
        with writing(targets[0]), held_folder(folder, targets[0]):
            try:
                empty_folder(folder, keep=_PUBLISHING)
                if not files.is_publishing:
                    refuse_existing(*targets, *stale, overwrite=overwrite)
                yield files
                try:
                    files.publish()
                except KeyboardInterrupt:
                    files.publish()  # some renames; half of them would cost the user both sets
                    raise
            finally:
                empty_folder(folder, keep=_PUBLISHING)
                if not files.is_publishing:
                    folder.rmdir()
    finally:
        remove_empty(made)
