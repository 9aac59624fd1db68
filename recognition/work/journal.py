"""A journal of finished work, so that a killed command continues where it was. Torch-free."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from recognition.errors import DataError
from recognition.work.files import write_text
from recognition.work.system import lock_file

JOURNAL, SETTINGS, LOCK = "journal.jsonl", "settings.json", "lock"


class Journal:
    """JSON lines of finished items in a folder of its own, with the settings they were made under.

    Opening one that exists continues it: `done` names what it holds; a line cut short by a kill is dropped. Lines are
    handed to the system one by one but not synced: they survive the process, not the machine. Only their offsets are
    held in memory. Raises DataError when the settings differ from those it was begun with.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self._path = folder / JOURNAL
        self._offsets: dict[str, int] = {}
        check_settings(folder, settings)
        self._end = self._read_back()
        # Unbuffered: after an error nothing is left that `close` would try to write once more.
        self._handle = open(self._path, "ab", buffering=0)  # noqa: SIM115  closed by `close`
        self._handle.truncate(self._end)

    @property
    def done(self) -> Mapping[str, int]:
        """The keys of the finished items."""
        return self._offsets

    def append(self, key: str, record: Mapping[str, Any]) -> None:
        """Note that the item `key` is finished. Raises DataError when the disk does not take it."""
        line = json.dumps({"key": key, **record}).encode() + b"\n"
        try:
            if self._handle.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as err:
            raise DataError(
                f"{self._path}: cannot be written ({err.strerror or err}); check space and start again"
            ) from err
        self._offsets[key] = self._end
        self._end += len(line)

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the records in the order of their sorted keys, each with its "key"."""
        with open(self._path, "rb") as handle:
            for key in sorted(self._offsets):
                handle.seek(self._offsets[key])
                yield json.loads(handle.readline())

    def close(self) -> None:
        """Close the file; the journal stays for the next run."""
        self._handle.close()

    def _read_back(self) -> int:
        """Note the offsets of the whole lines and return where they end."""
        end = 0
        if not self._path.is_file():
            return end
        with open(self._path, "rb") as handle:
            for line in handle:
                if not line.endswith(b"\n"):
                    break
                self._offsets[self._key(line, end)] = end
                end += len(line)
        return end

    def _key(self, line: bytes, offset: int) -> str:
        try:
            return str(json.loads(line)["key"])
        except (ValueError, KeyError, TypeError, RecursionError) as err:
            raise DataError(
                f"{self._path}: at byte {offset}: {line[:60]!r}; expected a line this command wrote; pass --overwrite "
                "to begin anew"
            ) from err


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Note the settings of the work in `folder`, or raise DataError when it was begun with others."""
    path, wanted = folder / SETTINGS, json.dumps(settings, sort_keys=True)
    if not path.is_file():
        write_text(path, wanted)
        return
    found = path.read_text(encoding="utf-8")
    if found != wanted:
        raise DataError(
            f"{folder.parent}: was begun with other settings ({_differing(found, wanted)}); expected the same to "
            "continue; pass --overwrite to begin anew"
        )


def is_under_way(folder: Path) -> bool:
    """Return whether the folder of work holds any; one that is empty, as a kill in `remove_work` leaves it, goes."""
    if (folder / SETTINGS).is_file():
        return True
    with contextlib.suppress(OSError):
        folder.rmdir()
    return False


def hold(folder: Path) -> BinaryIO:
    """Lock the folder of work under way until the file returned is closed or this process ends, however it ends.

    Raises DataError while another process holds it: two runs would publish and delete under each other's hands.
    """
    handle = open(folder / LOCK, "wb")  # noqa: SIM115  the caller keeps it
    try:
        lock_file(handle, wait=False)
    except BlockingIOError as err:
        handle.close()
        raise DataError(
            f"{folder.parent}: another run is at work in it; expected none; wait for its end, or end its processes"
        ) from err
    return handle


def remove_work(folder: Path) -> None:
    """Delete the folder of finished work; its settings last, so that no other settings take what a kill leaves."""
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        elif entry.name != SETTINGS:
            os.unlink(entry.path)
    shutil.rmtree(folder)


def _differing(found: str, wanted: str) -> str:
    try:
        old, new = json.loads(found), json.loads(wanted)
    except ValueError:
        return "its settings cannot be read"
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return ", ".join(f"{name} {old.get(name)!r}, now {new.get(name)!r}" for name in names)
