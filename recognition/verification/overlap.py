"""People and pictures that a training set shares with a test set. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from recognition.console import progress
from recognition.embedding.store import ImageSource, open_images
from recognition.formats.image_list import parse_lst_line
from recognition.formats.image_tree import identity_folders, identity_of
from recognition.formats.sources import find_source
from recognition.images.codec import decode_rgb
from recognition.images.duplicates import image_hash, near_duplicates
from recognition.verification.protocols import PairSet, distinct_images
from recognition.work.threads import ordered_map


@dataclass(frozen=True)
class Overlap:
    """What a test set shares with a training set."""

    people: tuple[str, ...] | None
    """Names in both, sorted; None where one of the two does not say its people."""
    num_duplicates: int
    """Pictures of the test set that the training set has too, or nearly so."""
    num_pictures: int
    """Of the test set."""


def find_overlap(pair_set: PairSet, train: Path, *, workers: int, quiet: bool) -> Overlap:
    """Compare a test set with a folder or packed set; every picture of both is decoded once.

    Raises DataError when the training set cannot be read.
    """
    source = open_images(train)
    hashed = ordered_map(partial(_hash_of, source), range(len(source)), workers=workers)
    hashes = list(progress(hashed, total=len(source), unit="image", label="compare", quiet=quiet))
    firsts, _ = distinct_images(pair_set.images)
    tested = [image_hash(decode_rgb(pair_set.images[i], place=f"{pair_set.path}: image {i}")) for i in firsts]
    pairs = near_duplicates(np.array(hashes + tested, dtype=np.uint64).reshape(-1, 2))
    across = pairs[(pairs[:, 0] < len(hashes)) & (pairs[:, 1] >= len(hashes))]
    return Overlap(_shared_people(pair_set, train), len(np.unique(across[:, 1])), len(firsts))


def _hash_of(source: ImageSource, i: int) -> tuple[int, int]:
    return image_hash(source.read(i))


def _shared_people(pair_set: PairSet, train: Path) -> tuple[str, ...] | None:
    known = set(_people_of(train))
    if not known or pair_set.about.people is None:
        return None
    return tuple(sorted(set(pair_set.about.people) & known))


def _people_of(train: Path) -> Iterator[str]:
    """Yield the identities of a folder, or of the .lst beside a packed set."""
    source = find_source(train, ("packed", "identities", "photos", "pairs"))
    if source.kind == "identities":
        yield from identity_folders(source.path)
    lst = source.path.with_suffix(".lst")
    if source.kind == "packed" and lst.is_file():
        with open(lst, "rb") as handle:
            for number, line in enumerate(handle, 1):
                yield identity_of(parse_lst_line(line, f"{lst}:{number}")[1])
