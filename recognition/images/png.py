"""The header of a PNG, whether its chunks end with the file, and what of it a decoder needs. Torch-free."""

from __future__ import annotations

import struct

from recognition.images.damage import damaged

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND")
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")
# Honest encoders write a chunk for every 8 kB and more of pixels, and a few dozen others.
_MAX_CHUNKS = 10_000
_BYTES_PER_CHUNK = 1024


def png_size(encoded: bytes, place: str) -> tuple[int, int]:
    """Return (height, width); DataError, beginning with `place`, unless the chunks end with IEND inside the file."""
    if len(encoded) < 33 or encoded[12:16] != b"IHDR":
        raise damaged(place, "is a PNG without its header")
    _check_chunks(encoded, place)
    width, height = struct.unpack_from(">II", encoded, 16)
    return height, width


def pixels_only(encoded: bytes) -> bytes:
    """Return a PNG that `png_size` has passed without the chunks that neither make pixels nor turn them.

    libpng prints what it finds wrong in texts and color profiles, whose names come from the file, to the terminal.
    """
    at = len(SIGNATURE)
    kept = [encoded[:at]]
    while at + 12 <= len(encoded):
        length, kind = struct.unpack_from(">I4s", encoded, at)
        if kind in _NEEDED:
            kept.append(encoded[at : at + 12 + length])
        at += 12 + length
        if kind == b"IEND":
            break
    return b"".join(kept)


def _check_chunks(encoded: bytes, place: str) -> None:
    """Refuse a PNG whose chunks do not end with IEND inside the file: OpenCV allocates what a chunk's length claims."""
    at = len(SIGNATURE)
    most = _MAX_CHUNKS + len(encoded) // _BYTES_PER_CHUNK
    for _ in range(most):
        if at + 12 > len(encoded):
            raise damaged(place, "is a PNG cut off before its end")
        length, kind = struct.unpack_from(">I4s", encoded, at)
        at += 12 + length
        if kind in _ANIMATION:
            raise damaged(place, "is an animated PNG")
        if kind == b"IEND" and at <= len(encoded):
            return
    raise damaged(place, f"is a PNG of more than {most:,} chunks, which cost more to walk than its pixels")
