"""A journal of finished work, so that a killed command continues where it was. Torch-free."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from recognition.errors import DataError
from recognition.files import write_text

_NAME = "journal.jsonl"


class Journal:
    """JSON lines of finished items in a folder of its own, with the settings they were made under.

    Opening one that exists continues it: `done` names what it holds; a line cut short by a kill is dropped. Lines are
    handed to the system one by one but not synced: they survive the process, not the machine. Only their offsets are
    held in memory. Raises DataError when the settings differ from those it was begun with.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self._path = folder / _NAME
        self._offsets: dict[str, int] = {}
        check_settings(folder, settings)
        self._handle = open(self._path, "a+b")  # noqa: SIM115  closed by `close`
        self._end = self._read_back()
        self._handle.truncate(self._end)

    @property
    def done(self) -> Mapping[str, int]:
        """The keys of the finished items."""
        return self._offsets

    def append(self, key: str, record: Mapping[str, Any]) -> None:
        """Note that the item `key` is finished."""
        line = json.dumps({"key": key, **record}).encode() + b"\n"
        self._handle.write(line)
        self._handle.flush()
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

    def give_up(self) -> None:
        """Close after an error. Work of which nothing was finished leaves no folder that other settings would meet."""
        self.close()
        if not self._offsets:
            shutil.rmtree(self.folder)
            with contextlib.suppress(OSError):  # the folder around it holds something
                self.folder.parent.rmdir()

    def remove(self) -> None:
        """Close and delete the journal and its folder: the work is published."""
        self.close()
        shutil.rmtree(self.folder)

    def _read_back(self) -> int:
        """Note the offsets of the whole lines and return where they end."""
        self._handle.seek(0)
        end = 0
        for line in self._handle:
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
    path, wanted = folder / "settings.json", json.dumps(settings, sort_keys=True)
    if not path.is_file():
        write_text(path, wanted)
        return
    found = path.read_text(encoding="utf-8")
    if found != wanted:
        raise DataError(
            f"{folder.parent}: was begun with other settings ({_differing(found, wanted)}); expected the same to "
            "continue; pass --overwrite to begin anew"
        )


def _differing(found: str, wanted: str) -> str:
    try:
        old, new = json.loads(found), json.loads(wanted)
    except ValueError:
        return "its settings cannot be read"
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return ", ".join(f"{name} {old.get(name)!r}, now {new.get(name)!r}" for name in names)
