"""Lists of labeled image files: a folder of identity folders, or a .lst. Memory stays small for tens of millions."""

from __future__ import annotations

import logging
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from recognition.console import count
from recognition.errors import DataError

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})

_MAX_LINE_BYTES = 2**16


class Folder:
    """Names of files below a folder, for names that come from a list anybody may have written."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._real_root = os.path.join(os.path.realpath(root), "")

    def path(self, name: str) -> str | None:
        """Return the path of `name`; None when it leads out of the folder, as an absolute path, by `..` or a link."""
        path = os.path.join(self._root, name)
        return path if "\0" not in name and os.path.realpath(path).startswith(self._real_root) else None


class ListedImage(NamedTuple):
    """One image file: `name` is its path below the root, `place` how messages call it."""

    path: str
    label: int
    name: str
    place: str


class ImageList(Protocol):
    """Image files and their labels, in a fixed order."""

    root: Path

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[ListedImage]: ...


class FolderList:
    """The images below `root/<identity>/`; identities are numbered in the order of their sorted names.

    Names starting with a dot are passed over, other files than images with a warning. Raises DataError on an identity
    without images; `allow_empty` leaves it out, with a warning, before numbers are given.
    """

    def __init__(self, root: Path, *, allow_empty: bool = False) -> None:
        self.root = root
        folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != ".")
        if not folders:
            raise DataError(f"{root}: holds no folders; expected one folder of images per identity")
        self.identities: list[str] = []
        self._num_images = num_others = 0
        for identity in folders:
            images, others = self._names(identity)
            num_others += others
            if images:
                self.identities.append(identity)
                self._num_images += len(images)
            elif allow_empty:
                logger.warning("%s: holds no image; left out", root / identity)
            else:
                raise DataError(f"{root / identity}: holds no image; expected a .jpg or .png; remove the folder")
        if num_others:
            logger.warning("%s: passed over %s that is no .jpg, .jpeg or .png", root, count(num_others, "file"))

    def __len__(self) -> int:
        return self._num_images

    def __iter__(self) -> Iterator[ListedImage]:
        for label, identity in enumerate(self.identities):
            for name in self._names(identity)[0]:
                path = os.path.join(self.root, identity, name)
                yield ListedImage(path, label, f"{identity}/{name}", path)

    def _names(self, identity: str) -> tuple[list[str], int]:
        """Return the sorted names of the images of one identity, and how many other files there are."""
        names = [name for name in os.listdir(self.root / identity) if name[0] != "."]
        images = sorted(name for name in names if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES)
        return images, len(names) - len(images)


class LstFile:
    """The lines of a .lst, im2rec's `index TAB label TAB path` or insightface's older `1 TAB path TAB label`.

    Paths are below `root`; a line whose path leads out of it, by `..` or a link, raises DataError when it is reached.
    With `by_label` the lines are sorted by label, and otherwise stay as they are.
    """

    def __init__(self, path: Path, root: Path, *, by_label: bool) -> None:
        self.path = path
        self.root = root
        self._folder = Folder(root)
        labels, offsets, numbers = array("q"), array("q"), array("q")
        with open(path, "rb") as handle:
            offset = 0
            for number, line in enumerate(iter(lambda: handle.readline(_MAX_LINE_BYTES), b""), 1):
                if line.strip():
                    labels.append(parse_lst_line(line, f"{path}:{number}")[0])
                    offsets.append(offset)
                    numbers.append(number)
                offset += len(line)
        if not labels:
            raise DataError(f"{path}: is empty; expected lines 'index TAB label TAB path'")
        self._lines = np.stack([np.frombuffer(offsets, np.int64), np.frombuffer(numbers, np.int64)], axis=1)
        if by_label:
            self._lines = self._lines[np.argsort(np.frombuffer(labels, np.int64), kind="stable")]

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[ListedImage]:
        with open(self.path, "rb") as handle:
            for offset, number in self._lines.tolist():
                handle.seek(offset)
                label, name = parse_lst_line(handle.readline(_MAX_LINE_BYTES), f"{self.path}:{number}")
                path = self._folder.path(name)
                if path is None:
                    problem = f"{name!r} leads out of {self.root}; expected a path below it; set --root"
                    raise DataError(f"{self.path}:{number}: {problem}")
                yield ListedImage(path, label, os.path.relpath(path, self.root), path)


def parse_lst_line(line: bytes, place: str) -> tuple[int, str]:
    """Return (label, path) of one line of a .lst in either of its forms."""
    fields = os.fsdecode(line).rstrip("\r\n").split("\t")
    if len(fields) == 3:
        # The older form is told by its middle: a path is no number.
        label = _whole_number(fields[1])
        name = fields[2]
        if label is None:
            label, name = _whole_number(fields[2]), fields[1]
        if label is not None and name and "\0" not in name:
            return label, name
    elif len(fields) > 3 and all(_whole_number(field) is not None for field in fields[:2]):
        raise DataError(f"{place}: has {len(fields) - 2} labels; expected one class id per image")
    found = os.fsdecode(line[:80].rstrip())
    expected = "'index TAB label TAB path' or '1 TAB path TAB label'"
    raise DataError(f"{place}: {found!r}; expected {expected}; mend the line")


def _whole_number(text: str) -> int | None:
    """Return the class id written as 7 or, as im2rec does, 7.000000; None when it is no u32."""
    whole, _, fraction = text.partition(".")
    if not (whole.isascii() and whole.isdigit() and len(whole) <= 10 and not fraction.strip("0")):
        return None
    return int(whole) if int(whole) < 2**32 else None
