"""Lists of labeled image files: a folder of identity folders, or a .lst. Memory stays small for tens of millions."""

from __future__ import annotations

import codecs
import os
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from recognition.console import count
from recognition.errors import DataError
from recognition.formats.image_tree import ImageTree, spell_suffixes
from recognition.images.codec import IMAGE_SUFFIXES
from recognition.work.file_set import check_published
from recognition.work.inputs import require_plain
from recognition.work.work_folder import check_finished

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
    """The images of `root/<identity>/`, at any depth; identities are numbered in the order of their sorted names.

    What is passed over is named in a line of the log. Raises DataError when there is no identity, and on a folder that
    holds files but no image; `allow_empty` passes over such a folder, before numbers are given.
    """

    def __init__(self, root: Path, *, allow_empty: bool = False) -> None:
        self.root = root
        self._tree = ImageTree(root)
        self.identities = self._tree.identities
        others = {folder: files for folder, files in self._tree.without_image.items() if files}
        if not self.identities:
            raise self._tree.refusal("one folder of images per identity", "check the path")
        if others and not allow_empty:
            raise _without_image(root, others)
        self._tree.log_passed_over()

    def __len__(self) -> int:
        return len(self._tree)

    def __iter__(self) -> Iterator[ListedImage]:
        for label, identity in enumerate(self.identities):
            for name in self._tree.images_of(identity):
                path = os.path.join(self.root, identity, name)
                yield ListedImage(path, label, f"{identity}/{name}", path)


class LstFile:
    """The lines of a .lst, im2rec's `index TAB label TAB path` or insightface's older `1 TAB path TAB label`.

    Paths are below `root`; a line whose path leads out of it, by `..` or a link, raises DataError when it is reached.
    With `by_label` the lines are sorted by label, and otherwise stay as they are.
    """

    def __init__(self, path: Path, root: Path, *, by_label: bool) -> None:
        require_plain(path)
        check_published(path.with_suffix(".rec"))
        check_finished(path.parent)
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


def _without_image(root: Path, others: Mapping[str, Counter[str]]) -> DataError:
    """Return the error about folders that hold files, `others` by suffix, but no image."""
    first, files = next(iter(others.items()))
    more = f", like {count(len(others) - 1, 'more folder')}" if len(others) > 1 else ""
    return DataError(
        f"{root / first}: holds no image, but {count(files.total(), 'other file')}: {spell_suffixes(files)}{more}; "
        f"expected {', '.join(IMAGE_SUFFIXES[:-1])} or {IMAGE_SUFFIXES[-1]}; convert the files, or move the folder to "
        "another place"
    )


def parse_lst_line(line: bytes, place: str) -> tuple[int, str]:
    """Return (label, path) of one line of a .lst in either of its forms."""
    fields = os.fsdecode(line.removeprefix(codecs.BOM_UTF8)).rstrip("\r\n").split("\t")
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
    raise DataError(f"{place}: {found!r}; expected {expected}; fix the line")


def _whole_number(text: str) -> int | None:
    """Return the class id written as 7 or, as im2rec does, 7.000000; None when it is no u32."""
    whole, _, fraction = text.partition(".")
    if not (whole.isascii() and whole.isdigit() and len(whole) <= 10 and not fraction.strip("0")):
        return None
    return int(whole) if int(whole) < 2**32 else None
