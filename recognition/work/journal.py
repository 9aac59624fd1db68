"""A journal of finished work, so that a killed command continues where it was. Torch-free."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from recognition.errors import DataError
from recognition.work.files import writing
from recognition.work.work_folder import check_settings

JOURNAL = "journal.jsonl"


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
        with writing(self._path, "check space and start again"):
            if self._handle.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
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
