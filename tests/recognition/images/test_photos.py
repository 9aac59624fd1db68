"""Photos are found below a folder, or it is said why not; what is no plain file of a sane size is not read."""

from __future__ import annotations

import logging
import os
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from recognition.errors import DataError
from recognition.images import photos
from recognition.images.photos import MAX_PHOTO_BYTES, decode_photo, list_photos, read_photo


def test_photos_are_listed_by_any_name_but_a_hidden_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["a..b/1.jpg", "quo'te\"s/Zoë 文.PNG", "two words/new\nline.webp", "top.pgm", os.fsdecode(b"\xff/1.bmp")]
    for name in [*names, "..x/1.jpg", "a..b/.2.jpg", "a..b/notes.txt", "a..b/.DS_Store"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with caplog.at_level(logging.INFO):
        assert list_photos(tmp_path / "a..b" / ".." / "..x" / "..") == sorted(names)
    assert "passed over 2 names beginning with a dot" in caplog.text


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "1.jpg").touch()
    (tmp_path / "locked").mkdir()
    scandir = os.scandir

    def refusing(path: Any) -> Any:  # for root, who may run the tests, permissions refuse nothing
        if os.path.basename(path) == "locked":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(
        DataError, match=r"locked: cannot be read \(Permission denied\); expected a readable folder; mend"
    ):
        list_photos(tmp_path)


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
