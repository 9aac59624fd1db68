"""Photos are decoded upright; what is no plain file of a sane size is not read."""

from __future__ import annotations

import io
import os
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg

from recognition.errors import DataError
from recognition.formats.image_tree import ImageTree
from recognition.images.photos import MAX_PHOTO_BYTES, PHOTO_SUFFIXES, decode_photo, photo_size, read_photo


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
    monkeypatch.setattr(cv2, "imdecode", lambda *args: pytest.fail("decoded"))
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *args: pytest.fail("decoded"))
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


def encoded_as(suffix: str, rgb: np.ndarray) -> bytes:
    return cv2.imencode(suffix, rgb[..., ::-1])[1].tobytes()


@pytest.mark.parametrize("suffix", [".tiff", ".gif", ".bmp", ".webp", ".ppm", ".avif"])
def test_what_people_keep_photos_in_is_read_and_its_size_known_before(suffix: str) -> None:
    rgb = np.zeros((40, 60, 3), np.uint8)
    rgb[:, :32], rgb[24:, 32:] = (255, 0, 0), (0, 0, 255)  # colors that a GIF's palette has
    encoded = encoded_as(suffix, rgb)
    assert photo_size(encoded, place="x") == (40, 60)
    assert np.abs(decode_photo(encoded, place="x").astype(int) - rgb).mean() < 8
    with pytest.raises(DataError, match=r"^x: the header claims 60 x 40 pixels; expected at most 2,399"):
        decode_photo(encoded, place="x", max_pixels=2399)
    for length in (9, 14, 20, 31, len(encoded) // 2):
        with pytest.raises(DataError, match=r"^x: "):
            decode_photo(encoded[:length], place="x")


def test_of_a_moving_gif_and_a_tiff_of_pages_the_first_picture_is_taken() -> None:
    pillow = pytest.importorskip("PIL.Image")
    frames = [pillow.new("RGB", (32, 24), color) for color in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    for kind in ("GIF", "TIFF"):
        stream = io.BytesIO()
        frames[0].save(stream, kind, save_all=True, append_images=frames[1:])
        assert decode_photo(stream.getvalue(), place="x")[12, 16].tolist() == [250, 0, 0]
        assert photo_size(stream.getvalue(), place="x") == (24, 32)


def test_heic_is_read_where_its_reader_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = pytest.importorskip("pillow_heif")
    rgb = np.zeros((64, 80, 3), np.uint8)
    rgb[:, :40] = (200, 30, 60)
    stream = io.BytesIO()
    reader.from_bytes("RGB", (80, 64), rgb.tobytes()).save(stream, quality=95)
    encoded = stream.getvalue()
    assert photo_size(encoded, place="x") == (64, 80)
    assert np.abs(decode_photo(encoded, place="x").astype(int) - rgb).mean() < 4
    with pytest.raises(DataError, match=r"^x: the image does not decode \("):
        decode_photo(encoded[: len(encoded) * 2 // 3], place="x")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(DataError, match=r"^x: is an HEIC, .* expected pillow-heif; run: pip install pillow-heif"):
        decode_photo(encoded, place="x")


def test_an_opencv_without_avif_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = encoded_as(".avif", np.zeros((40, 60, 3), np.uint8))
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "    AVIF:                        NO\n    PNG: yes")
    with pytest.raises(DataError, match=r"is an AVIF, .* run: pip install --upgrade opencv-python-headless"):
        decode_photo(encoded, place="x")


def test_a_video_is_no_photo() -> None:
    with pytest.raises(DataError, match=r"^x: not an image \(begins with"):
        decode_photo(b"\0\0\0\x18ftypmp42" + bytes(99), place="x")


def test_photos_without_a_suffix_are_known_by_their_content(tmp_path: Path) -> None:
    jpeg = encoded_as(".jpg", np.zeros((8, 8, 3), np.uint8))
    for name in ("img1", "scan.JFIF", "old.jpe", "x.TIF", "phone.heic"):
        (tmp_path / name).write_bytes(jpeg)
    (tmp_path / "README").write_text("a text")
    os.mkfifo(tmp_path / "pipe")
    names = ImageTree(tmp_path, PHOTO_SUFFIXES).names()
    assert names == ["img1", "old.jpe", "phone.heic", "scan.JFIF", "x.TIF"]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_a_comment_of_a_pnm_ends_where_opencv_ends_it(end: bytes) -> None:
    """Else a header could show one size here and another to the decoder."""
    for first in (b"P5 #a", b"P2\n# a #", b"P6 "):
        whole = first + end + b"22000 22000" + end + b"255\n#\n4 4\n255\n" + bytes(48)
        with pytest.raises(DataError, match="claims 22000 x 22000 pixels; expected at most"):
            decode_photo(whole, place="photo")
