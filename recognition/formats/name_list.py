"""Read lists of people's names in the shapes in which test sets come. Torch-free."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from recognition.errors import DataError
from recognition.formats.text_lines import read_lines
from recognition.images.photos import PHOTO_SUFFIXES

Spellings = tuple[str, ...]
"""What an entry of a list may mean, the likeliest first; the first is how it is called."""

_EXPECTED = "a folder of identities, a list of names, or LFW's pairs.txt"
_NUMBERED = re.compile(r"[ _-]?\d+$")  # Ann_Lee_0001
_COUNTED = re.compile(r"(.*\S)\s+\d+$")  # Ann Lee 3


def read_names(path: Path) -> list[Spellings]:
    """Return the people a folder, a list or a file of pairs names, each once.

    A folder names its subfolders. A file is LFW's pairs.txt, or lines `path path 0|1`, or has a person a line: the name
    alone, with a slash or a count after it, in quotes, first in a row of CSV or of columns, or the path of a picture.
    Raises DataError when it cannot be read or names nobody.
    """
    try:
        found = list(dict.fromkeys(_folders(path) if path.is_dir() else _listed(path)))
    except OSError as err:
        raise DataError(f"{path}: cannot be read ({err.strerror or err}); expected {_EXPECTED}; check it") from err
    if not found:
        raise DataError(f"{path}: holds no names; expected {_EXPECTED}; check the path")
    return found


def _folders(path: Path) -> Iterator[Spellings]:
    for entry in os.scandir(path):
        if entry.is_dir() and not entry.name.startswith("."):
            yield (entry.name,)


def _listed(path: Path) -> Iterator[Spellings]:
    for line in read_lines(path, _EXPECTED):
        for person in _people(line):
            if spellings := tuple(dict.fromkeys(filter(None, person))):
                yield spellings


def _people(line: str) -> Iterator[Iterator[str]]:
    """Yield what each person of a line may be called: two in a line of pairs, none in one of numbers."""
    for separator in ("\t", ",", ";", None):
        fields = [_bare(field) for field in line.split(separator)]
        while fields and not fields[-1]:
            fields.pop()
        if len(fields) == 4 and _is_number(fields[1]) and _is_number(fields[3]):  # name1 i name2 j
            yield from (iter((name,)) for name in (fields[0], fields[2]))
            return
        if len(fields) == 3 and fields[2] in ("0", "1") and "/" in fields[0] and "/" in fields[1]:  # path path 0|1
            yield from map(_of_path, fields[:2])
            return
    if not _is_number("".join(line.split())):
        yield _of_line(line)


def _of_line(line: str) -> Iterator[str]:
    name = _bare(line)
    if not any(separator in name for separator in "\t,;"):
        yield from _of_path(name)
    for separator in "\t,;":
        fields = [_bare(field) for field in line.split(separator)]
        names = [field for field in fields if field and not _is_number(field)]
        if len(fields) > 1 and names:
            yield from _of_path(names[0])
    yield name
    if counted := _COUNTED.match(name):
        yield counted[1]


def _of_path(name: str) -> Iterator[str]:
    """Yield the folders that a path to a picture or a person may mean."""
    name = name.replace("\\", "/").strip("/").removeprefix("./")
    folder, _, last = name.rpartition("/")
    stem, suffix = os.path.splitext(last)
    is_picture = suffix.lower() in PHOTO_SUFFIXES
    if not is_picture:
        yield name
        yield last
    if folder and (is_picture or _NUMBERED.search(last)):
        yield folder
        yield folder.rpartition("/")[2]
    yield _NUMBERED.sub("", stem if is_picture else last)


def _bare(text: str) -> str:
    return text.strip().strip("\"'").strip()


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"[\d.]*", text))
