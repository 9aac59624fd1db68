"""Photos as they come from cameras and the web, decoded upright as RGB. Torch-free."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import cv2
import numpy as np

from recognition.errors import DataError
from recognition.images.codec import IMAGE_SUFFIXES, decode_rgb, image_size, read_image_file

MAX_PIXELS = 1 << 26
"""Largest photo that is decoded: 67 megapixels, 201 MB as RGB."""
MAX_PHOTO_BYTES = 1 << 29
"""Largest file of a photo that is read: 67 megapixels of 16 bits take 403 MB uncompressed."""
PHOTO_SUFFIXES = (*IMAGE_SUFFIXES, ".webp", ".pgm", ".ppm", ".pnm", ".bmp")
"""How the names of photos end, in any case; what `decode_photo` reads."""
_PNM_HEADER = re.compile(rb"P[2356](?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})\s")


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
