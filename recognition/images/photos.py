"""Photos as they come from cameras and the web: found below a folder, and decoded upright as RGB. Torch-free."""

from __future__ import annotations

import logging
import os
import re
import struct
from pathlib import Path

import cv2
import numpy as np

from recognition.console import count
from recognition.errors import DataError
from recognition.images.codec import decode_rgb, image_size, read_image_file

logger = logging.getLogger(__name__)

MAX_PIXELS = 1 << 26
"""Largest photo that is decoded: 67 megapixels, 201 MB as RGB."""
MAX_PHOTO_BYTES = 1 << 29
"""Largest file of a photo that is read: 67 megapixels of 16 bits take 403 MB uncompressed."""
PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".pgm", ".ppm", ".pnm", ".bmp"})
_PNM_HEADER = re.compile(rb"P[2356](?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})\s")


def list_photos(root: Path) -> list[str]:
    """Return the sorted paths of the photos below `root`, relative to it and with / between the parts.

    Names that begin with a dot are passed over, and links to folders are not followed. Raises DataError when `root` is
    no folder or holds no photo, and when a folder cannot be read.
    """
    if not root.is_dir():
        raise DataError(f"{root}: is not a folder; expected a folder of photos; check the path")
    found = []
    num_hidden = 0
    for folder, subfolders, names in os.walk(root, onerror=_refuse):
        photos = [name for name in names if os.path.splitext(name)[1].lower() in PHOTO_SUFFIXES]
        num_hidden += sum(name.startswith(".") for name in [*photos, *subfolders])
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        below = os.path.relpath(folder, root)
        for name in photos:
            if not name.startswith("."):
                found.append(name if below == "." else f"{below}/{name}".replace(os.sep, "/"))
    if num_hidden:
        logger.info("%s: passed over %s beginning with a dot", root, count(num_hidden, "name"))
    if not found:
        raise DataError(f"{root}: holds no photo; expected {', '.join(sorted(PHOTO_SUFFIXES))}; check the path")
    return sorted(found)


def read_photo(path: Path, *, place: str | None = None) -> bytes:
    """Return the bytes of a photo; DataError, beginning with `place`, unless it is a plain file of a sane size."""
    return read_image_file(path, place=place, max_bytes=MAX_PHOTO_BYTES)


def decode_photo(encoded: bytes, *, place: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a JPEG, PNG, WebP, PNM or BMP into uint8 [H, W, 3] RGB, turned upright as its EXIF tag says.

    Gray becomes three equal channels, alpha is dropped, 16 bits become their upper 8. Raises DataError beginning with
    `place` when the bytes are no such picture, are cut off, or claim over `max_pixels` in the header.
    """
    size = _other_size(encoded)
    if size is None:
        return decode_rgb(encoded, place=place, max_pixels=max_pixels)
    height, width = size
    if height * width > max_pixels:
        raise DataError(
            f"{place}: the header claims {width} x {height} pixels; expected at most {max_pixels:,}; scale it down"
        )
    if height * width == 0:
        raise DataError(f"{place}: has a side of zero ({width} x {height}); expected a picture; remove or replace it")
    try:
        rgb = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as err:
        raise DataError(f"{place}: does not decode ({err.err}); expected a whole picture; replace it") from err
    if rgb is None:
        raise DataError(f"{place}: does not decode; expected a whole picture; remove or replace it")
    return rgb


def photo_size(encoded: bytes, *, place: str) -> tuple[int, int]:
    """Return (height, width) as the header states them, before any turning; decodes nothing."""
    size = _other_size(encoded)
    return image_size(encoded, place=place) if size is None else size


def _refuse(err: OSError) -> None:
    """Do not pass over the photos of a folder in silence, as os.walk would."""
    raise DataError(
        f"{err.filename}: cannot be read ({err.strerror or err}); expected a readable folder; mend its permissions"
    ) from err


def _other_size(encoded: bytes) -> tuple[int, int] | None:
    """Return (height, width) of a WebP, PNM or BMP from its header; None for anything else."""
    if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP" and len(encoded) >= 30:
        return _webp_size(encoded)
    if encoded[:2] == b"BM" and len(encoded) >= 26:
        # The first BMPs, with a header of 12 bytes, have 16-bit sides.
        is_first = encoded[14:18] == b"\x0c\0\0\0"
        width, height = struct.unpack_from("<HH" if is_first else "<ii", encoded, 18)
        return abs(height), abs(width)  # a negative height means rows from the top
    if header := _PNM_HEADER.match(encoded[:4096]):
        return int(header[2]), int(header[1])
    return None


def _webp_size(encoded: bytes) -> tuple[int, int] | None:
    kind = encoded[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(encoded[at : at + 3], "little") + 1 for at in (24, 27))
        return height, width
    if kind == b"VP8L":
        bits = int.from_bytes(encoded[21:25], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", encoded, 26)
        return height & 0x3FFF, width & 0x3FFF
    return None
