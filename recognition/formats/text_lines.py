"""Read the lines of text files that people write, whatever editor they wrote them with. Torch-free."""

from __future__ import annotations

import codecs
import unicodedata
from pathlib import Path

from recognition.errors import DataError
from recognition.work.inputs import require_plain

MAX_FILE_BYTES = 1 << 30
"""Largest text file that is read at once: the checksums of 50 million records."""
_MAX_LINE_CHARACTERS = 1 << 16
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_lines(path: Path, expected: str) -> list[str]:
    """Return the lines of a file, without their ends (of Unix, Windows or an old Mac) and without a byte order mark.

    The text is UTF-8, or UTF-16 with its mark; bytes that are neither, as names of files may have them, become what
    `os.fsencode` turns back into them. Raises DataError, which says what was `expected`, when the file cannot be read,
    is no text, is larger than `MAX_FILE_BYTES`, or has a line that no list has.
    """
    require_plain(path)
    try:
        num_bytes = path.stat().st_size
        content = path.read_bytes() if num_bytes <= MAX_FILE_BYTES else b""
    except OSError as err:
        raise DataError(f"{path}: cannot be read ({err.strerror or err}); expected {expected}; check the path") from err
    if num_bytes > MAX_FILE_BYTES:
        raise DataError(f"{path}: over {MAX_FILE_BYTES >> 20} MiB; expected {expected}; split it")
    try:
        if content.startswith(_UTF16_MARKS):
            text = content.decode("utf-16")
        else:
            text = content.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise DataError(f"{path}: cannot be read (not text); expected {expected}; check the path")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")
    longest = max(lines, key=len)
    if len(longest) > _MAX_LINE_CHARACTERS:
        place = f"{path}:{lines.index(longest) + 1}"
        raise DataError(f"{place}: a line of {len(longest):,} characters; expected {expected}; check the path")
    return lines


def refuse_unlistable(name: str) -> None:
    """Raise DataError for the name of a file that no list can hold."""
    if any(character in name for character in "\t\r\n"):
        raise DataError(f"{name!r}: has a tab or a line break, which no list can name; expected none; rename it")


def same_accents(name: str) -> str:
    """Return a name with its accents composed: file systems and editors differ in how they spell one and the same."""
    return unicodedata.normalize("NFC", name)
