"""What of a PNG reaches libpng: the chunks that make pixels or turn them, and no text that it would print."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest

from recognition.images.codec import decode_rgb
from recognition.images.png import pixels_only

ESCAPE = b"\x1b[2J"


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _with_chunks(encoded: bytes, *chunks: bytes) -> bytes:
    """Return a PNG with more chunks after its header."""
    return encoded[:33] + b"".join(chunks) + encoded[33:]


@pytest.fixture
def plain() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


def test_texts_and_color_profiles_print_nothing(plain: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    kinds = (b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"sPLT", b"pCAL", b"sCAL", b"cHRM", b"hIST", b"xxXx")
    odd = _with_chunks(plain, *[_chunk(kind, ESCAPE + b"\0\0bad") for kind in kinds])
    cv2.imdecode(np.frombuffer(odd, np.uint8), cv2.IMREAD_COLOR)
    assert "libpng warning" in capfd.readouterr().err, "libpng warns of none of these: the test shows nothing"
    assert np.array_equal(decode_rgb(odd, place="odd"), decode_rgb(plain, place="plain"))
    assert capfd.readouterr() == ("", "")


def test_what_makes_or_turns_pixels_stays(plain: bytes) -> None:
    exif = _chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")
    turned = _with_chunks(plain, exif, _chunk(b"tEXt", b"a\0b"))
    assert pixels_only(turned) == _with_chunks(plain, exif)
    assert pixels_only(plain) == plain
    palette = cv2.imencode(".png", np.zeros((8, 8), np.uint8), [cv2.IMWRITE_PNG_BILEVEL, 1])[1].tobytes()
    assert np.array_equal(decode_rgb(palette, place="p"), np.zeros((8, 8, 3), np.uint8))
