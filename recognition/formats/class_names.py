"""The names of a set's people, in a file beside it: class ids are numbers of one set, names outlive it.

PREFIX.names, beside PREFIX.rec or PREFIX.lst, is UTF-8 text with a line for each class id from 0 on: the name of that
identity, or nothing where it has none. No name occurs twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from recognition.errors import DataError
from recognition.formats.text_lines import read_lines

_LONGEST = 1024
_EXPECTED = "lines with the name of an identity each, in the order of class ids"


def names_path(path: Path) -> Path:
    """Return where the names of the people of a .rec or .lst are, if it has any."""
    return path.with_suffix(".names")


def read_class_names(path: Path) -> list[str]:
    """Return the names of the class ids from 0 on, "" for one without a name.

    Raises DataError, which names the line, for a name that occurs twice, is too long or has control characters.
    """
    names = read_lines(path, _EXPECTED)
    first: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        place = f"{path}:{number}"
        if name in first:
            raise DataError(
                f"{place}: {name[:80]!r} again, as in line {first[name]}; expected each name once; rename one of them"
            )
        if len(name) > _LONGEST or _has_controls(name):
            raise DataError(
                f"{place}: {name[:80]!r}; expected a name of one line and at most {_LONGEST:,} characters; correct it"
            )
        if name:
            first[name] = number
    return names


def write_class_names(path: Path, names: Mapping[int, str]) -> bool:
    """Write the names by class id and return True; False, and no file, where they are no names of one class each."""
    listed = [names.get(label, "") for label in range(max(names, default=-1) + 1)]
    given = [name for name in listed if name]
    if not given or len(set(given)) < len(given) or any(len(n) > _LONGEST or _has_controls(n) for n in given):
        return False
    path.write_bytes("".join(f"{name}\n" for name in listed).encode("utf-8", "surrogateescape"))
    return True


class NameNotes:
    """Learns the names of classes from their images: from the names beside the images' list, or where it has none from
    the folder in which the first image of each lies."""

    def __init__(self, lst: Path | None = None) -> None:
        self.names: dict[int, str] = {}
        self._path = None if lst is None else names_path(lst)
        self._known = read_class_names(self._path) if self._path is not None and self._path.is_file() else None

    def add(self, label: int, path: str) -> None:
        """Take note of an image, `path` being that below the root of its set.

        Raises DataError when the list has names, but none for this class.
        """
        if label in self.names:
            return
        if self._known is None:
            self.names[label] = path.partition("/")[0] if "/" in path else ""
        elif label < len(self._known) or not any(self._known):
            self.names[label] = self._known[label] if label < len(self._known) else ""
        else:
            raise DataError(
                f"{self._path}: has {len(self._known):,} names, but {path} is of class {label}; expected a line for "
                "each class; remove the file, or write the list again"
            )


def class_of_name(names: Iterable[str]) -> dict[str, int]:
    """Return name -> class id, without the classes that have no name."""
    return {name: label for label, name in enumerate(names) if name}


def _has_controls(name: str) -> bool:
    # Half of a pair stands for a byte that is no UTF-8, which names of files may have.
    return any(character < " " or "\x7f" <= character < "\xa0" for character in name) or "/" in name
