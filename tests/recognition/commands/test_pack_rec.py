"""pack_rec: the bytes it writes, the lists it reads, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from recognition.commands.pack_rec import main
from recognition.formats.records import ImageRecords
from recognition.images.codec import decode_rgb
from tests.helpers.places import MXNET_GOLDEN, ROOT


def _picture(path: Path, seed: int, *, width: int = 8, height: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), pixels)


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Three people with 3, 1 and 2 pictures."""
    folder = tmp_path / "faces"
    shutil.copytree(MXNET_GOLDEN / "faces", folder)
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.splitlines()[-1]


def test_default_layout_is_insightfaces_byte_for_byte(faces: Path, tmp_path: Path, capsys) -> None:
    assert main([str(faces), str(tmp_path / "out" / "train")]) == 0
    files = _files(tmp_path / "out")
    assert files["train.rec"] == (MXNET_GOLDEN / "insightface.rec").read_bytes()
    assert files["train.idx"] == (MXNET_GOLDEN / "insightface.idx").read_bytes()
    assert files["property"] == b"3,8,8\n"
    assert files["train.lst"].startswith(b"1\t0\tada/0.jpg\n2\t0\tada/1.jpg\n3\t0\tada/2.jpg\n4\t1\tbea/0.jpg\n")
    assert capsys.readouterr().out.startswith("packed 6 images, 3 identities, 0 skipped in ")


def test_bytes_are_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    for k in range(100):
        _picture(tmp_path / "faces" / f"p{k % 7}" / f"{k}.jpg", k, width=16, height=16)
    sets = []
    for workers in (1, 2, 5):
        out = tmp_path / f"out{workers}"
        assert main([str(tmp_path / "faces"), f"{out}/", "--workers", str(workers), "--size", "8"]) == 0
        sets.append(_files(out))
    assert sets[0] == sets[1] == sets[2]
    assert len(sets[0]["train.idx"].splitlines()) == 100 + 7 + 1


@pytest.mark.parametrize("form", ["im2rec", "older"])
def test_a_lst_in_either_form_packs_like_the_folder(faces: Path, tmp_path: Path, form: str) -> None:
    # Both lists are out of order; the insightface layout sorts by label and keeps the order inside an identity.
    names = ["cyd/0.jpg", "ada/0.jpg", "bea/0.jpg", "cyd/1.png", "ada/1.jpg", "ada/2.jpg"]
    label_of = {"ada": 0, "bea": 1, "cyd": 2}
    rows = [(k, f"{label_of[name[:3]]}", name) for k, name in enumerate(names)]
    lines = [f"{k}\t{label}.000000\t{name}" if form == "im2rec" else f"1\t{name}\t{label}" for k, label, name in rows]
    lst = tmp_path / "list.lst"
    lst.write_text("\n".join(lines) + "\n")
    assert main([str(lst), str(tmp_path / "out" / "x"), "--root", str(faces)]) == 0
    assert (tmp_path / "out" / "x.rec").read_bytes() == (MXNET_GOLDEN / "insightface.rec").read_bytes()
    assert main([str(lst), str(tmp_path / "seq" / "x"), "--root", str(faces), "--layout", "sequential"]) == 0
    written = (tmp_path / "seq" / "x.lst").read_text().splitlines()
    assert written == [f"{k}\t{label}\t{name}" for k, label, name in rows]
    records = ImageRecords(tmp_path / "seq" / "x")
    assert [record.image for record in map(records.read, range(6))] == [(faces / name).read_bytes() for name in names]


def test_its_own_lst_packs_the_same_set_again(faces: Path, tmp_path: Path) -> None:
    assert main([str(faces), f"{tmp_path}/a/"]) == 0
    assert main([str(tmp_path / "a" / "train.lst"), f"{tmp_path}/b/", "--root", str(faces)]) == 0
    assert _files(tmp_path / "a") == _files(tmp_path / "b")


def test_class_ids_of_a_lst_stay_exact(faces: Path, tmp_path: Path) -> None:
    labels = [2**24 + 1, 2**24 + 2, 2**24 + 3]
    lst = faces / "big.lst"
    lst.write_text("".join(f"{k}\t{label}\tada/{k}.jpg\n" for k, label in enumerate(labels)))
    assert main([str(lst), f"{tmp_path}/out/"]) == 0
    records = ImageRecords(tmp_path / "out")
    assert [records.read(i).label for i in range(3)] == labels


def test_shuffle_is_a_permutation_given_by_the_seed(faces: Path, tmp_path: Path) -> None:
    orders = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        flags = ["--layout", "sequential", "--shuffle", "--seed", seed]
        assert main([str(faces), str(tmp_path / name / "x"), *flags]) == 0
        orders.append((tmp_path / name / "x.lst").read_bytes())
    assert orders[0] == orders[1] != orders[2]
    assert sorted(line.split(b"\t")[1:] for line in orders[0].splitlines()) == sorted(
        line.split(b"\t")[1:] for line in orders[2].splitlines()
    )


def test_size_resizes_and_quality_encodes_again(tmp_path: Path) -> None:
    _picture(tmp_path / "faces" / "a" / "0.jpg", 0, width=20, height=20)
    _picture(tmp_path / "faces" / "a" / "1.png", 1, width=8, height=8)
    assert main([str(tmp_path / "faces"), f"{tmp_path}/out/", "--size", "8"]) == 0
    records = ImageRecords(tmp_path / "out")
    images = [records.read(i).image for i in range(2)]
    assert decode_rgb(images[0], place="0").shape == (8, 8, 3)
    assert images[1] == (tmp_path / "faces" / "a" / "1.png").read_bytes(), "has the size already"
    assert main([str(tmp_path / "faces"), f"{tmp_path}/out/", "--size", "8", "--quality", "50", "--overwrite"]) == 0
    again = ImageRecords(tmp_path / "out").read(1).image
    assert again[:2] == b"\xff\xd8"
    assert len(again) < len(images[1]) * 3


def test_json_prints_one_object(faces: Path, tmp_path: Path, capsys) -> None:
    assert main([str(faces), f"{tmp_path}/out/", "--json", "--quiet"]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert counts.pop("seconds") >= 0
    assert counts == {"num_images": 6, "num_identities": 3, "num_classes": 3, "num_skipped": 0}


def _spoil(faces: Path) -> None:
    (faces / "ada" / "1.jpg").write_text("this is no picture")
    (faces / "bea" / "0.jpg").write_bytes((faces / "bea" / "0.jpg").read_bytes()[:100])


def test_bad_images_are_named_and_counted_and_nothing_is_written(faces: Path, tmp_path: Path, capsys) -> None:
    _spoil(faces)
    assert main([str(faces), f"{tmp_path}/out/"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "bea/0.jpg: " in lines[0]
    assert lines[-1].startswith("pack_rec: error: ")
    assert "ada/1.jpg: not an image" in lines[-1]
    assert lines[-1].endswith("2 bad images in all of 6; repair them, or pass --skip-bad to leave them out")
    assert _files(tmp_path / "out") == {}


def test_skip_bad_leaves_them_out_and_no_gap_in_the_labels(faces: Path, tmp_path: Path, capsys) -> None:
    _spoil(faces)
    (faces / "aaa_empty").mkdir()
    assert main([str(faces), f"{tmp_path}/out/", "--skip-bad"]) == 0
    assert capsys.readouterr().out.startswith("packed 4 images, 2 identities, 2 skipped")
    records = ImageRecords(tmp_path / "out")
    assert [records.read(i).label for i in range(4)] == [0, 0, 1, 1]
    assert records.num_classes == 2


def test_more_bad_images_than_fit_on_a_screen_are_counted(tmp_path: Path, capsys) -> None:
    for k in range(50):
        (tmp_path / "faces" / "a").mkdir(parents=True, exist_ok=True)
        (tmp_path / "faces" / "a" / f"{k}.jpg").write_bytes(b"")
    assert main([str(tmp_path / "faces"), f"{tmp_path}/out/"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21
    assert "50 bad images in all of 50" in lines[-1]
    assert main([str(tmp_path / "faces"), f"{tmp_path}/out/", "--skip-bad"]) == 1
    assert "none of its 50 images is good; nothing to pack" in _error(capsys)


def test_an_empty_identity_is_refused(faces: Path, tmp_path: Path, capsys) -> None:
    (faces / "dan").mkdir()
    (faces / "dan" / "notes.txt").write_text("none yet")
    assert main([str(faces), f"{tmp_path}/out/"]) == 1
    assert "faces/dan: holds no image, but 1 other file: .txt 1; expected .jpg, .jpeg, .jpe, .jfif or .png;" in _error(
        capsys
    )


def test_one_size_per_set(faces: Path, tmp_path: Path, capsys) -> None:
    _picture(faces / "bea" / "1.jpg", 3, width=9, height=8)
    assert main([str(faces), f"{tmp_path}/out/"]) == 1
    assert "bea/1.jpg: 9 x 8 pixels, but the images before it are 8 x 8; a set has one size; pass" in _error(capsys)
    assert main([str(faces), f"{tmp_path}/out/", "--size", "16"]) == 1
    assert "bea/1.jpg: 9 x 8 pixels; --size needs square images" in _error(capsys)
    assert _files(tmp_path / "out") == {}


@pytest.mark.parametrize("name", ["train.rec", "train.idx", "train.lst", "property"])
def test_nothing_is_replaced_without_overwrite(faces: Path, tmp_path: Path, capsys, name: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("precious")
    assert main([str(faces), str(tmp_path / "out")]) == 1
    assert f"out/{name}: exists already" in _error(capsys)
    assert _files(tmp_path / "out") == {name: b"precious"}
    assert main([str(faces), str(tmp_path / "out"), "--overwrite"]) == 0
    assert len(ImageRecords(tmp_path / "out")) == 6


def test_an_unwritable_output_is_one_line(faces: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("")
    assert main([str(faces), str(tmp_path / "file" / "train")]) == 1
    assert "cannot be written" in _error(capsys)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nonsense", r"list.lst:2: 'nonsense'; expected 'index TAB label TAB path' or '1 TAB path TAB label'"),
        ("1\t-3\tada/0.jpg", "list.lst:2: "),
        ("1\t0.5\tada/0.jpg", "list.lst:2: "),
        (f"1\t{2**32}\tada/0.jpg", "list.lst:2: "),
        ("1\t0\t", "list.lst:2: "),
        ("1\t0\t0.5\tada/0.jpg", "list.lst:2: has 2 labels; expected one class id per image"),
        ("1\t0\t../outside.jpg", "list.lst:2: '../outside.jpg' leads out of "),
        ("1\t0\t/etc/hostname", "list.lst:2: '/etc/hostname' leads out of "),
        ("1\t0\tlink/outside.jpg", "list.lst:2: 'link/outside.jpg' leads out of "),
        ("1\t0\tada/none.jpg", "ada/none.jpg: cannot be read (No such file or directory)"),
    ],
)
def test_bad_lines_of_a_lst_are_named(faces: Path, tmp_path: Path, capsys, line: str, words: str) -> None:
    _picture(tmp_path / "outside.jpg", 5)
    os.symlink(tmp_path, faces / "link")
    (tmp_path / "list.lst").write_text(f"0\t0\tada/0.jpg\n{line}\n")
    assert main([str(tmp_path / "list.lst"), f"{tmp_path}/out/", "--root", str(faces)]) == 1
    assert words in _error(capsys)
    assert _files(tmp_path / "out") == {}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--shuffle"], "--shuffle: the insightface layout is sorted; expected the other; add --layout sequential"),
        (["--quality", "101"], "--quality 101: expected 1 to 100"),
        (["--root", "x"], "--root: is for a .lst"),
    ],
)
def test_useless_flags_are_refused(faces: Path, tmp_path: Path, capsys, flags: list[str], words: str) -> None:
    assert main([str(faces), f"{tmp_path}/out/", *flags]) == 1
    assert words in _error(capsys)


def test_a_source_without_people_is_refused(tmp_path: Path, capsys) -> None:
    assert main([str(tmp_path / "nothing"), f"{tmp_path}/out/"]) == 1
    assert "nothing: no such file or folder; expected a folder of identity folders or a .lst" in _error(capsys)
    _picture(tmp_path / "flat" / "0.jpg", 0)
    assert main([str(tmp_path / "flat"), f"{tmp_path}/out/"]) == 1
    assert (
        "flat: holds no folder with an image, but 1 image of no identity; expected a folder of identity folders"
        in _error(capsys)
    )
    (tmp_path / "empty.lst").write_text("\n")
    assert main([str(tmp_path / "empty.lst"), f"{tmp_path}/out/"]) == 1
    assert "empty.lst: is empty" in _error(capsys)


def test_runs_as_a_script_from_any_folder(faces: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "data_tools" / "pack_rec.py"), "faces", "out/train"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out" / "train.rec").read_bytes() == (MXNET_GOLDEN / "insightface.rec").read_bytes()


def test_a_second_set_never_takes_over_the_property_of_the_first(faces: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert main([str(faces), str(out / "first"), "--quiet"]) == 0
    before = _files(out)
    assert main([str(faces), str(out / "second"), "--quiet", "--overwrite"]) == 1
    assert "property: belongs to first.rec; expected one set per folder" in _error(capsys)
    assert _files(out) == before
