"""crop_boxes.py: squares that stay inside the photo, landmarks, and tables that are wrong."""

from __future__ import annotations

import csv
import io
import json
import shutil
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recognition.commands.crop_boxes import main, square_inside
from recognition.detection.alignment import align
from recognition.images.codec import decode_rgb, encode_jpeg

LANDMARK_HEADER = "NAME_ID,P1X,P1Y,P2X,P2Y,P3X,P3Y,P4X,P4Y,P5X,P5Y"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for person in ("n1", "n 2", "n3"):
        folder = tmp_path / "photos" / person
        folder.mkdir(parents=True)
        for i in range(2):
            smooth = cv2.resize(generator.integers(0, 256, (12, 16, 3), np.uint8), (160, 120))
            (folder / f"{i:04}_01.jpg").write_bytes(encode_jpeg(smooth, 98))
    return tmp_path / "photos"


def _crop(photos: Path, table: str, output: Path, *flags: str) -> int:
    path = output.parent / "table.csv"
    path.write_text(table)
    return main([str(photos), str(path), str(output), "--quiet", "--workers", "1", *flags])


@given(
    st.tuples(st.floats(-50, 200), st.floats(-50, 200), st.floats(1, 300), st.floats(1, 300)),
    st.floats(0, 1),
    st.tuples(st.integers(1, 200), st.integers(1, 200)),
)
def test_squares_lie_inside_the_picture(
    box: tuple[float, float, float, float], margin: float, picture: tuple[int, int]
) -> None:
    left, top, side = square_inside(box, margin, picture)
    assert left >= 0 and top >= 0 and left + side <= picture[1] and top + side <= picture[0]
    wanted = max(1, round(max(box[2:]) * (1 + 2 * margin)))
    assert side == min(wanted, *picture)


def test_a_square_over_the_edge_is_moved_not_padded(photos: Path, tmp_path: Path) -> None:
    table = 'NAME_ID,X,Y,W,H\n"n1/0000_01",-20,10,60,40\n"n 2/0001_01",150,100,30,20\n"n3/0000_01",5,5,9,9\n'
    assert _crop(photos, table, tmp_path / "out", "--min-size", "10", "--size", "60") == 0
    rgb = decode_rgb((photos / "n1" / "0000_01.jpg").read_bytes(), place="photo")
    crop = decode_rgb((tmp_path / "out" / "n1" / "0000_01.jpg").read_bytes(), place="crop")
    assert np.abs(crop.astype(int) - rgb[0:60, 0:60]).mean() < 3
    lines = [json.loads(line) for line in (tmp_path / "out" / "crops.jsonl").read_text().splitlines()]
    assert [(line["photo"], line["status"]) for line in lines] == [
        ("n 2/0001_01", "ok"),
        ("n1/0000_01", "ok"),
        ("n3/0000_01", "too_small"),
    ]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["crops.jsonl", "n 2", "n1"]


def test_landmarks_align(photos: Path, tmp_path: Path) -> None:
    points = [60.0, 50, 90, 50, 75, 65, 62, 85, 88, 85]
    assert _crop(photos, f"{LANDMARK_HEADER}\nn1/0001_01,{','.join(map(str, points))}\n", tmp_path / "out") == 0
    rgb = decode_rgb((photos / "n1" / "0001_01.jpg").read_bytes(), place="photo")
    crop = decode_rgb((tmp_path / "out" / "n1" / "0001_01.jpg").read_bytes(), place="crop")
    expected = align(rgb, np.array(points).reshape(5, 2), 112)
    assert np.abs(crop.astype(int) - expected).mean() < 3


def test_only_the_first_people(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = "NAME_ID,X,Y,W,H\n" + "".join(f"{p}/000{i}_01,10,10,50,50\n" for p in ("n1", "n 2", "n3") for i in (0, 1))
    assert _crop(photos, table, tmp_path / "out", "--people", "2", "--workers", "2") == 0
    assert "cropped 4 faces of 4 rows, 0 too small, 0 unreadable" in capsys.readouterr().out
    assert not (tmp_path / "out" / "n3").exists()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("NAME,X,Y\nn1/0000_01,1,2\n", r":1: has the columns NAME, X, Y; expected NAME_ID with X, Y, W, H or with P1X"),
        ("", r":1: has the columns of an empty file; expected NAME_ID"),
        ("NAME_ID,X,Y,W,H\nn1/0000_01,1,2,x,4\n", r":2: 'n1/0000_01,1,2,x,4'; expected a name and numbers"),
        ("NAME_ID,X,Y,W,H\nn1/0000_01,1,2,0,4\n", r"expected numbers of pixels and sides above zero"),
        ("NAME_ID,X,Y,W,H\nn1/0000_01,1,2,3,inf\n", r"expected numbers of pixels and sides above zero"),
        ("NAME_ID,X,Y,W,H\nn1/0000_01,nan,2,3,4\n", r"expected numbers of pixels and sides above zero"),
        (f"{LANDMARK_HEADER}\nn1/0000_01,1e308,2,3,4,5,6,7,8,9,10\n", r"expected numbers of pixels"),
        ("NAME_ID,X,Y,W,H\nn1/0000_01,1,2\n", r":2: 'n1/0000_01,1,2'; expected a name and numbers"),
        ("NAME_ID,X,Y,W,H\n../secret,1,2,3,4\n", r"'../secret' leaves the folder of photos"),
        (
            "NAME_ID,X,Y,W,H\na,1,2,3,4\na,1,2,3,4\n",
            r":3: 'a' gives the crop of 'a' in line 2; expected one face a photo",
        ),
        ("NAME_ID,X,Y,W,H\na,1,2,3,4\na.jpg,1,2,3,4\n", r":3: 'a.jpg' gives the crop of 'a' in line 2"),
        ("NAME_ID,X,Y,W,H\nn1//a,1,2,3,4\n./n1/a,1,2,3,4\n", r":3: './n1/a' gives the crop of 'n1//a' in line 2"),
        ("NAME_ID,X,Y,W,H\n.crops/a,1,2,3,4\n", r".crops/a.jpg: would lie upon this command's own files"),
        ("NAME_ID,X,Y,W,H\n/etc/a,1,2,3,4\n", r"'/etc/a' leaves the folder of photos"),
        ("NAME_ID,X,Y,W,H\nn1/..,1,2,3,4\n", r"'n1/..' leaves the folder of photos"),
        ("NAME_ID,X,Y,W,H\n", r"has no rows"),
    ],
)
def test_wrong_tables_are_one_line(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], table: str, message: str
) -> None:
    assert _crop(photos, table, tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_bad_photos_get_a_line_and_the_others_their_crops(photos: Path, tmp_path: Path) -> None:
    names = ("junk", "one pixel", "huge", "n1/0000_01", "qu\"o'te <日本>")
    (photos / "junk.jpg").write_bytes(b"no photo")
    (photos / "one pixel.jpg").write_bytes(encode_jpeg(np.zeros((1, 1, 3), np.uint8)))
    large = bytearray(encode_jpeg(np.zeros((8, 8, 3), np.uint8)))
    at = large.index(b"\xff\xc0") + 5
    large[at : at + 4] = struct.pack(">HH", 10_000, 20_000)
    (photos / "huge.jpg").write_bytes(large)
    shutil.copy(photos / "n1" / "0000_01.jpg", photos / f"{names[-1]}.jpg")
    table = io.StringIO()
    csv.writer(table).writerows([["NAME_ID", "X", "Y", "W", "H"], *([name, 1, 2, 30, 40] for name in names)])
    assert _crop(photos, table.getvalue(), tmp_path / "out") == 0
    lines = {line["photo"]: line for line in map(json.loads, (tmp_path / "out" / "crops.jsonl").open())}
    assert [lines[name]["status"] for name in names] == [*["unreadable"] * 3, "ok", "ok"]
    assert "20000 x 10000 pixels; expected at most" in lines["huge"]["reason"]
    assert (tmp_path / "out" / f"{names[-1]}.jpg").is_file()


def test_photos_that_are_missing_get_a_line(photos: Path, tmp_path: Path) -> None:
    assert _crop(photos, "NAME_ID,X,Y,W,H\nn9/none,1,2,30,40\n", tmp_path / "out") == 0
    line = json.loads((tmp_path / "out" / "crops.jsonl").read_text())
    assert line["status"] == "unreadable" and "n9/none.jpg: cannot be read" in line["reason"]
