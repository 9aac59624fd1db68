"""Labelled images one after another, from whatever holds them: packed sets, folders, WebDataset shards. Torch-free."""

from __future__ import annotations

import logging
import os
import struct
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from recognition.console import count
from recognition.errors import DataError
from recognition.formats.image_list import FolderList
from recognition.formats.image_tree import spell_suffixes
from recognition.formats.layouts import LAYOUTS
from recognition.formats.records import ImageRecords
from recognition.formats.set_folder import check_shards
from recognition.formats.sources import find_source
from recognition.images.codec import IMAGE_SUFFIXES, read_image_file
from recognition.work.inputs import require_plain

logger = logging.getLogger(__name__)

_TAR_MAX_BYTES = 2**26  # of one member: an image, or the digits of a label


class StreamedImage(NamedTuple):
    """An encoded image with its class id; `extra` are the labels beside it, `place` is what errors call it."""

    label: int
    image: bytes
    name: str
    extra: tuple[float, ...]
    place: str


class ImageStream(Protocol):
    """Images in a fixed order, read as they are asked for."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[StreamedImage]: ...


def open_stream(path: Path) -> ImageStream:
    """Open a packed set (.rec, its prefix, a folder with train.rec), a folder of identities, or one of .tar shards."""
    source = find_source(path, ("packed", "shards", "identities"))
    if source.kind == "shards":
        if path.is_dir():
            check_shards(path)
        return TarStream(source.shards)
    return FolderStream(source.path) if source.kind == "identities" else RecStream(ImageRecords(source.path))


class RecStream:
    """The images of a packed set, in the order of the file or in that of `slots`, positions among the images."""

    def __init__(self, records: ImageRecords, order: npt.NDArray[np.int64] | None = None) -> None:
        self.records = records
        self._order = order

    def __len__(self) -> int:
        return len(self.records if self._order is None else self._order)

    def __iter__(self) -> Iterator[StreamedImage]:
        records = self.records
        keeps_lists = LAYOUTS[records.layout].keeps_lists
        for i in range(len(records)) if self._order is None else map(int, self._order):
            record = records.read(i)
            extra = records.header(i).labels[1:] if keeps_lists else ()
            name = f"{record.label}/{record.key}{suffix_of(record.image)}"
            yield StreamedImage(record.label, record.image, name, extra, records.place(i))

    def sorted_by_label(self) -> RecStream:
        """Return the same images with rising labels; holds 8 bytes an image unless they rise already."""
        labels = self.records.labels()
        if (labels[1:] >= labels[:-1]).all():
            return self
        return RecStream(self.records, np.argsort(labels, kind="stable"))


class FolderStream:
    """The images of a folder of identity folders."""

    def __init__(self, root: Path) -> None:
        self._images = FolderList(root)

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[StreamedImage]:
        for listed in self._images:
            yield StreamedImage(listed.label, read_image_file(listed.path), listed.name, (), listed.place)


class TarStream:
    """WebDataset shards: members `<key>.jpg` (or .jpeg, .png) and `<key>.cls`, those of one key side by side.

    Nothing is unpacked to disk, so names that lead elsewhere harm nobody; links and devices are passed over. Counting
    the images names in one line of the log what is neither image nor label.
    """

    def __init__(self, shards: list[Path]) -> None:
        self._shards = shards
        self._num_images: int | None = None

    def __len__(self) -> int:
        if self._num_images is None:
            # Reads the headers of all members; tar has no index.
            suffixes = Counter(_ending(member.name) for shard in self._shards for member, _ in _members(shard))
            self._num_images = sum(suffixes.pop(taken, 0) for taken in IMAGE_SUFFIXES)
            del suffixes[".cls"]
            if suffixes:
                files = f"{count(suffixes.total(), 'file')}: {spell_suffixes(suffixes)}"
                level = logging.INFO if suffixes.keys() <= {".json", ".txt"} else logging.WARNING
                logger.log(level, "%s: passed over %s", self._shards[0].parent, files)
        return self._num_images

    def __iter__(self) -> Iterator[StreamedImage]:
        for shard in self._shards:
            sample: dict[str, bytes] = {}
            key = ""
            for member, content in _members(shard):
                folder, _, name = member.name.rpartition("/")
                stem, _, kind = name.partition(".")
                this = f"{folder}/{stem}" if folder else stem
                if this != key and sample:
                    yield _sample(shard, key, sample)
                    sample = {}
                key = this
                ending = f".{kind.lower()}"
                # Other things beside the image, such as its .json, are not read.
                sample[ending] = content() if ending in (*IMAGE_SUFFIXES, ".cls") else b""
            if sample:
                yield _sample(shard, key, sample)


class RenumberedStream:
    """The images of another stream with class ids 0, 1, 2, ... in the order of the old ones, leaving none out."""

    def __init__(self, stream: ImageStream) -> None:
        self._stream = stream
        self._new = {label: number for number, label in enumerate(_used_labels(stream))}

    def __len__(self) -> int:
        return len(self._stream)

    def __iter__(self) -> Iterator[StreamedImage]:
        return (image._replace(label=self._new[image.label]) for image in self._stream)


def _used_labels(stream: ImageStream) -> list[int]:
    """Return the different class ids of a stream, rising; of shards they are read as images are."""
    if isinstance(stream, RecStream):
        used: list[int] = np.unique(stream.records.labels()).tolist()
        return used
    return sorted({image.label for image in stream})


def suffix_of(image: bytes) -> str:
    """Return the file name's suffix for an encoded image."""
    return ".png" if image.startswith(b"\x89PNG") else ".jpg"


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _members(shard: Path) -> Iterator[tuple[tarfile.TarInfo, _Content]]:
    require_plain(shard)
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if member.isreg():
                    yield member, _Content(tar, member, shard)
                tar.members.clear()  # type: ignore[attr-defined]  # which would grow with the shard
    # What tarfile raises on damaged headers besides its own errors.
    except (tarfile.TarError, OSError, ValueError, OverflowError, EOFError, RecursionError, struct.error) as err:
        raise DataError(f"{shard}: not a whole .tar ({err}); expected an uncompressed shard; fetch it again") from err


class _Content:
    """Reads a member when it is called."""

    def __init__(self, tar: tarfile.TarFile, member: tarfile.TarInfo, shard: Path) -> None:
        self._tar, self._member, self._shard = tar, member, shard

    def __call__(self) -> bytes:
        if self._member.size > _TAR_MAX_BYTES:
            found = f"{self._member.name}: {self._member.size} bytes"
            raise DataError(f"{self._shard}: {found}; expected an image or a label")
        handle = self._tar.extractfile(self._member)
        assert handle is not None, "a regular member has content"
        try:
            return handle.read()
        except (tarfile.TarError, OSError) as err:
            found = f"{self._member.name}: cannot be read ({err})"
            raise DataError(f"{self._shard}: {found}; expected a whole .tar; fetch it again") from err


def _sample(shard: Path, key: str, sample: dict[str, bytes]) -> StreamedImage:
    place = f"{shard}: {key}"
    images = [suffix for suffix in IMAGE_SUFFIXES if suffix in sample]
    label = sample.get(".cls", b"").strip()
    if len(images) != 1 or not (label.isdigit() and len(label) <= 10 and int(label) < 2**32):
        raise DataError(f"{place}: has {', '.join(sorted(sample))} and label {label[:20]!r}; expected .jpg and .cls")
    return StreamedImage(int(label), sample[images[0]], f"{key}{images[0]}", (), place)
