"""Names and photos that a folder from the wild may hold, through align, crop and embed, without any weights."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from recognition.commands import align_faces, crop_boxes, embed_faces
from recognition.detection.alignment import ARCFACE_TEMPLATE
from recognition.detection.faces import Faces
from recognition.embedding import models as embedders
from recognition.embedding.store import read_embeddings
from recognition.images.codec import encode_jpeg
from recognition.work.work_folder import WorkFolder
from tests.helpers.kill_steps import FewFaces, FewNumbers

NAMES = ["plain", "two words", "quo'te\"s", "Zoë 文", "a..b", "new\nline", "tab\ty", "%s{0}", "-dash", "c,o;m|m"]
BAD = {
    "junk.jpg": b"no photo",
    "empty.jpg": b"",
    "cut.jpg": encode_jpeg(np.zeros((64, 64, 3), np.uint8))[:300],
    "huge.ppm": b"P6\n20000 10000\n255\n",
}


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photos under odd names, bad ones, and stand-ins for the networks."""
    monkeypatch.setattr(align_faces, "build_detector", lambda *args, **kwargs: FewFaces())
    monkeypatch.setattr(embedders, "load_embedder", lambda *args, **kwargs: FewNumbers())
    root = tmp_path / "up" / "photos"
    for name in [*NAMES, "bad"]:
        (root / name).mkdir(parents=True)
        (root / name / f"{name}.jpg").write_bytes(encode_jpeg(np.full((64, 64, 3), 120, np.uint8)))
    for name, content in BAD.items():
        (root / "bad" / name).write_bytes(content)
    (root / "bad" / "pixel.png").write_bytes(cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))[1].tobytes())
    os.mkfifo(root / "bad" / "pipe.jpg")
    return root


def _lines(path: Path) -> dict[str, dict[str, str]]:
    return {line["photo"]: line for line in map(json.loads, path.read_text().splitlines())}


def _embed_what_is_left(crops: Path, output: Path) -> None:
    assert embed_faces.main([str(crops), str(output), "--model", "dlib", "--device", "cpu", "--quiet"]) == 0
    names = sorted(f"{name}/{name}.jpg" for name in [*NAMES, "bad"])
    assert read_embeddings(output).keys == names
    found = {str(path.relative_to(crops)) for path in crops.rglob("*.jpg")}
    assert found == set(names)


def test_aligning_gives_each_photo_its_line(photos: Path, tmp_path: Path) -> None:
    around = photos / ".." / "photos"
    assert align_faces.main([str(around), str(tmp_path / "out"), "--workers", "1", "--quiet"]) == 0
    lines = _lines(tmp_path / "out" / "align.jsonl")
    assert {line["status"] for name, line in lines.items() if not name.startswith("bad/")} == {"ok"}
    bad = {name.removeprefix("bad/"): line["status"] for name, line in lines.items() if name.startswith("bad/")}
    assert bad == {"bad.jpg": "ok", "pixel.png": "no_face", **dict.fromkeys([*BAD, "pipe.jpg"], "unreadable")}
    assert all(line["reason"].startswith(f"{name}: ") for name, line in lines.items() if "reason" in line)
    _embed_what_is_left(tmp_path / "out", tmp_path / "embedded")


def test_cropping_gives_each_row_its_line(photos: Path, tmp_path: Path) -> None:
    rows = [(f"{name}/{name}", 4, 4, 50, 50) for name in [*NAMES, "bad"]]
    rows += [(f"bad/{name}", 0, 0, 50, 50) for name in [*BAD, "pipe", "pixel.png", "n" * 5000, "bad.jpg/x"]]
    with open(tmp_path / "table.csv", "w", newline="", encoding="utf-8-sig") as handle:
        csv.writer(handle).writerows([("NAME_ID", "X", "Y", "W", "H"), *rows, ("plain", 1, 1, 50, 50)])
    flags = ["--workers", "1", "--quiet", "--min-size", "20"]
    around, table = photos / ".." / "photos", str(tmp_path / "table.csv")
    assert crop_boxes.main([str(around), table, str(tmp_path / "out"), *flags]) == 0
    lines = _lines(tmp_path / "out" / "crops.jsonl")
    assert len(lines) == len(rows) + 1
    statuses = {name: line["status"] for name, line in lines.items()}
    assert {name for name, status in statuses.items() if status == "ok"} == {f"{n}/{n}" for n in [*NAMES, "bad"]}
    assert statuses.pop("bad/pixel.png") == "too_small"
    assert all(line["reason"].count("\n") == 0 for line in lines.values() if "reason" in line)
    _embed_what_is_left(tmp_path / "out", tmp_path / "embedded")


def test_a_face_beside_the_photo_is_not_cut_out_of_it(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("NAME_ID,X,Y,W,H\nplain/plain,64,0,9,9\na..b/a..b,-9,-9,9.5,9.5\n")
    arguments = [str(photos), str(tmp_path / "table.csv"), str(tmp_path / "out"), "--workers", "1", "--quiet"]
    assert crop_boxes.main(arguments) == 0
    lines = _lines(tmp_path / "out" / "crops.jsonl")
    assert lines["a..b/a..b"]["status"] == "ok"
    assert "64 x 64 pixels, and the face at 64, 0 is outside them" in lines["plain/plain"]["reason"]


def test_of_a_photo_with_one_bad_face_nothing_is_left(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OneBad:
        def detect(self, rgb: np.ndarray) -> Faces:
            landmarks = np.stack([ARCFACE_TEMPLATE, np.full((5, 2), 7.0)]).astype(np.float32)
            boxes = np.array([[0, 0, 60, 60], [0, 0, 50, 50]], np.float32)
            return Faces(boxes, landmarks, np.ones(2, np.float32))

    monkeypatch.setattr(align_faces, "build_detector", lambda *args, **kwargs: OneBad())
    arguments = [str(photos / "plain"), str(tmp_path / "out"), "--workers", "1", "--quiet", "--faces", "all"]
    assert align_faces.main(arguments) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["align.json", "align.jsonl"]
    assert "coincide in one point" in _lines(tmp_path / "out" / "align.jsonl")["plain.jpg"]["reason"]


@pytest.mark.parametrize("command", ["align", "crop", "embed"])
@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_two_runs_at_once_are_refused(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, more: list[str]
) -> None:
    (tmp_path / "table.csv").write_text("NAME_ID,X,Y,W,H\nplain/plain,1,1,50,50\n")
    faces, output = str(photos / "plain"), str(tmp_path / "out")
    module, work, arguments = {
        "align": (align_faces, ".align", [faces, output]),
        "crop": (crop_boxes, ".crops", [str(photos), str(tmp_path / "table.csv"), output]),
        "embed": (embed_faces, ".embed", [faces, output, "--model", "dlib", "--device", "cpu"]),
    }[command]
    with WorkFolder(tmp_path / "out", work, ("all.json",), "it").hold():
        assert module.main([*arguments, "--workers", "1", "--quiet", *more]) == 1
    assert "out: another run is at work in it" in capsys.readouterr().err
    assert module.main([*arguments, "--workers", "1", "--quiet", *more]) == 0


def test_the_policy_of_older_versions_is_taken_with_a_line_that_names_the_new(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for word in ("center", "centre"):
        assert align_faces.main([str(photos), str(tmp_path / word), "--faces", word, "--workers", "1", "--quiet"]) == 0
    assert capsys.readouterr().err == "--faces centre is called --faces center now\n"
    for name in ("align.json", "align.jsonl"):
        assert (tmp_path / "centre" / name).read_bytes() == (tmp_path / "center" / name).read_bytes()
