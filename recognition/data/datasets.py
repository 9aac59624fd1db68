"""Labelled pictures behind an index: packed records, folders of identities, or made up on the spot.

Every dataset has `num_classes`, `image_size` S, a length, `dataset[i] -> (uint8 [S, S, 3] RGB, label)` and `place(i)`,
the words by which an error names image i. Labels and sizes are checked here, on the CPU, so that nothing behind the
loader has to.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from recognition.config.schema import DataConfig
from recognition.data.hashing import derive_key
from recognition.data.image_list import FolderList
from recognition.data.images import decode_rgb
from recognition.data.records import ImageRecords
from recognition.errors import ConfigError, DataError

Picture = npt.NDArray[np.uint8]
Dataset: TypeAlias = "RecDataset | FolderDataset | SyntheticDataset"


def open_dataset(config: DataConfig) -> Dataset:
    """Open what `data.rec` names.

    Raises ConfigError when num_classes or num_image are stated and differ from the data, DataError when the data are
    missing or damaged.
    """
    if config.rec is None:
        raise ConfigError("data.rec is not set; name a folder with train.rec, a .rec file or a folder of identities")
    if config.rec == "synthetic":
        return SyntheticDataset(_stated(config, "num_image"), _stated(config, "num_classes"), config.image_size)
    dataset = _open_path(Path(config.rec).expanduser(), config.image_size)
    _check_stated("num_classes", config.num_classes, dataset.num_classes, config.rec)
    _check_stated("num_image", config.num_image, len(dataset), config.rec)
    return dataset


class RecDataset:
    """The images of a packed set, in any of its layouts; reading one checks its label."""

    def __init__(self, path: Path, image_size: int) -> None:
        self._records = ImageRecords(path)
        self.path = self._records.path
        self.image_size = image_size
        self.num_classes = self._records.num_classes

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> tuple[Picture, int]:
        record = self._records.read(index)
        try:
            # Spelling the place takes as long as reading; it is put in front of an error once there is one.
            return _checked(decode_rgb(record.image, place=""), self.image_size, ""), record.label
        except DataError as err:
            raise DataError(f"{self.place(index)}{err}") from err

    def place(self, index: int) -> str:
        return self._records.place(index)


class FolderDataset:
    """A folder of identity folders; identities are numbered in the order of their sorted names."""

    def __init__(self, root: Path, image_size: int) -> None:
        self.image_size = image_size
        images = FolderList(root)
        self.num_classes = len(images.identities)
        self._paths, self._labels = zip(*((image.path, image.label) for image in images))

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Picture, int]:
        place = self._paths[index]
        try:
            encoded = Path(place).read_bytes()
        except OSError as err:
            raise DataError(f"{place}: cannot be read ({err.strerror}); check that the file is still there") from err
        return _checked(decode_rgb(encoded, place=place), self.image_size, place), self._labels[index]

    def place(self, index: int) -> str:
        return str(self._paths[index])


class SyntheticDataset:
    """Made-up pictures that need no disk: each class is a coarse pattern, each image that pattern under noise."""

    def __init__(self, num_images: int, num_classes: int, image_size: int) -> None:
        self._num_images = num_images
        self.image_size = image_size
        self.num_classes = num_classes

    def __len__(self) -> int:
        return self._num_images

    def __getitem__(self, index: int) -> tuple[Picture, int]:
        label = index % self.num_classes
        shape = (self.image_size, self.image_size, 3)
        pattern = _stream(0, label).integers(0, 192, (8, 8, 3), dtype=np.uint8)
        noise = _stream(1, index).integers(0, 64, shape, dtype=np.uint8)
        cells = np.arange(self.image_size) * 8 // self.image_size
        return pattern[cells][:, cells] + noise, label

    def place(self, index: int) -> str:
        return f"synthetic image {index}"


def _open_path(path: Path, image_size: int) -> RecDataset | FolderDataset:
    is_packed = path.is_file() or (path / "train.rec").exists() or Path(f"{path}.rec").is_file()
    if is_packed:
        return RecDataset(path, image_size)
    if path.is_dir() and any(entry.is_dir() for entry in path.iterdir()):
        return FolderDataset(path, image_size)
    found = "has neither train.rec nor folders of identities" if path.is_dir() else "does not exist"
    raise DataError(
        f"{path}: {found}; expected a folder with train.rec, a .rec file or a folder of identity folders; set data.rec"
    )


def _stated(config: DataConfig, key: str) -> int:
    value = getattr(config, key)
    if value is None:
        raise ConfigError(f"data.{key} is not set; data.rec 'synthetic' has no files to count; state data.{key}")
    return int(value)


def _check_stated(key: str, stated: int | None, found: int, source: str) -> None:
    if stated is not None and stated != found:
        raise ConfigError(f"data.{key}: the config states {stated}, {source} has {found}; correct it or leave it out")


def _checked(picture: Picture, image_size: int, place: str) -> Picture:
    height, width, _ = picture.shape
    if not height == width == image_size:
        raise DataError(
            f"{place}: image is {width}x{height} pixels; expected {image_size}x{image_size}; align the images to that "
            "size or set data.image_size"
        )
    return picture


def _stream(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(derive_key(*key) & ((1 << 63) - 1)))
