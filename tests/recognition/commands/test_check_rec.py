"""check_rec: every kind of damage is found and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from recognition.commands.check_rec import histogram, main
from recognition.commands.pack_rec import main as pack
from recognition.formats.recordio import RecordWriter, pack_image, pack_payload
from tests.helpers.places import MXNET_GOLDEN


@pytest.fixture
def rec(tmp_path: Path) -> Path:
    """A sound set of three people with 3, 1 and 2 pictures."""
    assert pack([str(MXNET_GOLDEN / "faces"), str(tmp_path / "set" / "train"), "--quiet"]) == 0
    return tmp_path / "set" / "train.rec"


def _edit(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


@pytest.mark.parametrize("name", ["insightface", "im2rec_scalar", "im2rec_labels"])
def test_what_mxnet_wrote_is_sound(name: str, capsys) -> None:
    assert main([str(MXNET_GOLDEN / f"{name}.rec")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[1] == "  6 images of 8 x 8"
    assert out[-1].startswith("checked 6 images, 3 identities, 0 problems in ")


def test_prints_a_histogram_of_images_per_identity(rec: Path, capsys) -> None:
    assert main([str(rec.parent)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"{rec}: insightface layout, ")
    assert [line.split() for line in out[3:5]] == [["1", "1", "#" * 20], ["2-3", "2", "#" * 40]]


def test_histogram_counts_every_identity_once() -> None:
    counts = np.array([1, 2, 3, 4, 7, 8, 1000])
    rows = histogram(counts)
    assert rows[:4] == [(1, 1, 1), (2, 3, 2), (4, 7, 2), (8, 15, 1)]
    assert rows[-1] == (512, 1023, 1)
    assert sum(number for _, _, number in rows) == len(counts)
    assert histogram(np.array([], dtype=np.int64)) == []


def test_json_holds_the_same(rec: Path, capsys) -> None:
    assert main([str(rec), "--json", "--workers", "1"]) == 0
    report = json.loads(capsys.readouterr().out)
    counts = [report[name] for name in ("layout", "num_records", "num_images", "num_classes")]
    assert counts == ["insightface", 10, 6, 3]
    assert report["sizes"] == [[8, 8, 6]]
    assert report["images_per_identity"] == [[1, 1, 1], [2, 3, 2]]
    assert (report["num_problems"], report["problems"]) == (0, [])


def _spoil_picture(rec: Path) -> None:
    _edit(rec, b"\x89PNG", b"PNG!")


def _leave_a_hole(rec: Path) -> None:
    idx = rec.with_suffix(".idx")
    idx.write_text("".join(line for line in idx.read_text().splitlines(True) if not line.startswith("2\t")))


def _append_bytes(rec: Path) -> None:
    rec.write_bytes(rec.read_bytes() + bytes(12))


def _prepend_bytes(rec: Path) -> None:
    rows = [line.split("\t") for line in rec.with_suffix(".idx").read_text().splitlines()]
    rec.with_suffix(".idx").write_text("".join(f"{key}\t{int(offset) + 4}\n" for key, offset in rows))
    rec.write_bytes(bytes(4) + rec.read_bytes())


def _truncate(rec: Path) -> None:
    rec.write_bytes(rec.read_bytes()[:-4])


def _raise_label(rec: Path) -> None:
    content = bytearray(rec.read_bytes())
    content[12:16] = np.float32(9).tobytes()
    rec.write_bytes(content)


def _move_label(rec: Path) -> None:
    content = bytearray(rec.read_bytes())
    offset = int(rec.with_suffix(".idx").read_text().splitlines()[2].split("\t")[1])
    content[offset + 12 : offset + 16] = np.float32(1).tobytes()
    rec.write_bytes(content)


def _wrong_property(rec: Path) -> None:
    rec.with_name("property").write_text("5,112,112\n")


def _lose_index(rec: Path) -> None:
    rec.with_suffix(".idx").unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_spoil_picture, "record 6 at offset 3916: not an image"),
        (_leave_a_hole, "780 bytes from 788 on are in no record of the index"),
        (_append_bytes, "12 bytes from 4376 on are in no record of the index"),
        (_prepend_bytes, "4 bytes at its start are in no record of the index"),
        (_truncate, "record 0 at offset 4336: needs 40 bytes, but only 36 are left"),
        (_raise_label, "record 1 at offset 0: label 9 is outside [0, 3)"),
        (_move_label, "record 7 at offset 4216: says keys [1, 4) are one identity, but the labels say [1, 3)"),
        (_wrong_property, "property: says 112 x 112 pixels, the first image has 8 x 8"),
        (_lose_index, "train.idx: missing; pass --write-idx to have it written"),
    ],
)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_damage_is_named(rec: Path, capsys, damage: Callable[[Path], None], words: str, workers: str) -> None:
    damage(rec)
    assert main([str(rec), "--workers", workers]) == 1
    captured = capsys.readouterr()
    assert words in captured.out + captured.err.splitlines()[-1]
    assert captured.err.splitlines()[-1].startswith("check_rec: error: ")


def test_many_problems_are_counted_and_the_first_are_named(tmp_path: Path, capsys) -> None:
    with open(tmp_path / "x.rec", "wb") as rec, open(tmp_path / "x.idx", "wb") as idx:
        writer = RecordWriter(rec, idx)
        for key in range(25):
            writer.write(key, pack_image(key, b"" if key == 3 else b"junk", record_id=key))
    assert main([str(tmp_path / "x")]) == 1
    captured = capsys.readouterr()
    assert captured.out.count("problem: ") == 10
    assert "record 3 at offset 108: holds no image (label 3, flag 0)" in captured.out
    assert "and 15 further problems" in captured.out
    assert "0 of 25 classes have an image" in captured.out
    assert captured.err.splitlines()[-1].startswith(f"check_rec: error: {tmp_path / 'x.rec'}: 25 problems; the first: ")


def test_mixed_sizes_and_wrong_identity_records_are_found(tmp_path: Path, capsys) -> None:
    small = (MXNET_GOLDEN / "faces" / "ada" / "0.jpg").read_bytes()
    large = _large_picture()
    rows = [(1, pack_image(0, small, record_id=1)), (2, pack_image(1, large, record_id=2))]
    rows += [(3, pack_payload((1.0, 3.0), b"")), (0, pack_payload((3.0, 4.0), b"", id2=1))]
    with open(tmp_path / "x.rec", "wb") as rec, open(tmp_path / "x.idx", "wb") as idx:
        writer = RecordWriter(rec, idx)
        for key, payload in rows:
            writer.write(key, payload)
    assert main([str(tmp_path / "x")]) == 1
    out = capsys.readouterr().out
    assert "16 x 24 pixels, but the first image has 8 x 8" in out
    assert "1 identity records for 2 runs of equal labels" in out


def _large_picture() -> bytes:
    return cv2.imencode(".png", np.zeros((24, 16, 3), np.uint8))[1].tobytes()


def test_a_lost_index_is_written_when_asked(rec: Path, capsys) -> None:
    listed = rec.with_suffix(".idx").read_bytes()
    rec.with_suffix(".idx").unlink()
    assert main([str(rec), "--write-idx"]) == 0
    assert rec.with_suffix(".idx").read_bytes() == listed


def test_a_copy_elsewhere_is_as_sound(rec: Path, tmp_path: Path) -> None:
    shutil.copytree(rec.parent, tmp_path / "copy")
    assert main([str(tmp_path / "copy"), "--quiet"]) == 0


def test_near_duplicates_are_told_within_and_across_identities(tmp_path: Path, capsys) -> None:
    rng = np.random.default_rng(0)
    pictures = [cv2.resize(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8), (32, 32)) for _ in range(4)]
    layout = {"ada": [0, 1, 0], "bea": [2, 3], "cyd": [3]}
    for person, numbers in layout.items():
        (tmp_path / "faces" / person).mkdir(parents=True)
        for k, number in enumerate(numbers):
            quality = [cv2.IMWRITE_JPEG_QUALITY, 95 - 5 * k]
            (tmp_path / "faces" / person / f"{k}.jpg").write_bytes(
                cv2.imencode(".jpg", pictures[number], quality)[1].tobytes()
            )
    assert pack([str(tmp_path / "faces"), str(tmp_path / "set" / "train")]) == 0
    capsys.readouterr()
    png = tmp_path / "histogram.png"
    assert main([str(tmp_path / "set"), "--duplicates", "--png", str(png)]) == 0
    out = capsys.readouterr().out
    assert "1 pair of near-duplicates in one identity: keys 1 and 3\n" in out
    assert "1 pair of near-duplicates in two identities: keys 5 and 6\n" in out
    assert cv2.imread(str(png)) is not None
    assert main([str(tmp_path / "set"), "--duplicates", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["near_duplicates"] == {
        "within_identities": 1,
        "within_identities_keys": [[1, 3]],
        "across_identities": 1,
        "across_identities_keys": [[5, 6]],
    }
