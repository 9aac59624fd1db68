import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest

from recognition.errors import DataError
from recognition.images.codec import decode_rgb, encode_jpeg, image_size
from tests.helpers.places import ROOT


@pytest.fixture
def picture() -> np.ndarray:
    ramp = np.linspace(0, 255, 40, dtype=np.uint8)
    rgb = np.zeros((30, 40, 3), np.uint8)
    rgb[..., 0] = ramp
    rgb[:15, :, 2] = 200
    return rgb


def png(rgb: np.ndarray) -> bytes:
    return cv2.imencode(".png", rgb[..., ::-1])[1].tobytes()


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_png_decodes_to_the_same_rgb_pixels(picture):
    np.testing.assert_array_equal(decode_rgb(png(picture), place="x"), picture)


def test_jpeg_round_trip_keeps_the_channel_order(picture):
    decoded = decode_rgb(encode_jpeg(picture, 95), place="x")
    assert decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - picture).mean() < 4


def test_gray_pictures_get_three_equal_channels(picture):
    decoded = decode_rgb(cv2.imencode(".jpg", picture[..., 0])[1].tobytes(), place="x")
    assert decoded.shape == (30, 40, 3)
    np.testing.assert_array_equal(decoded[..., 0], decoded[..., 2])


@pytest.mark.parametrize("flags", [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 1]])
def test_size_is_read_from_the_header(picture, flags):
    encoded = cv2.imencode(".jpg", picture, flags)[1].tobytes()
    assert image_size(encoded, place="x") == (30, 40)
    assert image_size(png(picture), place="x") == (30, 40)


def test_size_skips_a_thumbnail_inside_the_exif_segment(picture):
    thumbnail = encode_jpeg(picture[:8, :8])
    whole = encode_jpeg(picture)
    with_exif = whole[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + b"\xff" + whole[2:]
    assert image_size(with_exif, place="x") == (30, 40)


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (b"", r"^a\.jpg: not an image \(empty\); expected a JPEG or PNG"),
        (b"a text file named .jpg", r"^a\.jpg: not an image \(begins with b'a text f'\)"),
        (b"\xff\xd8\xff\xe0", r"^a\.jpg: the image is a JPEG cut off inside its header"),
        (b"\xff\xd8" + bytes(40), r"^a\.jpg: the image is a JPEG without a marker at byte 2"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), r"^a\.jpg: the image is a PNG without its header"),
        (png_claiming(0, 5), r"side of zero \(0 x 5\)"),
    ],
)
def test_junk_is_named_with_its_place(encoded, message):
    with pytest.raises(DataError, match=message):
        decode_rgb(encoded, place="a.jpg")


def test_a_png_bomb_is_refused_from_its_header():
    with pytest.raises(DataError, match=r"^a\.png: .* claims 65500 x 65500 pixels; expected at most 16,777,216"):
        decode_rgb(png_claiming(65500, 65500), place="a.png")


def test_a_jpeg_bomb_is_refused_from_its_header(picture):
    encoded = bytearray(encode_jpeg(picture))
    frame = encoded.index(b"\xff\xc0")
    encoded[frame + 5 : frame + 9] = struct.pack(">HH", 65000, 65000)
    with pytest.raises(DataError, match=r"claims 65000 x 65000 pixels"):
        decode_rgb(bytes(encoded), place="x")


def test_the_bound_is_the_callers(picture):
    assert decode_rgb(png(picture), place="x", max_pixels=1200).shape == (30, 40, 3)
    with pytest.raises(DataError, match=r"expected at most 1,199"):
        decode_rgb(png(picture), place="x", max_pixels=1199)


def test_cut_off_images_never_pass_for_whole_ones(picture):
    for encoded in (encode_jpeg(picture), png(picture)):
        for length in range(len(encoded) - 12):
            with pytest.raises(DataError):
                decode_rgb(encoded[:length], place="x")


def test_a_png_with_damaged_pixels_is_refused_or_decoded_but_never_crashes(picture):
    encoded = bytearray(png(picture))
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(encoded)
        damaged[rng.integers(0, len(damaged))] = rng.integers(0, 256)
        try:
            assert decode_rgb(bytes(damaged), place="x").dtype == np.uint8
        except DataError as err:
            assert str(err).startswith("x: ")  # noqa: PT017


def test_the_module_loads_without_torch():
    code = "import sys, recognition.images.codec; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_large_png_of_many_chunks_is_whole_and_one_of_chunks_without_end_has_its_own_reason():
    """libpng writes a chunk for every 8 kB: a photo of 30 megapixels has over 10,000."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    pixels = zlib.compress(b"".join(b"\0" + np.random.default_rng(y).bytes(3 * 2000) for y in range(2100)), 0)
    head, end = png_claiming(2000, 2100)[:33], chunk(b"IEND", b"")
    parts = [pixels[at : at + 1100] for at in range(0, len(pixels), 1100)]
    whole = head + b"".join(chunk(b"IDAT", part) for part in parts) + end
    assert len(parts) > 10_000 and decode_rgb(whole, place="x").shape == (2100, 2000, 3)
    with pytest.raises(DataError, match=r"^x: the image is a PNG of more than 10,\d\d\d chunks"):
        decode_rgb(head + chunk(b"tEXt", b"") * 12_000 + end, place="x")
