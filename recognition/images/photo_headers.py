"""Which picture a file is, and its size, from the first bytes and before a pixel is decoded. Torch-free.

Headers as in: RFC 9649 (WebP), the netpbm formats, BITMAPINFOHEADER, GIF89a, TIFF 6.0 and BigTIFF, ISO/IEC 23008-12
(HEIC, AVIF: boxes `ftyp` and `ispe`).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import NamedTuple

Size = tuple[int, int]  # height, width

_PNM_SPACE = rb"(?:\s|#[^\n\r]*[\n\r])+"  # a comment ends with either, for OpenCV as well
_PNM_HEADER = re.compile(rb"P[2356]" + _PNM_SPACE + rb"(\d{1,9})" + _PNM_SPACE + rb"(\d{1,9})\s")
_WIDTH_TAG, _HEIGHT_TAG = 256, 257
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_BOX_HEADER_BYTES = 1 << 16  # of an HEIC or AVIF, in which its sizes are found


class PhotoHeader(NamedTuple):
    """What a file's first bytes say: its kind, and its size where that can be read."""

    kind: str
    size: Size | None


def read_header(encoded: bytes) -> PhotoHeader | None:
    """Return the kind and size of a WebP, PNM, BMP, GIF, TIFF, HEIC or AVIF; None for anything else."""
    for kind, read in _READERS.items():
        try:
            if found := read(encoded):
                return found if isinstance(found, PhotoHeader) else PhotoHeader(kind, found)
        except struct.error:  # cut off inside the header
            return PhotoHeader(kind, None)
    return None


def _webp(encoded: bytes) -> Size | None:
    if encoded[:4] != b"RIFF" or encoded[8:12] != b"WEBP":
        return None
    kind = encoded[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(encoded[at : at + 3], "little") + 1 for at in (24, 27))
        return height, width
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", encoded, 21)
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", encoded, 26)
    return height & 0x3FFF, width & 0x3FFF


def _bmp(encoded: bytes) -> Size | None:
    if encoded[:2] != b"BM":
        return None
    # The first BMPs, with a header of 12 bytes, have 16-bit sides.
    is_first = encoded[14:18] == b"\x0c\0\0\0"
    width, height = struct.unpack_from("<HH" if is_first else "<ii", encoded, 18)
    return abs(height), abs(width)  # a negative height means rows from the top


def _pnm(encoded: bytes) -> Size | None:
    header = _PNM_HEADER.match(encoded[:4096])
    return (int(header[2]), int(header[1])) if header else None


def _gif(encoded: bytes) -> Size | None:
    if encoded[:6] not in (b"GIF87a", b"GIF89a"):
        return None
    width, height = struct.unpack_from("<HH", encoded, 6)
    return height, width


def _tiff(encoded: bytes) -> Size | PhotoHeader | None:
    order = {b"II": "<", b"MM": ">"}.get(encoded[:2])
    if (
        order is None
        or len(encoded) < 16
        or (version := struct.unpack_from(f"{order}H", encoded, 2)[0]) not in (42, 43)
    ):
        return None
    # BigTIFF has offsets and counts of 8 bytes, and so entries of 20.
    offset, number, entry = ("Q", "Q", "HHQ") if version == 43 else ("I", "H", "HHI")
    (at,) = struct.unpack_from(f"{order}{offset}", encoded, 8 if version == 43 else 4)
    (entries,) = struct.unpack_from(f"{order}{number}", encoded, at)
    at += struct.calcsize(f"={number}")
    head, step = struct.calcsize(f"={entry}"), struct.calcsize(f"={entry}{offset}")
    sides = {}
    for _ in range(min(entries, 1000)):
        tag, kind = struct.unpack_from(f"{order}HH", encoded, at)
        if tag in (_WIDTH_TAG, _HEIGHT_TAG):
            sides[tag] = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", encoded, at + head)[0]
        at += step
    return PhotoHeader("TIFF", (sides[_HEIGHT_TAG], sides[_WIDTH_TAG]) if len(sides) == 2 else None)


def _heif(encoded: bytes) -> PhotoHeader | None:
    if encoded[4:8] != b"ftyp":
        return None
    (length,) = struct.unpack_from(">I", encoded, 0)
    brands = {encoded[at : at + 4] for at in range(8, min(length, 256), 4)}
    kind = "AVIF" if brands & _AVIF_BRANDS else "HEIC" if brands & _HEIC_BRANDS else None
    if kind is None:
        return None  # a video begins alike
    # Thumbnails and tiles have sizes, too; the picture's is the largest.
    head = encoded[:_BOX_HEADER_BYTES]
    sizes = [struct.unpack_from(">II", head, match.end() + 4) for match in re.finditer(b"ispe", head[:-12])]
    width, height = max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))
    return PhotoHeader(kind, (height, width) if sizes else None)


_READERS: dict[str, Callable[[bytes], Size | PhotoHeader | None]] = {
    "WebP": _webp,
    "BMP": _bmp,
    "PNM": _pnm,
    "GIF": _gif,
    "TIFF": _tiff,
    "HEIC or AVIF": _heif,
}
