"""Photos as they come from cameras and the web, decoded upright as RGB. Torch-free."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recognition.errors import DataError
from recognition.images.codec import IMAGE_SUFFIXES, decode_rgb, image_size, read_image_file
from recognition.images.damage import damaged
from recognition.images.heif import decode_avif, decode_heic
from recognition.images.jpeg import decode_with_opencv
from recognition.images.photo_headers import read_header

MAX_PIXELS = 1 << 26
"""Largest photo that is decoded: 67 megapixels, 201 MB as RGB."""
MAX_PHOTO_BYTES = 1 << 29
"""Largest file of a photo that is read: 67 megapixels of 16 bits take 403 MB uncompressed."""
PHOTO_SUFFIXES = (
    *IMAGE_SUFFIXES,
    *(".webp", ".pgm", ".ppm", ".pnm", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif"),
)
"""How the names of photos end, in any case; what `decode_photo` reads."""


def read_photo(path: Path, *, place: str | None = None) -> bytes:
    """Return the bytes of a photo; DataError, beginning with `place`, unless it is a plain file of a sane size."""
    return read_image_file(path, place=place, max_bytes=MAX_PHOTO_BYTES)


def decode_photo(encoded: bytes, *, place: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a JPEG, PNG, WebP, PNM, BMP, GIF, TIFF, AVIF or HEIC into uint8 [H, W, 3] RGB, upright as its EXIF says.

    Of several pictures in one file the first, or the main one, is taken. Gray becomes three equal channels, alpha is
    dropped, 16 bits become their upper 8. Raises DataError beginning with `place` when the bytes are no such picture,
    have lost picture data, claim over `max_pixels` in the header, or need a reader that is not installed.
    """
    header = read_header(encoded)
    if header is None:
        return decode_rgb(encoded, place=place, max_pixels=max_pixels)
    height, width = photo_size(encoded, place=place)
    if height * width > max_pixels:
        raise DataError(
            f"{place}: the header claims {width} x {height} pixels; expected at most {max_pixels:,}; scale it down"
        )
    if height * width == 0:
        raise DataError(f"{place}: has a side of zero ({width} x {height}); expected a picture; remove or replace it")
    decode = {"HEIC": decode_heic, "AVIF": decode_avif}.get(header.kind, decode_with_opencv)
    return decode(encoded, place)


def photo_size(encoded: bytes, *, place: str) -> tuple[int, int]:
    """Return (height, width) as the header states them, before any turning; decodes nothing."""
    header = read_header(encoded)
    if header is None:
        return image_size(encoded, place=place)
    if header.size is None:
        raise damaged(place, f"is a {header.kind} cut off inside its header")
    return header.size
