"""Checksums of a packed set's records, in a file beside it: what no decoder sees, most single flipped bits, they do.

PREFIX.crc has a line `key TAB crc32` a record, the checksum of its payload (header, labels and image) as eight
hexadecimal digits, in the order of the file.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from recognition.errors import DataError
from recognition.formats.text_lines import read_lines

_LINE = re.compile(r"(\d{1,18})\t([0-9a-f]{8})")


def digests_path(rec: Path) -> Path:
    """Return where the checksums of a .rec are, if it has any."""
    return rec.with_suffix(".crc")


def write_digest(handle: BinaryIO, key: int, payload: bytes) -> None:
    """Append the line of a record."""
    handle.write(b"%d\t%08x\n" % (key, zlib.crc32(payload)))


class Digests:
    """The checksums of a set, read from its file; 12 bytes of memory a record. DataError names a line that is wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = read_lines(path, "lines `key TAB crc32`")
        self._keys = np.empty(len(lines), np.int64)
        self._sums = np.empty(len(lines), np.uint32)
        for number, line in enumerate(lines):
            match = _LINE.fullmatch(line)
            if match is None:
                raise DataError(f"{path}:{number + 1}: {line[:60]!r}; expected `key TAB crc32`; pack the set anew")
            self._keys[number], self._sums[number] = int(match[1]), int(match[2], 16)
        order = np.argsort(self._keys, kind="stable")
        self._keys, self._sums = self._keys[order], self._sums[order]

    def __len__(self) -> int:
        return len(self._keys)

    def problem(self, key: int, payload: bytes) -> str | None:
        """Return what is wrong with a record, or None."""
        at = int(np.searchsorted(self._keys, key))
        if at == len(self._keys) or self._keys[at] != key:
            return f"is not in {self.path.name}; expected a checksum of every record; pack the set anew"
        found = zlib.crc32(payload)
        if found == int(self._sums[at]):
            return None
        return (
            f"has the checksum {found:08x}; expected the {int(self._sums[at]):08x} of {self.path.name}: the record "
            "changed after it was packed; restore the .rec, or remove the .crc where another command wrote it anew"
        )
