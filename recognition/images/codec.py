"""Decode and encode images, with the size taken from the header before a single pixel is decoded. Torch-free."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import cv2
import numpy as np

from recognition.errors import DataError
from recognition.images import jpeg, png
from recognition.images.damage import damaged

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png")
"""How the names of a set's images end, in any case; what `decode_rgb` reads."""
MAX_PIXELS = 1 << 24
"""Largest picture of a set that is decoded: 4096 x 4096, 50 MB as RGB. A few bytes of PNG can claim 4 gigapixels."""
MAX_FILE_BYTES = 1 << 27
"""Largest image file that is read."""


def decode_rgb(encoded: bytes, *, place: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a JPEG or PNG into uint8 [H, W, 3] RGB; gray becomes three equal channels, alpha is dropped.

    Raises DataError beginning with `place` when the bytes are no such image, have lost picture data, or claim over
    `max_pixels`.
    """
    height, width = image_size(encoded, place=place)
    if height * width > max_pixels:
        raise DataError(
            f"{place}: the header claims {width} x {height} pixels; expected at most {max_pixels:,}; scale it down"
        )
    return _decode(encoded, place)


def decode_square(encoded: bytes, side: int, *, place: str) -> np.ndarray:
    """Decode a JPEG or PNG of `side` x `side` pixels into uint8 RGB; another size is a DataError, undecoded."""
    height, width = image_size(encoded, place=place)
    if not height == width == side:
        raise DataError(
            f"{place}: image is {width}x{height} pixels; expected {side}x{side}; align the images to that size or set "
            "data.image_size"
        )
    return _decode(encoded, place)


def read_image_file(path: str | Path, *, place: str | None = None, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Return the bytes of an image file; DataError unless it is a plain file of at most `max_bytes`.

    A pipe or a device under an image's name would keep its reader waiting, or never end. Messages begin with `place`,
    by default the path.
    """
    place = str(path) if place is None else place
    try:
        # Not waiting for a writer, should it be a pipe.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as handle:
            status = os.fstat(handle.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise DataError(f"{place}: is no plain file; expected a JPEG or PNG; remove it")
            if status.st_size > max_bytes:
                raise DataError(f"{place}: {status.st_size:,} bytes; expected at most {max_bytes:,}; remove it")
            return handle.read()
    except OSError as err:
        raise DataError(
            f"{place}: cannot be read ({err.strerror or err}); expected an image file; check that it is still there"
        ) from err


def begins_as_image(path: str | Path) -> bool:
    """Return whether a plain file begins as a JPEG or PNG does, whatever it is called."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as handle:
            return stat.S_ISREG(os.fstat(handle.fileno()).st_mode) and is_image(handle.read(16))
    except OSError:
        return False


def is_image(encoded: bytes) -> bool:
    """Return whether bytes begin as those of a JPEG or PNG."""
    return encoded.startswith((jpeg.SIGNATURE + b"\xff", png.SIGNATURE))


def _decode(encoded: bytes, place: str) -> np.ndarray:
    if encoded.startswith(jpeg.SIGNATURE):
        return jpeg.decode_jpeg(encoded, place)
    return jpeg.decode_with_opencv(png.pixels_only(encoded), place)


def encode_jpeg(rgb: np.ndarray, quality: int = 95) -> bytes:
    """Encode uint8 [H, W, 3] RGB as JPEG."""
    done, buffer = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done, "cv2 could not encode a uint8 RGB array"
    return buffer.tobytes()


def image_size(encoded: bytes, *, place: str) -> tuple[int, int]:
    """Return (height, width) as the header states them, decoding nothing."""
    if encoded.startswith(png.SIGNATURE):
        size = png.png_size(encoded, place)
    elif encoded.startswith(jpeg.SIGNATURE):
        size = jpeg.read_head(encoded, place).size
    else:
        found = "empty" if not encoded else f"begins with {bytes(encoded[:8])!r}"
        raise DataError(f"{place}: not an image ({found}); expected a JPEG or PNG; remove or replace it")
    if 0 in size:
        raise damaged(place, f"has a side of zero ({size[1]} x {size[0]})")
    return size
