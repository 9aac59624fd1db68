"""JPEGs that lost picture data are refused, and whole ones of any encoder and shape are not."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest

from recognition.errors import DataError
from recognition.images.codec import decode_rgb
from recognition.images.photos import decode_photo

Damage = Callable[[bytes], bytes]
BASELINE: tuple[int, ...] = ()
PROGRESSIVE = (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
RESTARTS = (cv2.IMWRITE_JPEG_RST_INTERVAL, 4)
OPTIMIZED = (cv2.IMWRITE_JPEG_OPTIMIZE, 1)
KINDS = [BASELINE, PROGRESSIVE, RESTARTS, OPTIMIZED]
END = b"\xff\xd9"


def face(seed: int = 0, height: int = 120, width: int = 150) -> np.ndarray:
    """Return a picture with something to see in every block: blurred noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]


def jpeg(*flags: int, seed: int = 0) -> bytes:
    return cv2.imencode(".jpg", face(seed), flags)[1].tobytes()


def cut(share: float, end: bytes = b"") -> Damage:
    return lambda encoded: encoded[: int(len(encoded) * share)] + end


def zeros(share: float, number: int = 300) -> Damage:
    def apply(encoded: bytes) -> bytes:
        begin = encoded.find(b"\xff\xda") + 14
        at = begin + int((len(encoded) - 2 - number - begin) * share)
        return encoded[:at] + bytes(number) + encoded[at + number :]

    return apply


def cut_at_a_scan(encoded: bytes) -> bytes:
    """Leave whole scans out, which the decoder does not warn of."""
    return encoded[: encoded.rfind(b"\xff\xda")] + END


@pytest.mark.parametrize("flags", KINDS)
@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_what_is_cut_short_is_refused_with_and_without_an_end_mark(flags: tuple[int, ...], share: float) -> None:
    for damage in (cut(share), cut(share, END)):
        with pytest.raises(DataError, match=r"^a\.jpg: the image is a JPEG (that lost data|cut off)"):
            decode_rgb(damage(jpeg(*flags)), place="a.jpg")


@pytest.mark.parametrize("flags", [BASELINE, RESTARTS, OPTIMIZED])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_stretch_of_zeros_is_refused_although_the_decoder_may_not_warn(flags: tuple[int, ...], share: float) -> None:
    with pytest.raises(DataError, match=r"^a\.jpg: the image is a JPEG that lost data: "):
        decode_rgb(zeros(share)(jpeg(*flags)), place="a.jpg")


def test_a_progressive_jpeg_without_its_last_scans_is_refused() -> None:
    with pytest.raises(DataError, match="cut off before its last scan"):
        decode_rgb(cut_at_a_scan(jpeg(*PROGRESSIVE)), place="a.jpg")


def test_a_flat_picture_is_no_stretch_of_zeros() -> None:
    for flags in KINDS:
        for value in (0, 128, 255):
            flat = np.full((800, 900, 3), value, np.uint8)
            flat[:120, :150] = face()
            decode_rgb(cv2.imencode(".jpg", flat, flags)[1].tobytes(), place="a.jpg")
            decode_rgb(cv2.imencode(".jpg", flat[::-1].copy(), flags)[1].tobytes(), place="a.jpg")


def with_segment(encoded: bytes, marker: int, payload: bytes) -> bytes:
    return encoded[:2] + bytes((0xFF, marker)) + struct.pack(">H", len(payload) + 2) + payload + encoded[2:]


def whole_files() -> Iterator[tuple[str, bytes]]:
    for flags in KINDS:
        encoded = jpeg(*flags)
        yield f"{flags}", encoded
        for stray in (b"\0", bytes(64), b"\x12\x34\x56" * 5, b"\xff" * 9):
            yield f"{flags} with {stray!r} before its end", encoded[:-2] + stray + END
        yield f"{flags} and a video", encoded + b"\0\0\0\x18ftypmp42" + np.random.default_rng(0).bytes(200_000)
    plain = jpeg()
    yield "many scan marks in a video", plain + b"\xff\xda" * 500
    yield "an unknown JFIF revision", plain.replace(b"JFIF\0\x01", b"JFIF\0\x07", 1)
    yield "an unknown Adobe transform", with_segment(plain, 0xEE, b"Adobe\0\x64\0\0\0\0\x09")
    yield "a thumbnail", with_segment(plain, 0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\0" + plain[:3000])
    scan = plain.find(b"\xff\xda")
    yield "odd parameters of a sequential scan", plain[: scan + 11] + b"\0\0\0" + plain[scan + 14 :]
    restarts = jpeg(*RESTARTS)
    for number in (0, 3, 6):
        at = restarts.find(bytes((0xFF, 0xD0 + number)), restarts.find(b"\xff\xda"))
        yield f"stray bytes before restart {number}", restarts[:at] + b"\0\x11\x22" + restarts[at:]


def test_whole_files_are_decoded_with_what_other_programs_leave_in_them() -> None:
    for name, encoded in whole_files():
        pixels = decode_rgb(encoded, place=name)
        expected = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert np.array_equal(pixels, expected), name


def test_damage_is_not_hidden_by_a_harmless_warning_before_it() -> None:
    """The decoder tells only its first warning: an odd header, or stray bytes, must not cover what follows."""
    adobe = with_segment(jpeg(), 0xEE, b"Adobe\0\x64\0\0\0\0\x09")
    restarts = jpeg(*RESTARTS)
    at = restarts.find(b"\xff\xd0", restarts.find(b"\xff\xda"))
    stray = restarts[:at] + b"\0\x11\x22" + restarts[at:]
    for encoded in (adobe, jpeg().replace(b"JFIF\0\x01", b"JFIF\0\x07", 1), stray):
        with pytest.raises(DataError, match="is a JPEG that lost data"):
            decode_rgb(cut(0.7, END)(encoded), place="a.jpg")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture_as_opencv_does(orientation: int) -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0) + bytes(4)
    encoded = with_segment(jpeg(), 0xE1, exif)
    expected = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert np.array_equal(decode_photo(encoded, place="x"), expected)
    assert (expected.shape[0] > expected.shape[1]) == (orientation > 4)
    with pytest.raises(DataError, match="lost data"):
        decode_photo(cut(0.6, END)(encoded), place="x")


def test_four_inks_are_decoded_and_checked() -> None:
    pillow = pytest.importorskip("PIL.Image")
    for options in ({}, {"progressive": True}):
        stream = io.BytesIO()
        pillow.fromarray(face()).convert("CMYK").save(stream, "JPEG", **options)
        encoded = stream.getvalue()
        expected = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert np.array_equal(decode_rgb(encoded, place="x"), expected)
        with pytest.raises(DataError, match="lost data"):
            decode_rgb(cut(0.5, END)(encoded), place="x")


def test_a_jpeg_of_a_thousand_scans_is_refused() -> None:
    encoded = jpeg(*PROGRESSIVE)
    last = encoded[encoded.rfind(b"\xff\xda") : -2]
    with pytest.raises(DataError, match="more than 100 scans"):
        decode_rgb(encoded[:-2] + last * 1000 + END, place="x")
