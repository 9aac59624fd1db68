"""Open what is verified on: a .bin, or a list of pairs with a folder of pictures. Torch-free."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recognition.errors import ConfigError, DataError
from recognition.formats.pair_layouts import odd_pairs, read_published
from recognition.formats.pair_pictures import about_pairs, find_pictures
from recognition.images.codec import read_image_file
from recognition.verification.metrics import check_pairs
from recognition.verification.protocols import PairSet, open_pair_set

logger = logging.getLogger(__name__)

ReadPicture = Callable[[Path], bytes]
"""A file -> the encoded picture that the model is given, such as the face in a photo."""


@dataclass(frozen=True)
class SetOptions:
    """How sets are opened that are no .bin."""

    images: Path | None = None
    """Folder that the paths of a list start from."""
    layout: str | None = None
    """Of the list, where its content does not tell it."""
    folds: int | None = None
    """Number of folds; the list's own, or else 10, when not given."""
    read_picture: ReadPicture = read_image_file


def open_sets(paths: Sequence[Path], options: SetOptions) -> list[PairSet]:
    """Open sets under names that differ; DataError when one is named twice or cannot be used."""
    return [open_set(path, options, name=name) for path, name in zip(paths, set_names(paths))]


def open_set(path: Path, options: SetOptions, *, name: str) -> PairSet:
    """Open a .bin, or a list of pairs with the pictures below `options.images`.

    A line of the log counts the pairs that a list should not have. Raises ConfigError for a list without a folder, and
    DataError for a damaged file or list, a missing picture, and pairs that are too few or of one kind.
    """
    if path.suffix.lower() == ".bin" and path.is_file() and options.layout is None:
        return open_pair_set(path, name=name, folds=options.folds)
    if options.images is None:
        if path.suffix.lower() in (".bin", ""):
            return open_pair_set(path, name=name, folds=options.folds)
        raise ConfigError(f"{path}: is no .bin; expected --images for a list of pairs; name the folder of its pictures")
    pairs = read_published(path, layout=options.layout)
    if warning := odd_pairs(pairs).warning(str(path)):
        logger.warning("%s", warning)
    files = find_pictures(pairs, options.images)
    read = {file: options.read_picture(file) for file in dict.fromkeys(files)}
    digest = hashlib.sha256()
    for content in read.values():
        digest.update(hashlib.sha256(content).digest())
    found = PairSet(
        name,
        path,
        digest.hexdigest(),
        [read[file] for file in files],
        np.array([pair.is_same for pair in pairs]),
        about_pairs(pairs, options.images),
    )
    try:
        check_pairs(found.is_same, len(found.sizes(options.folds)))
    except DataError as err:
        raise DataError(f"{path}: {err}") from err
    return found


def set_names(paths: Sequence[Path]) -> list[str]:
    """Return the stems of the files, or whole paths when two stems are equal; DataError for a set named twice."""
    stems = [path.stem for path in paths]
    if len({path.resolve() for path in paths}) != len(paths):
        raise DataError(f"{paths[0]}: a set is named twice; expected distinct files; remove one")
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]
