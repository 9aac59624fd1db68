"""Decode and encode images, with the size taken from the header before a single pixel is decoded. Torch-free."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

import cv2
import numpy as np

from recognition.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
"""How the names of a set's images end, in any case; what `decode_rgb` reads."""
MAX_PIXELS = 1 << 24
"""Largest picture of a set that is decoded: 4096 x 4096, 50 MB as RGB. A few bytes of PNG can claim 4 gigapixels."""
MAX_FILE_BYTES = 1 << 27
"""Largest image file that is read."""
_MAX_SCANS = 100  # a progressive JPEG has about ten; each is a pass over all pixels, for as few as ten bytes

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_CHUNKS = 10_000
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")
_JPEG_SIGNATURE = b"\xff\xd8"
# SOF0-SOF15 hold the size; C4, C8 and CC in that range are Huffman tables, an extension and arithmetic conditioning.
_JPEG_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE_MARKERS = frozenset(range(0xD0, 0xD8)) | {0x01}  # restart markers and TEM carry no length
_JPEG_SCAN_MARKER = 0xDA
_JPEG_END = b"\xff\xd9"

# The images of a set mostly come from one encoder and share every byte up to the first scan, the size among them: one
# comparison then replaces the walk over the segments. (those bytes, (height, width)) of the last JPEG walked.
_last_head: tuple[bytes, tuple[int, int]] = (b"", (0, 0))


def decode_rgb(encoded: bytes, *, place: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a JPEG or PNG into uint8 [H, W, 3] RGB; gray becomes three equal channels, alpha is dropped.

    Raises DataError beginning with `place` when the bytes are no such image, are cut off, or claim over `max_pixels`.
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


def _decode(encoded: bytes, place: str) -> np.ndarray:
    if encoded.startswith(_JPEG_SIGNATURE) and encoded.count(b"\xff\xda") > _MAX_SCANS:
        raise _damaged(place, f"is a JPEG of more than {_MAX_SCANS} scans")
    try:
        rgb = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as err:
        raise _damaged(place, f"does not decode ({err.err})") from err
    if rgb is None:
        raise _damaged(place, "does not decode")
    return rgb


def encode_jpeg(rgb: np.ndarray, quality: int = 95) -> bytes:
    """Encode uint8 [H, W, 3] RGB as JPEG."""
    done, buffer = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done, "cv2 could not encode a uint8 RGB array"
    return buffer.tobytes()


def image_size(encoded: bytes, *, place: str) -> tuple[int, int]:
    """Return (height, width) as the header states them, decoding nothing."""
    if encoded.startswith(_PNG_SIGNATURE):
        size = _png_size(encoded, place)
    elif encoded.startswith(_JPEG_SIGNATURE):
        size = _jpeg_size(encoded, place)
    else:
        found = "empty" if not encoded else f"begins with {bytes(encoded[:8])!r}"
        raise DataError(f"{place}: not an image ({found}); expected a JPEG or PNG; remove or replace it")
    if 0 in size:
        raise _damaged(place, f"has a side of zero ({size[1]} x {size[0]})")
    return size


def _png_size(encoded: bytes, place: str) -> tuple[int, int]:
    if len(encoded) < 33 or encoded[12:16] != b"IHDR":
        raise _damaged(place, "is a PNG without its header")
    _check_chunks(encoded, place)
    width, height = struct.unpack_from(">II", encoded, 16)
    return height, width


def _check_chunks(encoded: bytes, place: str) -> None:
    """Refuse a PNG whose chunks do not end with IEND inside the file: OpenCV allocates what a chunk's length claims."""
    at = len(_PNG_SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        if at + 12 > len(encoded):
            break
        length, kind = struct.unpack_from(">I4s", encoded, at)
        at += 12 + length
        if kind in _ANIMATION:
            raise _damaged(place, "is an animated PNG")
        if kind == b"IEND" and at <= len(encoded):
            return
    raise _damaged(place, "is a PNG cut off before its end")


def _jpeg_size(encoded: bytes, place: str) -> tuple[int, int]:
    """Walk the segments up to the first scan; libjpeg refuses a second frame header, so the first one counts."""
    global _last_head
    head, known = _last_head
    if head and encoded.startswith(head):
        if encoded.rfind(_JPEG_END) < len(head):
            raise _damaged(place, "is a JPEG cut off before its end")
        return known
    size: tuple[int, int] | None = None
    offset = 2
    while offset + 4 <= len(encoded):
        if encoded[offset] != 0xFF:
            raise _damaged(place, f"is a JPEG without a marker at byte {offset}")
        marker = encoded[offset + 1]
        if marker == 0xFF:  # fill bytes may precede a marker
            offset += 1
            continue
        if marker in _JPEG_BARE_MARKERS:
            offset += 2
            continue
        if marker in _JPEG_FRAME_MARKERS and size is None and offset + 9 <= len(encoded):
            height, width = struct.unpack_from(">HH", encoded, offset + 5)
            size = (height, width)
        if marker == _JPEG_SCAN_MARKER:
            # libjpeg fills what is missing with gray and only warns; half a face must not pass for a face.
            if encoded.rfind(_JPEG_END) < offset:
                raise _damaged(place, "is a JPEG cut off before its end")
            if size is not None:
                _last_head = encoded[: offset + 4], size
            break
        offset += 2 + struct.unpack_from(">H", encoded, offset + 2)[0]
    if size is None or offset + 4 > len(encoded):
        raise _damaged(place, "is a JPEG cut off inside its header")
    return size


def _damaged(place: str, what: str) -> DataError:
    return DataError(f"{place}: the image {what}; expected a whole JPEG or PNG; remove or replace it")
