"""An image set as files in a folder, shards or `<class id>/<number>.jpg`, which says when it is not all there."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from recognition.console import count
from recognition.errors import DataError
from recognition.formats.image_tree import entries
from recognition.work.files import writing
from recognition.work.inputs import require_plain
from recognition.work.work_folder import SETS, WorkFolder, check_finished

MANIFEST = "manifest.json"
_MAX_MANIFEST_BYTES = 2**26
_IDENTITY = re.compile(r"\d+")
_PICTURE = re.compile(r"\d+\.(jpg|png)")
_SHARD = re.compile(r"shard-\d{6,}\.tar")


@contextlib.contextmanager
def made_anew(work: WorkFolder, settings: Mapping[str, Any], *, overwrite: bool) -> Iterator[None]:
    """Hold the folder of a set while it is filled, after what earlier runs left there is gone; on error it goes too.

    The one inside writes the products below `work.path` last. With `overwrite` a finished set is replaced. Raises
    DataError when the folder holds something else, and while another run is at work in it.
    """
    begin_folder(work, overwrite=overwrite)
    if overwrite or work.is_under_way:
        work.clear(lambda: remove_set(work.output))
    with work.hold():
        work.begin(settings)
        try:
            yield
            work.publish()
        except BaseException:
            remove_set(work.output)
            work.give_up()
            raise


def begin_folder(work: WorkFolder, *, overwrite: bool) -> None:
    """Raise DataError unless the folder is new, a set that `overwrite` replaces, or one that a run has begun."""
    if not overwrite or not work.output.is_dir():
        work.check(overwrite=overwrite)
        return
    for name in _others(work.output, {*work.products, *SETS}):
        raise DataError(
            f"{work.output}: holds {name!r}, which is no file of {work.content}; expected nothing else in what "
            "--overwrite replaces; choose another folder"
        )


def remove_set(folder: Path) -> None:
    """Remove the shards and pictures of a set; what else is there stays."""
    for entry in [*entries(folder)]:
        if _SHARD.fullmatch(entry.name) and not entry.is_dir():
            os.unlink(entry.path)
        elif _is_identity(entry):
            for picture in [*entries(entry.path)]:
                if _PICTURE.fullmatch(picture.name):
                    os.unlink(picture.path)
            with contextlib.suppress(OSError):  # it holds something else
                os.rmdir(entry.path)


def num_pictures(folder: Path) -> int:
    """Return how many pictures of a set lie in a folder."""
    identities = (entry for entry in entries(folder) if _is_identity(entry))
    return sum(1 for entry in identities for picture in entries(entry.path) if _PICTURE.fullmatch(picture.name))


def write_manifest(work: WorkFolder, **facts: Any) -> None:
    """Write what a set holds, which is published as the last of its files."""
    path = work.path / MANIFEST
    with writing(path):
        path.write_text(json.dumps({"format": 1, **facts}) + "\n", encoding="utf-8")


def check_shards(folder: Path) -> None:
    """Raise DataError when a folder of shards is unfinished, or its manifest names one that is not there as written.

    Shards of other programs have no manifest.
    """
    check_finished(folder)
    path = folder / MANIFEST
    require_plain(path)
    if not path.exists():
        return
    shards = _read_shards(path)
    sizes = {entry.name: entry.stat().st_size for entry in entries(folder) if _SHARD.fullmatch(entry.name)}
    wrong = sorted(name for name in shards.keys() | sizes.keys() if shards.get(name) != sizes.get(name))
    if wrong:
        raise DataError(
            f"{folder}: is unfinished, or a part of a set: {count(len(wrong), 'shard')} like {wrong[0]!r} are not as "
            f"{MANIFEST} says; expected all of them; copy the set again, or remove the manifest to read this part"
        )


def _read_shards(path: Path) -> dict[str, int]:
    try:
        with open(path, "rb") as handle:
            content = json.loads(handle.read(_MAX_MANIFEST_BYTES))
        shards = content["shards"]
        if not all(isinstance(name, str) and type(size) is int for name, size in shards.items()):
            raise ValueError("no sizes")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise DataError(f"{path}: is no manifest of shards; expected their names and sizes; remove it") from err
    return dict(shards)


def _others(folder: Path, products: set[str]) -> Iterator[str]:
    """Yield the names of what is no part of a set."""
    for entry in entries(folder):
        if _is_identity(entry):
            yield from (f"{entry.name}/{e.name}" for e in entries(entry.path) if not _PICTURE.fullmatch(e.name))
        elif entry.name not in products and not _SHARD.fullmatch(entry.name):
            yield entry.name


def _is_identity(entry: os.DirEntry[str]) -> bool:
    return _IDENTITY.fullmatch(entry.name) is not None and entry.is_dir(follow_symlinks=False)
