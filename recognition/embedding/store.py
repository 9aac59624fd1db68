"""Embeddings of a set on disk: a memory-mapped matrix beside its keys, filled block by block. Torch-free."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

from recognition.errors import DataError
from recognition.formats.image_tree import ImageTree, identity_of
from recognition.formats.pairs_bin import read_pairs
from recognition.formats.records import ImageRecords
from recognition.formats.sources import find_source
from recognition.images.codec import decode_rgb, read_image_file
from recognition.work.files import writing
from recognition.work.inputs import require_plain
from recognition.work.system import claim_space
from recognition.work.work_folder import WorkFolder

BLOCK = 64
"""Images of a block, the unit of work and of resuming."""

_MAX_LINE_BYTES = 2**16
_SAMPLE = 8
_TINY = 8
_ALIKE = 8.0
"""Mean difference of gray levels. Of 300 faces of LFW a JPEG of quality 50 or half the size changed none by over 0.5,
and two of them differed by at least 22."""
_ROWS = 2**14  # of the matrix that are looked at together
_VECTORS, _KEYS, _ABOUT, _WORK, _DONE = "embeddings.npy", "keys.jsonl", "embeddings.json", ".embed", "done.bin"


class Keyed(NamedTuple):
    """How an image is called: its path below the folder, or its key in the .rec; and its identity's number."""

    key: str
    label: int


class ImageSource(Protocol):
    """The images of a set in a fixed order."""

    def __len__(self) -> int: ...

    def keyed(self, i: int) -> Keyed:
        """Return how image `i` is called."""
        ...

    def read(self, i: int) -> np.ndarray:
        """Return image `i` as uint8 [S, S, 3] RGB."""
        ...


class FolderImages:
    """The images below a folder, by path; identities are the first folders below it, numbered by name, or one if flat.

    With `logs`, a line of the log names what is passed over.
    """

    def __init__(self, root: Path, *, logs: bool = False) -> None:
        self._root = root
        tree = ImageTree(root, keeps_names=True)
        self._names = tree.names()
        self._labels = {identity: label for label, identity in enumerate(tree.identities or [""])}
        if logs:
            tree.log_passed_over()

    def __len__(self) -> int:
        return len(self._names)

    def keyed(self, i: int) -> Keyed:
        """Return the path below the folder and the number of its identity."""
        return Keyed(self._names[i], self._labels[identity_of(self._names[i])])

    def read(self, i: int) -> np.ndarray:
        """Return the image; DataError names the file."""
        path = self._root / self._names[i]
        return decode_rgb(read_image_file(path), place=str(path))


class RecImages:
    """The images of a packed set, by key."""

    def __init__(self, path: Path) -> None:
        self._records = ImageRecords(path)

    def __len__(self) -> int:
        return len(self._records)

    def keyed(self, i: int) -> Keyed:
        """Return the key in the index and the class id."""
        record = self._records.read(i)
        return Keyed(str(record.key), record.label)

    def read(self, i: int) -> np.ndarray:
        """Return the image; DataError names file and key."""
        return decode_rgb(self._records.read(i).image, place=self._records.place(i))


class PairImages:
    """The pictures of a verification .bin, each once, called by their place in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._images = list(dict.fromkeys(read_pairs(path).images))

    def __len__(self) -> int:
        return len(self._images)

    def __reduce__(self) -> tuple[Any, ...]:
        return PairImages, (self._path,)  # another process reads the file itself

    def keyed(self, i: int) -> Keyed:
        """Return the place among the different pictures; whom one shows, a .bin does not say."""
        return Keyed(str(i), 0)

    def read(self, i: int) -> np.ndarray:
        """Return the image; DataError names file and place."""
        return decode_rgb(self._images[i], place=f"{self._path}: picture {i}")


def open_images(path: Path, *, logs: bool = False) -> ImageSource:
    """Open a folder of aligned faces, a packed set, or a verification .bin.

    With `logs`, a line of the log names what is passed over in a folder.
    """
    source = find_source(path, ("packed", "identities", "photos", "pairs"))
    if source.kind == "packed":
        return RecImages(source.path)
    return PairImages(source.path) if source.kind == "pairs" else FolderImages(source.path, logs=logs)


def sample_thumbnails(source: ImageSource) -> dict[str, str]:
    """Return key -> `thumbnail` of a few images, spread over the set; those that cannot be read are left out.

    They tell the set from others that have the same keys, also once it was resized or compressed anew.
    """
    found = {}
    for image in np.unique(np.linspace(0, len(source) - 1, min(len(source), _SAMPLE)).astype(np.int64)).tolist():
        with contextlib.suppress(DataError):
            found[source.keyed(image).key] = thumbnail(source.read(image))
    return found


def thumbnail(image: np.ndarray) -> str:
    """Return the hexadecimal digits of an image at 8 x 8 gray pixels."""
    return (
        cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (_TINY, _TINY), interpolation=cv2.INTER_AREA)
        .tobytes()
        .hex()
    )


def is_alike(image: np.ndarray, stored: object) -> bool:
    """Tell whether `stored` is about the `thumbnail` of an image; False for anything else."""
    try:
        other = np.frombuffer(bytes.fromhex(stored), np.uint8) if isinstance(stored, str) else np.empty(0)
    except ValueError:
        return False
    own = np.frombuffer(bytes.fromhex(thumbnail(image)), np.uint8)
    return len(other) == len(own) and float(np.abs(own.astype(float) - other).mean()) <= _ALIKE


def read_block(source: ImageSource, block: int) -> np.ndarray:
    """Return the images of a block as uint8 [n, S, S, 3]; DataError when their sizes differ."""
    first, *others = block_range(len(source), block)
    image = read_square(source, first)
    return np.stack([image, *(read_square(source, i, len(image)) for i in others)])


def read_square(source: ImageSource, i: int, side: int | None = None) -> np.ndarray:
    """Return image `i` as uint8 [S, S, 3]; DataError when it is no square, or not one of `side`."""
    image = source.read(i)
    height, width = image.shape[:2]
    if not height == width == (side or height):
        raise DataError(
            f"image {source.keyed(i).key!r}: {width} x {height} pixels; expected squares of one size; "
            "align the faces first"
        )
    return image


def block_range(num_images: int, block: int) -> range:
    """Return the images of a block."""
    return range(block * BLOCK, min(num_images, (block + 1) * BLOCK))


@dataclass(frozen=True)
class Embeddings:
    """Published embeddings: vectors [n, D] float32, memory-mapped, as the network gave them (not normalized)."""

    vectors: np.ndarray
    keys: list[str]
    labels: np.ndarray
    about: dict[str, Any]


def read_embeddings(folder: Path) -> Embeddings:
    """Open what embed_faces.py published in `folder`; DataError when it is absent, damaged or unfinished."""
    vectors, about = open_vectors(folder)
    keyed = [pair for _, pair in iterate_keys(folder)]
    if len(vectors) != len(keyed):
        raise DataError(f"{folder}: {len(vectors):,} vectors for {len(keyed):,} keys; expected one each; embed again")
    return Embeddings(vectors, [k.key for k in keyed], np.array([k.label for k in keyed], np.int64), about)


def open_vectors(folder: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the memory-mapped vectors and embeddings.json of a published folder; errors as `read_embeddings`."""
    if not is_published(folder):
        state = "unfinished embeddings" if (folder / _WORK).is_dir() else "no embeddings"
        raise DataError(f"{folder}: holds {state}; expected the output of embed_faces.py; run it to its end")
    require_plain(folder / _VECTORS)
    try:
        about = _read_about(folder / _ABOUT)
        vectors = np.load(folder / _VECTORS, mmap_mode="r", allow_pickle=False)
    # Besides errors of reading and parsing, what numpy's header reader passes on from Python's own parsers.
    except (OSError, ValueError, TypeError, EOFError, SyntaxError, RecursionError, MemoryError, TokenError) as err:
        raise _unreadable(folder, err) from err
    if vectors.ndim != 2 or vectors.dtype != np.float32:
        raise DataError(f"{folder}: {vectors.dtype} {vectors.shape} vectors; expected float32, one a row; embed again")
    return vectors, about


def embedding_folder(folder: Path) -> WorkFolder:
    """Return the folder of embeddings as a command fills it; other files may lie in it."""
    return WorkFolder(folder, _WORK, (_KEYS, _VECTORS, _ABOUT), "embeddings", shares=True)


def is_published(folder: Path) -> bool:
    """Return whether `folder` holds finished embeddings."""
    return (folder / _ABOUT).is_file()


def keys_path(folder: Path) -> Path:
    """Return the path of the keys of the embeddings in `folder`."""
    return folder / _KEYS


def iterate_keys(folder: Path) -> Iterator[tuple[int, Keyed]]:
    """Yield each key of published embeddings behind the byte of `keys_path` at which its line starts."""
    offset = 0
    require_plain(folder / _KEYS)
    try:
        with open(folder / _KEYS, "rb") as handle:
            for line in iter(lambda: handle.readline(_MAX_LINE_BYTES), b""):
                yield offset, _parse_key(line)
                offset += len(line)
    except (OSError, ValueError, TypeError, RecursionError) as err:
        raise _unreadable(folder, err) from err


def _unreadable(folder: Path, err: BaseException) -> DataError:
    reason = " ".join(str(err).split())
    return DataError(f"{folder}: cannot be read ({reason}); expected embeddings; run embed_faces.py again")


def _num_rows(folder: Path) -> int:
    """Return how many embeddings the published ones in `folder` are, -1 where they do not say."""
    try:
        number = _read_about(folder / _ABOUT).get("num_images")
    except (OSError, ValueError, RecursionError):
        return -1
    return number if type(number) is int else -1


def _read_about(path: Path) -> dict[str, Any]:
    with open(path, "rb") as handle:
        about = json.loads(handle.read(_MAX_LINE_BYTES))
    if not isinstance(about, dict):
        raise ValueError(f"{path.name} is no JSON object")
    return about


def _parse_key(line: bytes) -> Keyed:
    key, label = json.loads(line)
    if not isinstance(key, str) or type(label) is not int or not 0 <= label < 2**63:
        raise ValueError(f"{line[:60]!r} is no key and label")
    return Keyed(key, label)


class EmbeddingStore:
    """Embeddings under way in a folder. Several processes may open one and write different blocks.

    What is written survives a kill: the pages of a map belong to the system. `publish` ends the work.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._vectors = np.load(folder / _WORK / _VECTORS, mmap_mode="r+", allow_pickle=False)
        self._done = np.memmap(folder / _WORK / _DONE, np.uint8, "r+")

    @classmethod
    def begin(cls, folder: Path, num_images: int, dimension: int, about: Mapping[str, Any]) -> EmbeddingStore:
        """Make the files, or continue those begun with the same `about`; DataError when begun with another."""
        work = embedding_folder(folder)
        with writing(folder):
            work.path.mkdir(parents=True, exist_ok=True)
            work.begin({**about, "num_images": num_images, "dimension": dimension})
            if not (work.path / _DONE).is_file():
                # Killed while the work folder was being deleted; what is short of images left out is made again.
                is_complete = is_published(folder) and _num_rows(folder) == num_images
                if not is_complete:
                    shape = (num_images, dimension)
                    np.lib.format.open_memmap(work.path / _VECTORS, mode="w+", dtype=np.float32, shape=shape).flush()
                    claim_space(work.path / _VECTORS)
                # Last, for its presence says that the matrix is whole.
                (work.path / "done.part").write_bytes(bytes([is_complete]) * -(-num_images // BLOCK))
                os.replace(work.path / "done.part", work.path / _DONE)
            (folder / _ABOUT).unlink(missing_ok=True)
            if not (work.path / _VECTORS).is_file():  # killed while it was being published
                os.replace(folder / _VECTORS, work.path / _VECTORS)
        return cls(folder)

    @property
    def missing(self) -> list[int]:
        """The blocks still to be written."""
        blocks: list[int] = np.flatnonzero(np.asarray(self._done) == 0).tolist()
        return blocks

    def write(self, block: int, vectors: np.ndarray) -> None:
        """Store the embeddings of a block."""
        wanted = block_range(len(self._vectors), block)
        assert vectors.shape == (len(wanted), self._vectors.shape[1]), "a block of another shape"
        self._vectors[wanted.start : wanted.stop] = vectors
        self._done[block] = 1

    def not_finite(self) -> list[int]:
        """Return the images whose embedding has a NaN or an infinity, of finished work; reads the whole matrix."""
        found: list[int] = []
        for start in range(0, len(self._vectors), _ROWS):
            is_bad = ~np.isfinite(self._vectors[start : start + _ROWS]).all(axis=1)
            found += (start + np.flatnonzero(is_bad)).tolist()
        return found

    def publish(self, keyed: Iterable[Keyed], about: Mapping[str, Any], left_out: Collection[int] = ()) -> None:
        """Move the finished matrix to its place beside the keys and delete the rest, without the images `left_out`."""
        assert not self.missing, "embeddings are published before they are finished"
        work = embedding_folder(self._folder)
        shape = {"num_images": len(self._vectors) - len(left_out), "dimension": self._vectors.shape[1]}
        text = json.dumps({**about, **shape}, indent=1, sort_keys=True) + "\n"
        with writing(self._folder):
            self._vectors.flush()
            with open(work.path / _KEYS, "w", encoding="utf-8") as handle:
                kept = (pair for number, pair in enumerate(keyed) if number not in left_out)
                handle.writelines(json.dumps(list(pair)) + "\n" for pair in kept)
            (work.path / _ABOUT).write_text(text, encoding="utf-8")
            if left_out:
                self._copy_without(left_out, work)
        work.publish()

    def _copy_without(self, left_out: Collection[int], work: WorkFolder) -> None:
        """Put a matrix without some rows in the place of the whole one; it is begun again after a kill."""
        shape = (len(self._vectors) - len(left_out), self._vectors.shape[1])
        part = work.path / f"kept.{_VECTORS}"
        kept = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=shape)
        rows = np.setdiff1d(np.arange(len(self._vectors)), np.fromiter(left_out, np.int64))
        for start in range(0, len(rows), _ROWS):
            kept[start : start + _ROWS] = self._vectors[rows[start : start + _ROWS]]
        kept.flush()
        # A kill from here on leaves a matrix that is shorter than its blocks: it has to be filled again.
        (work.path / _DONE).unlink()
        os.replace(part, work.path / _VECTORS)

    def give_up(self) -> None:
        """Leave nothing of work that ended in an error before its first block."""
        if not np.asarray(self._done).any():
            embedding_folder(self._folder).give_up()


def all_keys(source: ImageSource) -> Iterator[Keyed]:
    """Yield how each image is called, in order."""
    return (source.keyed(i) for i in range(len(source)))
