"""align_faces.py: what it makes of good and bad photos, and that a killed run ends like an undisturbed one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from recognition.commands.align_faces import crop_names, main
from recognition.detection.choice import choose_faces
from recognition.detection.faces import Faces
from recognition.detection.weights import mtcnn_folder
from recognition.errors import DataError
from tests.helpers.places import ORL, ROOT, needs_photos
from tests.helpers.trees import files_below

pytestmark = [
    needs_photos(ORL),
    pytest.mark.skipif(not (mtcnn_folder() / "onet.pt").is_file(), reason="needs MTCNN's weights: make align"),
]


def _face(number: int = 1) -> np.ndarray:
    """A gray photo with room around the face."""
    face = cv2.imread(str(ORL / "s1" / f"{number}.pgm"), cv2.IMREAD_GRAYSCALE)
    return cv2.copyMakeBorder(face, 20, 20, 20, 20, cv2.BORDER_REPLICATE)


def _lines(output: Path) -> dict[str, dict]:
    return {line["photo"]: line for line in map(json.loads, (output / "align.jsonl").read_text().splitlines())}


def _png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


def test_every_kind_of_photo_gets_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    person = tmp_path / "in" / 'O\'Neil .. "Zoë" 日本'
    person.mkdir(parents=True)
    gray = _face()
    color = np.dstack([gray] * 3)
    cv2.imwrite(str(person / "gray.pgm"), gray)
    cv2.imwrite(str(person / "deep.png"), gray.astype(np.uint16) * 257)
    cv2.imwrite(str(person / "alpha.png"), np.dstack([color, np.full_like(gray, 9)]))
    cv2.imwrite(str(person / "web.webp"), color)
    cv2.imwrite(str(person / "a..b.jpg"), color)
    cv2.imwrite(str(person / "two.jpg"), np.hstack([color, np.dstack([_face(2)] * 3)]))
    cv2.imwrite(str(person / "one_pixel.png"), np.zeros((1, 1, 3), np.uint8))
    cv2.imwrite(str(person / "wall.jpg"), np.full((80, 90, 3), 120, np.uint8))
    (person / "junk.jpg").write_bytes(b"no photo")
    (person / "huge.png").write_bytes(_png_header(20_000, 10_000))
    assert main([str(tmp_path / "in"), str(tmp_path / "out"), "--workers", "1", "--quiet", "--faces", "refuse"]) == 0
    lines = {name.split("/")[1]: line for name, line in _lines(tmp_path / "out").items()}
    assert {name: line["status"] for name, line in lines.items()} == {
        "gray.pgm": "ok",
        "deep.png": "ok",
        "alpha.png": "ok",
        "web.webp": "ok",
        "a..b.jpg": "ok",
        "two.jpg": "several",
        "one_pixel.png": "no_face",
        "wall.jpg": "no_face",
        "junk.jpg": "unreadable",
        "huge.png": "unreadable",
    }
    assert "the header claims 20000 x 10000 pixels" in lines["huge.png"]["reason"]
    assert len(lines["two.jpg"]["faces"]) == 2
    crops = sorted(p.name for p in (tmp_path / "out" / person.name).iterdir())
    assert crops == ["a..b.jpg", "alpha.png.jpg", "deep.png.jpg", "gray.pgm.jpg", "web.webp.jpg"]
    assert cv2.imread(str(tmp_path / "out" / person.name / "a..b.jpg")).shape == (112, 112, 3)
    assert "aligned 5 faces of 10 photos, 2 no face, 1 several, 0 too small, 2 unreadable" in capsys.readouterr().out


def _with_orientation(jpeg: bytes, orientation: int) -> bytes:
    tiff = b"II*\0" + struct.pack("<IHHHII", 8, 1, 0x0112, 3, 1, orientation) + b"\0\0\0\0"
    segment = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


def test_photos_are_turned_as_exif_says(tmp_path: Path) -> None:
    """The same face stored upright, lying on its side with a tag, and upside down with a tag."""
    folder = tmp_path / "in"
    folder.mkdir()
    color = np.dstack([_face()] * 3)
    for name, orientation, turn in (
        ("1.jpg", 1, None),
        ("6.jpg", 6, cv2.ROTATE_90_COUNTERCLOCKWISE),
        ("3.jpg", 3, cv2.ROTATE_180),
    ):
        stored = color if turn is None else cv2.rotate(color, turn)
        encoded = cv2.imencode(".jpg", stored, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
        (folder / name).write_bytes(_with_orientation(encoded, orientation))
    assert main([str(folder), str(tmp_path / "out"), "--workers", "1", "--quiet"]) == 0
    crops = [cv2.imread(str(tmp_path / "out" / name)).astype(int) for name in ("1.jpg", "6.jpg", "3.jpg")]
    assert np.abs(crops[1] - crops[0]).mean() < 3 and np.abs(crops[2] - crops[0]).mean() < 3


@pytest.mark.slow
def test_a_killed_run_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    photos = tmp_path / "in"
    for person in ("s1", "s2", "s3"):
        shutil.copytree(ORL / person, photos / person)
    assert main([str(photos), str(tmp_path / "whole"), "--workers", "1", "--quiet"]) == 0
    flags = ["--workers", "2", "--quiet"]
    command = [sys.executable, "data_tools/align_faces.py", str(photos), str(tmp_path / "cut"), *flags]
    running = subprocess.Popen(command, cwd=ROOT)
    journal = tmp_path / "cut" / ".align" / "journal.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and running.poll() is None:
        if journal.is_file() and journal.read_bytes().count(b"\n") >= 5:
            break
        time.sleep(0.01)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert journal.is_file() and not (tmp_path / "cut" / "align.jsonl").exists()
    with open(journal, "ab") as handle:
        handle.write(b'{"key": "s3/9.p')  # a line cut short
    assert subprocess.run(command, cwd=ROOT).returncode == 0
    assert files_below(tmp_path / "cut") == files_below(tmp_path / "whole")


def test_a_second_run_takes_the_landmarks_of_the_first(tmp_path: Path) -> None:
    photos = tmp_path / "in"
    shutil.copytree(ORL / "s1", photos / "s1")
    assert main([str(photos), str(tmp_path / "first"), "--workers", "1", "--quiet"]) == 0
    known = ["--landmarks", str(tmp_path / "first" / "align.jsonl"), "--quiet", "--workers", "1"]
    assert main([str(photos), str(tmp_path / "again"), *known]) == 0
    first, again = files_below(tmp_path / "first"), files_below(tmp_path / "again")
    del first["align.json"], again["align.json"]
    assert first == again


def test_other_settings_do_not_continue_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos, output = tmp_path / "in", tmp_path / "out"
    photos.mkdir()
    shutil.copy(ORL / "s1" / "1.pgm", photos)
    assert main([str(photos), str(output), "--workers", "1", "--quiet"]) == 0
    assert main([str(photos), str(output), "--workers", "1", "--quiet"]) == 1
    assert "holds crops already; expected a new OUT; pass --overwrite to replace it" in capsys.readouterr().err
    assert main([str(photos), str(output), "--workers", "1", "--quiet", "--overwrite", "--size", "64"]) == 0
    assert cv2.imread(str(output / "1.pgm.jpg")).shape == (64, 64, 3)


def test_no_photos_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    assert main([str(tmp_path / "in"), str(tmp_path / "out")]) == 1
    assert (
        "holds no image; expected a folder of identity folders or a folder of images; check the path"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "bad",
    [
        "{",
        "[]",
        "[" * 100_000,
        '{"photo": "1.pgm", "status": "ok"}',
        '{"photo": 1, "status": "ok", "faces": []}',
        '{"photo": "1.pgm", "status": "ok", "faces": [{"box": [1, 2, 3], "landmarks": [], "score": 1}]}',
        '{"photo": "1.pgm", "status": "ok", "faces": [{"box": [1, 2, 3, 4], "landmarks": [1, 2], "score": 1}]}',
        '{"photo": "1.pgm", "status": "ok", "faces": [{"box": [1, 2, 3, NaN], "landmarks": '
        '[[1, 2], [3, 4], [5, 6], [7, 8], [9, 0]], "score": 1}]}',
        '{"photo": "1.pgm", "status": "ok", "faces": [3]}',
    ],
)
def test_landmarks_of_another_kind_are_refused(bad: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(ORL / "s1" / "1.pgm", tmp_path / "in")
    (tmp_path / "old.jsonl").write_text(f'{{"photo": "0.pgm", "status": "no_face", "faces": []}}\n{bad}\n')
    known = ["--landmarks", str(tmp_path / "old.jsonl")]
    assert main([str(tmp_path / "in"), str(tmp_path / "out"), *known, "--workers", "1", "--quiet"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "old.jsonl:2: " in line and "expected a line of an align.jsonl; let align_faces.py write it" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "."], "pnet.pt: no such file; expected MTCNN's weights"),
        (["--detector", "dlib", "--model", "."], "face_landmarks.dat: no such file; expected dlib's model"),
        (["--detector", "scrfd"], "scrfd: needs an ONNX file, such as insightface's det_10g.onnx; give it"),
        (["--detector", "scrfd", "--model", "none.onnx"], "none.onnx: no such file; expected"),
    ],
)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_missing_models_are_one_line(
    flags: list[str], message: str, workers: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("dlib")
    pytest.importorskip("onnxruntime")
    (tmp_path / "in").mkdir()
    shutil.copy(ORL / "s1" / "1.pgm", tmp_path / "in")
    assert main([str(tmp_path / "in"), str(tmp_path / "out"), *flags, "--workers", workers, "--quiet"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def test_two_photos_cannot_share_a_crop() -> None:
    assert crop_names(["x.jpg", "x.png", "y.JPG"]) == {"x.jpg": "x.jpg", "x.png": "x.png.jpg", "y.JPG": "y.JPG"}
    with pytest.raises(DataError, match=r"x\.png\.jpg: would be the crop of two photos"):
        crop_names(["x.png", "x.png.jpg"])


def test_the_policies_differ_where_a_large_face_stands_aside() -> None:
    boxes = np.array([[40, 40, 60, 60], [0, 0, 30, 30], [90, 90, 95, 95]], np.float32)
    faces = Faces(boxes, np.zeros((3, 5, 2), np.float32), np.array([0.9, 0.8, 0.99], np.float32))
    assert choose_faces(faces, "largest", (100, 100)).tolist() == [1]
    assert choose_faces(faces, "center", (100, 100)).tolist() == [0]
    assert choose_faces(faces, "all", (100, 100)).tolist() == [1, 0, 2]
    assert choose_faces(faces, "refuse", (100, 100)).tolist() == []
    assert choose_faces(faces.select(np.array([2])), "refuse", (100, 100)).tolist() == [0]
