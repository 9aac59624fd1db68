"""Photos are decoded upright; what is no plain file of a sane size is not read."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from recognition.errors import DataError
from recognition.images import photos
from recognition.images.photos import MAX_PHOTO_BYTES, decode_photo, read_photo


def test_pipes_devices_links_and_huge_files_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "lost.jpg").symlink_to("nowhere")
    with open(tmp_path / "huge.jpg", "wb") as handle:
        handle.truncate(MAX_PHOTO_BYTES + 1)
    for name, message in (
        ("pipe", "is no plain file"),
        ("zero", "is no plain file"),
        ("loop", "Too many levels"),
        ("lost", "No such file"),
        ("huge", r"536,870,913 bytes; expected at most 536,870,912"),
    ):
        with pytest.raises(DataError, match=f"^here: .*{message}"):
            read_photo(tmp_path / f"{name}.jpg", place="here")


def test_200_megapixels_are_refused_by_the_header_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos.cv2, "imdecode", lambda *args: pytest.fail("decoded"))
    jpeg = bytearray(cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes())
    at = jpeg.find(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 10_000, 20_000)
    bmp = b"BM" + bytes(12) + struct.pack("<Iii", 40, 20_000, -10_000) + bytes(30)
    webp = b"RIFF" + bytes(4) + b"WEBPVP8L" + bytes(5) + struct.pack("<I", 16_383 | 16_383 << 14) + bytes(9)
    for encoded in (bytes(jpeg), b"P6 20000 10000 255\n", b"P5\n# c\n20000\n10000 65535 ", bmp, webp):
        with pytest.raises(
            DataError, match=r"^here: the header claims (20000 x 10000|16384 x 16384) pixels; expected at"
        ):
            decode_photo(encoded, place="here")
