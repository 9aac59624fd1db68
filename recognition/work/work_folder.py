"""A folder of output that survives a kill: one run at a time, continued by the same settings, published by renames.

Torch-free.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from recognition.errors import DataError
from recognition.work.files import sync_file, write_text, writing
from recognition.work.old_words import current_word
from recognition.work.system import lock_file

SETTINGS, LOCK = "settings.json", "lock"
CONVERTING, UNPACKING = ".convert", ".unpack"
SETS = (CONVERTING, UNPACKING)
"""Folders of work in an output that is a set: it is read when all is there, unlike faces, of which each counts."""


@dataclass(frozen=True)
class WorkFolder:
    """`output`, which a command fills, and in it the folder `name` with what is under way.

    `products` are the files that are published, in this order: the last one says that all is there. `content` is what
    they are, in a few words. Where `shares` is true, `output` may be a folder that holds files of others.
    """

    output: Path
    name: str
    products: tuple[str, ...]
    content: str
    shares: bool = False

    @property
    def path(self) -> Path:
        """The folder of what is under way."""
        return self.output / self.name

    @property
    def staging(self) -> Path:
        """A folder in it for files that come to their places one by one and are not yet whole."""
        return self.path / "staging"

    @property
    def is_under_way(self) -> bool:
        """Whether a run has begun and not ended; what a kill in `remove` left empty goes."""
        if (self.path / SETTINGS).is_file():
            return True
        with contextlib.suppress(OSError):
            self.path.rmdir()
        return False

    @property
    def is_finished(self) -> bool:
        """Whether all is there; a run killed while it published still has its work folder."""
        return (self.output / self.products[-1]).is_file() and not self.is_under_way

    @property
    def is_untouched(self) -> bool:
        """Whether the run under way has not yet written anything of its own."""
        return {entry.name for entry in self.path.iterdir()} <= {SETTINGS, LOCK}

    def check(self, *, overwrite: bool) -> None:
        """Raise DataError when the folder is finished, and `overwrite` is false, or holds something else."""
        if self.output.exists() and not self.output.is_dir():
            raise DataError(f"{self.output}: is not a folder; expected a folder for {self.content}; choose another")
        if not overwrite and self.is_finished:
            raise DataError(
                f"{self.output}: holds {self.content} already; expected a new OUT; pass --overwrite to replace it"
            )
        if self.shares or not self.output.is_dir() or self.path.is_dir():
            return
        found = {entry.name for entry in self.output.iterdir()}
        if found and not (overwrite and found & {*self.products}):
            raise DataError(
                f"{self.output}: is not empty; expected a new folder, or one this command began; choose another"
            )

    def clear(self, remove_contents: Callable[[], None] | None = None) -> None:
        """Remove what earlier runs left: what `remove_contents` removes, what is under way, and the products.

        Killed on the way it has to be called again: a run that would continue the work is refused from the first
        removal on. DataError while another process is at work.
        """
        with contextlib.ExitStack() as held, writing(self.output):
            if not self.output.is_dir():
                return
            self.path.mkdir(exist_ok=True)
            held.enter_context(self._lock())
            # No settings are equal to empty ones; it needs no space, and from here on the folder is unfinished.
            with open(self.path / SETTINGS, "wb"):
                pass
            if remove_contents is not None:
                remove_contents()
            for name in reversed(self.products):
                (self.output / name).unlink(missing_ok=True)
            self.remove()

    def hold(self) -> BinaryIO:
        """Make the folder and lock it until the file returned is closed or this process ends, however it ends.

        Raises DataError while another process holds it: two runs would publish and delete under each other's hands.
        """
        with writing(self.output, "choose a writable folder"):
            self.path.mkdir(parents=True, exist_ok=True)
            return self._lock()

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Note the settings of the work, or raise DataError when it was begun with others."""
        check_settings(self.path, settings)

    def publish(self, names: Sequence[str] | None = None) -> None:
        """Move the files `names` (all products, where none are named) to their places and remove what was under way.

        The last of them has to be the last of `products`. Raises DataError when the disk does not take it.
        """
        names = self.products if names is None else names
        assert names[-1] == self.products[-1], "the last product says that all is there"
        with writing(self.output, "check space and start again"):
            for name in names:
                sync_file(self.path / name)
            for name in names:
                os.replace(self.path / name, self.output / name)
            self.remove()

    def give_up(self) -> None:
        """Leave nothing of a run that ended in an error before it finished anything, nor an output it is alone in."""
        self.remove()
        with contextlib.suppress(OSError):  # it holds something else
            self.output.rmdir()

    def remove(self) -> None:
        """Delete what was under way; its settings last, so that no other settings take what a kill leaves."""
        for entry in os.scandir(self.path):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            elif entry.name != SETTINGS:
                os.unlink(entry.path)
        shutil.rmtree(self.path)

    def _lock(self) -> BinaryIO:
        handle = open(self.path / LOCK, "wb")  # noqa: SIM115  the caller keeps it
        try:
            lock_file(handle, wait=False)
        except BlockingIOError as err:
            handle.close()
            raise DataError(
                f"{self.output}: another run is at work in it; expected none; wait for its end, or end its processes"
            ) from err
        return handle


def check_finished(folder: Path) -> None:
    """Raise DataError when a run that makes a whole set of `folder` has begun in it and not ended."""
    for name in SETS:
        if (folder / name / SETTINGS).exists():
            raise DataError(
                f"{folder}: is unfinished: the run that fills it was stopped, or is at work; expected a whole set; run "
                "that command again"
            )


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Note the settings of the work in `folder`, or raise DataError when it was begun with others."""
    path, wanted = folder / SETTINGS, json.dumps(settings, sort_keys=True)
    if not path.is_file():
        write_text(path, wanted)
        return
    found, wanted = (_in_current_words(text) for text in (path.read_text(encoding="utf-8"), wanted))
    if found != wanted:
        raise DataError(
            f"{folder.parent}: was begun with other settings ({_differing(found, wanted)}); expected the same to "
            "continue; pass --overwrite to begin anew"
        )


def _in_current_words(text: str) -> str:
    """Return settings that an older version may have written with the words of today."""
    try:
        found = json.loads(text)
    except ValueError:
        return text
    now = {name: current_word(value) if isinstance(value, str) else value for name, value in found.items()}
    return json.dumps(now, sort_keys=True)


def _differing(found: str, wanted: str) -> str:
    try:
        old, new = json.loads(found), json.loads(wanted)
    except ValueError:
        return "its settings cannot be read"
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return ", ".join(f"{name} {old.get(name)!r}, now {new.get(name)!r}" for name in names)
