"""What the review page shows of the original photos: a smaller copy of each, the faces found in it, and sizes.

Torch-free.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from recognition.detection.align_records import Origin
from recognition.errors import DataError
from recognition.images.codec import encode_jpeg
from recognition.images.photos import decode_photo, photo_size, read_photo
from recognition.work.threads import ordered_map

PHOTOS = "photos"
SIDE_PX = 640
_QUALITY = 75


@dataclass
class PagePhotos:
    """The photos of a page's pictures: crop -> origin, and photo -> the number of its copy, where it has one."""

    origins: Mapping[str, Origin]
    numbers: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    """Why photos have no copy, a line each: they have vanished, or are none any more."""

    def copy(self, folder: Path, root: Path, photos: Sequence[str], *, workers: int) -> Iterator[str]:
        """Write a copy, of at most 640 pixels a side, of each photo below `root` into `folder` / PHOTOS; yield names.

        What is not there any more, or no photo, is noted and has no copy.
        """
        (folder / PHOTOS).mkdir()
        for photo, copied in zip(photos, ordered_map(partial(_copy, root), photos, workers=workers)):
            if isinstance(copied, bytes):
                self.numbers[photo] = len(self.numbers)
                (folder / PHOTOS / f"{self.numbers[photo]}.jpg").write_bytes(copied)
            else:
                self.lost.append(copied)
            yield photo

    def entry(self, picture: str) -> list[Any] | None:
        """Return what the page's row says of the photo of a picture; None where there is no copy of it."""
        origin = self.origins.get(picture)
        number = None if origin is None else self.numbers.get(origin.photo)
        if origin is None or number is None:
            return None
        boxes = [[*_share(origin, i), origin.crops[i] not in (None, picture)] for i in range(len(origin.boxes))]
        return [number, origin.face, boxes]


def size_texts(faces: Path, origins: Mapping[str, Origin], pictures: Iterable[str]) -> dict[str, str]:
    """Return picture -> its size in words: of the face in its photo where that is known, or else of the file.

    Raises DataError for a picture that is not there or no picture.
    """
    texts = {}
    for picture in pictures:
        if picture in origins:
            texts[picture] = origins[picture].size_text
        else:
            content = read_photo(faces / picture)
            height, width = photo_size(content, place=str(faces / picture))
            texts[picture] = f"{width:,} × {height:,} px, {len(content) / 1000:,.1f} kB"
    return texts


def _copy(root: Path, photo: str) -> bytes | str:
    """Return a photo as a smaller JPEG, or why there is none."""
    try:
        rgb = decode_photo(read_photo(root / photo), place=str(root / photo))
    except DataError as err:
        return str(err)
    height, width = rgb.shape[:2]
    scale = min(1.0, SIDE_PX / max(height, width))
    if scale < 1:
        smaller = (max(1, round(width * scale)), max(1, round(height * scale)))
        rgb = cv2.resize(rgb, smaller, interpolation=cv2.INTER_AREA)
    return encode_jpeg(rgb, _QUALITY)


def _share(origin: Origin, face: int) -> list[float]:
    left, top, right, bottom = origin.boxes[face]
    width, height = origin.width, origin.height
    return [round(v, 4) for v in (left / width, top / height, (right - left) / width, (bottom - top) / height)]
