"""Labeled pictures with an index: packed records, folders of identities, or made up on the spot.

Labels and sizes are checked here, on the CPU, so that nothing after the loader has to.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recognition.config.schema import DataConfig
from recognition.draws.permutation import IntArray
from recognition.errors import ConfigError, DataError
from recognition.feed.bad_records import Origin
from recognition.feed.dataset import Dataset, Picture
from recognition.feed.first_identities import FirstIdentities
from recognition.feed.identity_map import IdentityMap, offset_identities, read_identity_map, same_identities
from recognition.feed.synthetic import SyntheticDataset
from recognition.formats.class_names import names_path, read_class_names
from recognition.formats.image_list import FolderList
from recognition.formats.image_tree import ImageTree
from recognition.formats.records import ImageRecords
from recognition.formats.sources import Kind, find_source, named_paths
from recognition.images.codec import decode_square, image_size, read_image_file

_SAMPLE = 1024  # labels that ranks compare
_BLOCK = 1 << 20
_SIZE_SAMPLE = 16  # pictures whose size is looked at before training


def open_dataset(config: DataConfig, *, needs_identities: bool = True) -> Dataset:
    """Open what `data.rec` names; where no identities are needed, a folder of photos too, as if of one person.

    Raises ConfigError when num_image is stated and differs from the data, or num_classes is stated and the labels need
    more; DataError when the data are missing or damaged, or pictures are of another size.
    """
    if config.rec is None:
        raise ConfigError("data.rec is not set; name a folder with train.rec, a .rec file or a folder of identities")
    if config.rec == "synthetic":
        return SyntheticDataset(_stated(config, "num_image"), _stated(config, "num_classes"), config.image_size)
    dataset = _open_paths(config, needs_identities)
    if config.max_identities is not None:
        dataset = FirstIdentities(dataset, config.max_identities)
    if config.num_image is not None and config.num_image != len(dataset):
        found = f"the config states {config.num_image}, {config.rec} has {len(dataset)}"
        raise ConfigError(f"data.num_image: {found}; correct it or leave it out")
    if config.num_classes is not None:
        if config.num_classes < dataset.num_needed:
            found = f"the config states {config.num_classes}, the labels of {config.rec} need {dataset.num_needed}"
            raise ConfigError(f"data.num_classes: {found}; correct it or leave it out")
        dataset.state_classes(config.num_classes)
    _check_sizes(dataset, may_skip=config.on_bad_record == "skip")
    return dataset


def _open_paths(config: DataConfig, needs_identities: bool) -> Dataset:
    assert config.rec is not None
    paths = named_paths([config.rec, *config.more_rec])
    datasets = [_open_path(path, config.image_size, needs_identities) for path in paths]
    if len(datasets) == 1:
        if config.identities != "offset":
            raise ConfigError(f"data.identities: found {config.identities!r} with a single set; remove this key")
        return datasets[0]
    identities = _identities(config.identities, [dataset.num_classes for dataset in datasets])
    if config.identities not in ("offset", "same"):
        identities.check(config.identities, [dataset.used_labels() for dataset in datasets], paths)
    return JoinedDataset(datasets, identities)


def _check_sizes(dataset: Dataset, *, may_skip: bool) -> None:
    """Raise DataError when pictures are not of the size that training takes, by a sample of them.

    Where bad records are replaced, a few of another size are too; when all are of another size, the size is wrong.
    """
    sample = np.unique(np.linspace(0, len(dataset) - 1, _SIZE_SAMPLE).astype(np.int64)).tolist()
    side, num_right, wrong = dataset.image_size, 0, ""
    for index in sample:
        try:
            height, width = dataset.picture_size(index)
        except DataError:
            continue  # what a bad record does is decided when it is met
        if height == width == side:
            num_right += 1
        elif not wrong:
            todo = f"set data.image_size={height}" if height == width else "align the images"
            wrong = f"{dataset.place(index)}: image is {width}x{height} pixels; expected {side}x{side}; {todo}, or "
    if wrong and not (may_skip and num_right):
        raise DataError(f"{wrong}resize the set with pack_rec.py --size {side}")


class RecDataset:
    """The images of a packed set, in any of its layouts; reading one checks its label."""

    def __init__(self, path: Path, image_size: int) -> None:
        self._records = ImageRecords(path)
        self.path = self._records.path
        self.image_size = image_size
        self._take_classes()

    def _take_classes(self) -> None:
        use = self._records.use
        assert use is not None, "counted when the set was opened"
        self.num_classes = self._records.num_classes
        self.num_needed, self.num_used = min(use.num_needed, self.num_classes), use.num_used

    def state_classes(self, num_classes: int) -> None:
        self._records.state_classes(num_classes, "data.num_classes")
        self._take_classes()

    def picture_size(self, index: int) -> tuple[int, int]:
        return image_size(self._records.read(index).image, place=self.place(index))

    def used_labels(self) -> IntArray:
        """Return the different class ids; reads a page of the file for each identity, or for each image."""
        return self._records.used_labels()

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> tuple[Picture, int]:
        record = self._records.read(index)
        try:
            # Spelling the place takes as long as reading; it is put in front of an error once there is one.
            return decode_square(record.image, self.image_size, place=""), record.label
        except DataError as err:
            raise DataError(f"{self.place(index)}{err}") from err

    def class_names(self) -> list[str] | None:
        """Return the names beside the set; DataError for those of fewer or more classes than labels need."""
        path = names_path(self.path)
        if not path.exists():
            return None
        names = read_class_names(path)
        if len(names) < self.num_needed:
            raise DataError(
                f"{path}: {len(names):,} names for {self.num_needed:,} classes; expected one a line; pack the set anew"
            )
        return names[: self.num_classes] + [""] * (self.num_classes - len(names))

    def sets(self) -> Sequence[Dataset]:
        return [self]

    def place(self, index: int) -> str:
        return self._records.place(index)

    def origin(self, index: int) -> Origin:
        return Origin(str(self.path), self._records.number(index), self._records.key(index))

    def fingerprint(self) -> dict[str, int | str]:
        """Return counts, the checksum of the whole index (0.2 s for 42 million images), and that of some labels."""
        sample = np.linspace(0, len(self) - 1, min(len(self), _SAMPLE)).astype(np.int64)
        labels = [self._label(index) for index in sample.tolist()]
        index, num_bytes = self._records.index, int(self._records.index.bounds[-1])
        return {
            "images": len(self),
            "classes": self.num_classes,
            "bytes": num_bytes,
            "index": _checksum(index.keys, index.bounds),
            "labels": _checksum(np.array(labels)),
        }

    def _label(self, index: int) -> int:
        try:
            return self._records.read(index).label
        except DataError:
            return -1  # what a bad record does is decided when it is met

    def labels(self) -> IntArray:
        """Return all labels [n]; reads a page of the file for each."""
        return self._records.labels()

    def read_ahead(self, spans: list[range]) -> None:
        self._records.read_ahead(spans)


class FolderDataset:
    """A folder of identity folders, in the order and with the class ids of `FolderList`; or photos, all of class 0."""

    def __init__(self, root: Path, image_size: int, *, has_identities: bool = True) -> None:
        self.image_size = image_size
        self._root = root
        self._names: Sequence[str]
        if has_identities:
            images = FolderList(root)
            self._identities: list[str] | None = list(images.identities)
            self.num_classes = self.num_needed = self.num_used = len(images.identities)
            self._names, labels = zip(*((image.name, image.label) for image in images))
            self._labels = np.array(labels, dtype=np.int64)
        else:
            self._identities = None
            self.num_classes = self.num_needed = self.num_used = 1
            self._names = ImageTree(root).names()
            self._labels = np.zeros(len(self._names), dtype=np.int64)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> tuple[Picture, int]:
        path = self.place(index)
        return decode_square(read_image_file(path), self.image_size, place=path), int(self._labels[index])

    def picture_size(self, index: int) -> tuple[int, int]:
        path = self.place(index)
        return image_size(read_image_file(path), place=path)

    def state_classes(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def used_labels(self) -> IntArray:
        return np.arange(self.num_used)

    def class_names(self) -> list[str] | None:
        return self._identities

    def sets(self) -> Sequence[Dataset]:
        return [self]

    def place(self, index: int) -> str:
        return os.path.join(self._root, self._names[index])

    def origin(self, index: int) -> Origin:
        return Origin(str(self._root), index, self._names[index])

    def fingerprint(self) -> dict[str, int | str]:
        """Return counts and the checksum of all names."""
        checksum = _checksum(np.frombuffer(os.fsencode("\n".join(self._names)), np.uint8))
        return {"images": len(self), "classes": self.num_classes, "names": checksum}

    def labels(self) -> IntArray:
        return self._labels

    def read_ahead(self, spans: list[range]) -> None:
        """Do nothing: neighbors in a folder are no neighbors on a disk."""


class JoinedDataset:
    """Several sets as one, with the class ids that `identities` gives them."""

    def __init__(self, datasets: Sequence[Dataset], identities: IdentityMap) -> None:
        self._datasets = datasets
        self._identities = identities
        self._starts = np.cumsum([0, *map(len, datasets)])
        self.image_size = datasets[0].image_size
        self.num_classes = identities.num_classes
        self.num_needed, self.num_used = self._count_classes()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> tuple[Picture, int]:
        number, within = self._find(index)
        picture, label = self._datasets[number][within]
        return picture, self._identities(number, label, str(within))

    def picture_size(self, index: int) -> tuple[int, int]:
        number, within = self._find(index)
        return self._datasets[number].picture_size(within)

    def state_classes(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def used_labels(self) -> IntArray:
        parts = [self._identities.whole(number, part.used_labels()) for number, part in enumerate(self._datasets)]
        return np.unique(np.concatenate(parts))

    def _count_classes(self) -> tuple[int, int]:
        """Return what is needed and used; labels are read again only where people may be in two sets."""
        if self._identities.is_disjoint:
            last = self._datasets[-1]
            needed = self.num_classes - last.num_classes + last.num_needed
            return needed, sum(dataset.num_used for dataset in self._datasets)
        used = self.used_labels()
        return (int(used[-1]) + 1 if len(used) else 0), len(used)

    def class_names(self) -> list[str] | None:
        return None  # people of two sets may have one name

    def sets(self) -> Sequence[Dataset]:
        return self._datasets

    def place(self, index: int) -> str:
        number, within = self._find(index)
        return self._datasets[number].place(within)

    def origin(self, index: int) -> Origin:
        number, within = self._find(index)
        return self._datasets[number].origin(within)

    def fingerprint(self) -> dict[str, int | str]:
        """Return the fingerprints of the parts under their numbers, and that of the map of identities."""
        parts = enumerate(dataset.fingerprint() for dataset in self._datasets)
        found = {f"set {number} {name}": value for number, part in parts for name, value in part.items()}
        return {**found, "classes": self.num_classes, "identities": _checksum(*self._identities.tables())}

    def labels(self) -> IntArray:
        parts = [self._identities.whole(number, dataset.labels()) for number, dataset in enumerate(self._datasets)]
        return np.concatenate(parts)

    def read_ahead(self, spans: list[range]) -> None:
        for number, dataset in enumerate(self._datasets):
            first, stop = int(self._starts[number]), int(self._starts[number + 1])
            cut = [range(max(span.start, first) - first, min(span.stop, stop) - first) for span in spans]
            dataset.read_ahead([span for span in cut if span])

    def _find(self, index: int) -> tuple[int, int]:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return number, index - int(self._starts[number])


def _identities(spelled: str, num_classes: list[int]) -> IdentityMap:
    if spelled == "offset":
        return offset_identities(num_classes)
    return same_identities(num_classes) if spelled == "same" else read_identity_map(Path(spelled), num_classes)


def _open_path(path: Path, image_size: int, needs_identities: bool) -> Dataset:
    kinds: tuple[Kind, ...] = ("packed", "identities") if needs_identities else ("packed", "identities", "photos")
    source = find_source(path, kinds, todo="set data.rec")
    if source.kind == "packed":
        return RecDataset(source.path, image_size)
    return FolderDataset(source.path, image_size, has_identities=source.kind == "identities")


def _stated(config: DataConfig, key: str) -> int:
    value = getattr(config, key)
    if value is None:
        raise ConfigError(f"data.{key} is not set; data.rec 'synthetic' has no files to count; state data.{key}")
    return int(value)


def _checksum(*arrays: npt.NDArray[Any]) -> str:
    """Return the CRC-32 of the arrays' content, block by block."""
    crc = 0
    for array in arrays:
        for start in range(0, len(array), _BLOCK):
            crc = zlib.crc32(array[start : start + _BLOCK].tobytes(), crc)
    return f"{crc:08x}"
