"""What a path means: a packed set, a folder of identities, photos, shards, verification pairs or a list. Torch-free.

This is the one place that decides it, for every command and for `data.rec`. A folder comes before a set of the same
name beside it: of a folder `people` and a `people.rec`, the path `people` is the folder.
"""

from __future__ import annotations

import difflib
import glob
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from recognition.errors import DataError
from recognition.formats.image_tree import ImageTree, entries, has_suffix, holds_identities, holds_images
from recognition.images.codec import IMAGE_SUFFIXES
from recognition.work.file_set import check_published

Kind: TypeAlias = Literal["packed", "shards", "identities", "photos", "pairs", "list"]

_SPELLED: dict[Kind, str] = {
    "packed": "a packed set (.rec, its path without suffix, or a folder with train.rec)",
    "shards": ".tar shards",
    "identities": "a folder of identity folders",
    "photos": "a folder of images",
    "pairs": "a .bin of verification pairs",
    "list": "a .lst",
}
_FILES: dict[str, Kind | None] = {
    ".rec": "packed",
    ".tar": "shards",
    ".bin": "pairs",
    ".lst": "list",
    **dict.fromkeys([".idx", *IMAGE_SUFFIXES]),
}
"""Suffix -> what a file is; a file with another suffix is a set or a list under a name of its own."""

_NEAR = 0.75  # of difflib's ratio: one letter wrong in four


@dataclass(frozen=True)
class Source:
    """What a path means; `path` is the folder, or the file itself: of a packed set its .rec."""

    kind: Kind
    path: Path

    @property
    def shards(self) -> list[Path]:
        """The .tar files of shards, in order."""
        return _shards(self.path) if self.path.is_dir() else [self.path]


def find_source(
    path: Path,
    kinds: Collection[Kind] = tuple(_SPELLED),
    *,
    suffixes: Collection[str] = IMAGE_SUFFIXES,
    todo: str = "check the path",
) -> Source:
    """Return which of `kinds` a path is, tried in the order of `Kind`; opens no file, but looks into folders.

    Raises DataError when nothing is there, or none of these kinds, with what it is instead and what `todo` advises.
    """
    found = _in_folder(path, kinds, suffixes) if path.is_dir() else _at_file(path, kinds)
    if found is not None:
        return found
    expected = " or ".join(spelled for kind, spelled in _SPELLED.items() if kind in kinds)
    if not os.path.exists(path):
        raise DataError(f"{path}: no such file or folder; expected {expected}; {todo}")
    others: list[Kind] = [kind for kind in _SPELLED if kind not in kinds]
    other = _in_folder(path, others, suffixes) if path.is_dir() else _at_file(path, others)
    if path.is_dir() and (other is None or other.kind == "photos"):
        raise ImageTree(path, suffixes).refusal(expected, todo + _beside(path))
    is_what = "is no file of a set" if other is None else f"is {_SPELLED[other.kind]}"
    raise DataError(f"{path}: {is_what}; expected {expected}; {todo}")


def find_rec(path: Path) -> Path:
    """Return the .rec that `path` means: train.rec inside the folder, itself, or with .rec added.

    Raises DataError when there is none; a file is one, whatever its name.
    """
    rec = _rec(path)
    if rec is not None:
        check_published(rec)
        return rec
    wanted = path / "train.rec" if path.is_dir() else path.with_name(path.name.removesuffix(".rec") + ".rec")
    expected = "expected a .rec, its prefix, or a folder with train.rec"
    raise DataError(f"{wanted}: no such file; {expected}; check it{_beside(path)}")


def companions_folder(path: Path) -> Path:
    """Return the folder in which the other files of a set lie, such as its verification sets; it need not be there."""
    is_file = not path.is_dir() and (path.suffix == ".rec" or os.path.isfile(f"{path}.rec"))
    return path.parent if is_file else path


def named_paths(texts: Iterable[str]) -> list[Path]:
    """Return the packed sets and folders that `texts` name; patterns stand for what they match.

    A pattern without a match is returned as it is, and fails as the missing file it names.
    """
    paths: list[Path] = []
    for text in texts:
        expanded = os.path.expanduser(text)
        paths += [Path(match) for match in sorted(glob.glob(expanded)) or [expanded]]
    return paths


def is_there(path: Path) -> bool:
    """Return whether `path` is a set, or the path of one without its suffix."""
    return os.path.exists(path) or os.path.isfile(f"{path}.rec")


def near_path(path: Path) -> Path | None:
    """Return what `path`, at which nothing is, may have been meant for: the nearest name where it first goes wrong."""
    folder = _existing_folder(path)
    wrong, *rest = path.relative_to(folder).parts
    names = {name for entry in entries(folder) for name in (entry.name, entry.name.removesuffix(".rec"))}
    close = difflib.get_close_matches(wrong, names - {wrong}, n=1, cutoff=_NEAR) or [
        name for name in sorted(names) if name.lower() == wrong.lower()
    ]
    return folder.joinpath(close[0], *rest) if close else None


def is_beside_data(path: Path) -> bool:
    """Return whether nothing is at `path`, but packed sets or folders of data lie where it should."""
    folder = _existing_folder(path)
    if folder != path.parent or folder in (Path(), Path("/")):
        return False
    return any(
        has_suffix(entry.name, (".rec",)) or os.path.isfile(f"{entry.path}/train.rec") for entry in entries(folder)
    )


def _existing_folder(path: Path) -> Path:
    """Return the nearest folder above `path` that exists."""
    return next((parent for parent in path.parents if parent.is_dir()), Path(path.anchor or "."))


def _beside(path: Path) -> str:
    """Return the words that name a packed set which has the name of a folder and lies beside it."""
    return f", or give {path}.rec, which lies beside it" if path.is_dir() and os.path.isfile(f"{path}.rec") else ""


def _rec(path: Path) -> Path | None:
    if path.is_dir():
        candidates = [path / "train.rec"]
    elif path.suffix == ".rec":
        candidates = [path]
    else:
        candidates = [path.with_name(path.name + ".rec"), path]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _in_folder(path: Path, kinds: Collection[Kind], suffixes: Collection[str]) -> Source | None:
    if "packed" in kinds and (rec := _rec(path)) is not None:
        return Source("packed", rec)
    if "shards" in kinds and _shards(path):
        return Source("shards", path)
    if "identities" in kinds or "photos" in kinds:
        # Photos are flat: a folder with identities is no folder of photos, even where only photos are asked for.
        has_identities = holds_identities(path, suffixes)
        if has_identities and "identities" in kinds:
            return Source("identities", path)
        if not has_identities and "photos" in kinds and holds_images(path, suffixes):
            return Source("photos", path)
    return None


def _at_file(path: Path, kinds: Collection[Kind]) -> Source | None:
    kind = _FILES.get(path.suffix.lower(), "packed" if "packed" in kinds else "list")
    if "packed" in kinds and (kind == "packed" or os.path.isfile(f"{path}.rec")) and (rec := _rec(path)) is not None:
        return Source("packed", rec)
    return Source(kind, path) if kind is not None and kind in kinds and path.is_file() else None


def _shards(folder: Path) -> list[Path]:
    names = (entry.name for entry in entries(folder) if has_suffix(entry.name, (".tar",)) and entry.is_file())
    return sorted(folder / name for name in names)
