"""The pictures of a set under cleaning: their names, identities and unit embeddings, read where they lie."""

from __future__ import annotations

import json
import mmap
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recognition.clustering.unit_rows import unit_rows
from recognition.embedding.quality_column import read_quality
from recognition.embedding.store import iterate_keys, keys_path, open_vectors
from recognition.errors import DataError
from recognition.formats.image_tree import ImageTree, has_suffix, identity_of
from recognition.formats.model_facts import facts_in_result
from recognition.work.inputs import require_plain


class Pictures:
    """Pictures in the order of their embeddings. Of a name only the place in the file of keys is held.

    `labels` int32 [n] numbers the `identities`, which are the first folders in their names in sorted order.
    """

    def __init__(self, embeddings: Path) -> None:
        self._folder = embeddings
        self._vectors, self.about = open_vectors(embeddings)
        self.model = facts_in_result(self.about)
        self._offsets, self.labels, self.identities = _read_names(embeddings)
        if len(self._vectors) != len(self.labels):
            raise DataError(
                f"{embeddings}: {len(self._vectors):,} vectors for {len(self.labels):,} keys; expected one each; "
                "embed again"
            )
        self.quality = read_quality(embeddings, len(self.labels))
        """Of each face, where it was measured."""
        require_plain(keys_path(embeddings))
        with open(keys_path(embeddings), "rb") as handle:
            self._keys = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, row: int) -> str:
        """Return the path of a picture below the folder of faces."""
        start = int(self._offsets[row])
        return str(json.loads(self._keys[start : self._keys.find(b"\n", start)])[0])

    def units(self, rows: np.ndarray) -> np.ndarray:
        """Return the embeddings of rows [m] as float32 [m, D] of length one; DataError when one is not finite."""
        try:
            return unit_rows(self._vectors, rows)
        except DataError as err:
            raise DataError(f"{self._folder}: {err}") from err

    @property
    def dimension(self) -> int:
        return int(self._vectors.shape[1])

    @property
    def fingerprint(self) -> list[int]:
        """What tells these embeddings from others made later at the same place."""
        stat = keys_path(self._folder).stat()
        return [*self._vectors.shape, stat.st_size, stat.st_mtime_ns]


@dataclass(frozen=True)
class Groups:
    """The rows of each identity, in order: those of identity i are rows[starts[i] : starts[i + 1]]."""

    rows: np.ndarray
    starts: np.ndarray

    def of(self, identity: int) -> np.ndarray:
        """Return the rows of an identity."""
        return self.rows[self.starts[identity] : self.starts[identity + 1]]

    @property
    def counts(self) -> np.ndarray:
        """The number of rows of each identity."""
        return np.diff(self.starts)

    def blocks(self, num_rows: int) -> Iterator[range]:
        """Yield ranges of identities that together have at most `num_rows` rows, or are a single one."""
        first, last = 0, len(self.starts) - 1
        while first < last:
            stop = int(np.searchsorted(self.starts, self.starts[first] + num_rows, side="right")) - 1
            stop = min(max(stop, first + 1), last)
            yield range(first, stop)
            first = stop


def group_rows(identity_of: np.ndarray, num_identities: int, chosen: np.ndarray | None = None) -> Groups:
    """Return the groups of the rows by identity_of [n]; `chosen` (bool [n]) leaves others out."""
    rows = np.arange(len(identity_of)) if chosen is None else np.flatnonzero(chosen)
    owners = identity_of[rows]
    starts = np.zeros(num_identities + 1, np.int64)
    np.cumsum(np.bincount(owners, minlength=num_identities), out=starts[1:])
    return Groups(rows[np.argsort(owners, kind="stable")], starts)


def check_faces(pictures: Pictures, faces: Path) -> None:
    """Raise DataError unless `faces` holds exactly these pictures, with which they were embedded."""
    if not faces.is_dir():
        raise DataError(f"{faces}: is not a folder; expected the folder of faces that was embedded; check the path")
    groups = group_rows(pictures.labels, len(pictures.identities))
    number = {identity: i for i, identity in enumerate(pictures.identities)}
    left = set(pictures.identities)
    tree = ImageTree(faces)
    for identity in tree.identities:
        found = set(tree.images_of(identity))
        rows = groups.of(number[identity]) if identity in number else np.zeros(0, np.int64)
        embedded = {pictures.name(row).removeprefix(f"{identity}/") for row in rows.tolist()}
        if found != embedded:
            raise _differs(faces, identity, found, embedded)
        left.discard(identity)
    if left:
        raise DataError(
            f"{faces}: holds no folder {min(left)!r}, which was embedded; expected the same set; embed again"
        )


def _differs(faces: Path, identity: str, found: set[str], embedded: set[str]) -> DataError:
    if found - embedded:
        return DataError(
            f"{faces / identity / min(found - embedded)}: has no embedding; expected one for every picture; embed again"
        )
    missing = min(embedded - found)
    return DataError(f"{faces / identity / missing}: no such picture, but it was embedded; restore it or embed again")


def _read_names(embeddings: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return the offset of each name int64 [n], its identity int32 [n], and the sorted names of the identities."""
    offsets, labels, numbers = array("q"), array("i"), dict[str, int]()
    for offset, keyed in iterate_keys(embeddings):
        identity = identity_of(keyed.key)
        _check_name(embeddings, keyed.key, identity)
        offsets.append(offset)
        labels.append(numbers.setdefault(identity, len(numbers)))
    if not labels:
        raise DataError(f"{embeddings}: holds no picture; expected embeddings of faces; embed again")
    identities = sorted(numbers)
    rank = np.empty(len(identities), np.int32)
    rank[[numbers[identity] for identity in identities]] = np.arange(len(identities), dtype=np.int32)
    return np.frombuffer(offsets, np.int64), rank[np.frombuffer(labels, np.int32)], identities


def _can_be_written(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def _check_name(embeddings: Path, name: str, identity: str) -> None:
    place = f"{keys_path(embeddings)}: {name!r}"
    if name.startswith("/") or ".." in name.split("/") or "\0" in name or not _can_be_written(name):
        raise DataError(f"{place} leaves the folder of faces; expected a path below it; embed again")
    if not identity and not has_suffix(name):
        raise DataError(f"{place} is no picture in a folder; expected embeddings of a folder; unpack_rec.py makes one")
    if not identity:
        raise DataError(f"{place} has no identity; expected a folder for each; sort the pictures into folders")
    if any(character in name for character in "\t\r\n"):
        raise DataError(f"{place} has a tab or a line break, which no .lst can name; rename it and embed again")
