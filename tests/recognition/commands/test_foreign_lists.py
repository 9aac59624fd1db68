"""Lists as other editors and systems write them: byte order marks, line ends, and names that are no UTF-8."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

import numpy as np
import pytest

from recognition.commands import make_pairs, pack_bin, pack_rec, unpack_rec
from recognition.formats.pairs_bin import read_pairs
from recognition.formats.records import ImageRecords
from recognition.images.codec import encode_jpeg


def faces(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_jpeg(np.full((32, 32, 3), 20 * number, np.uint8)))
    return root


def by_windows(text: str) -> bytes:
    return codecs.BOM_UTF8 + text.replace("\n", "\r\n").encode()


@pytest.mark.parametrize("text", ["a/1.jpg a/2.jpg 1\na/1.jpg b/1.jpg 0\n", "1\t1\na\t1\t2\na\t1\tb\t1\n"])
def test_both_forms_of_pairs_are_read_as_windows_writes_them(tmp_path: Path, text: str) -> None:
    root = faces(tmp_path / "f", "a/1.jpg", "a/2.jpg", "b/1.jpg", "a/a_0001.JPG", "a/a_0002.png.jpg", "b/b_0001.jpg")
    (tmp_path / "pairs").write_bytes(by_windows(text))
    assert pack_bin.main([str(tmp_path / "pairs"), str(root), str(tmp_path / "out.bin"), "--quiet"]) == 0
    assert read_pairs(tmp_path / "out.bin").is_same.tolist() == [True, False]


def test_marks_of_windows_are_read_away_from_every_file_of_a_set(tmp_path: Path) -> None:
    root = faces(tmp_path / "f", "a/1.jpg", "b/1.jpg", "b/2.jpg")
    (tmp_path / "f.lst").write_bytes(by_windows("0\t0\ta/1.jpg\n1\t1\tb/1.jpg\n2\t1\tb/2.jpg\n"))
    assert (
        pack_rec.main([str(tmp_path / "f.lst"), str(tmp_path / "set" / "train"), "--root", str(root), "--quiet"]) == 0
    )
    for name in ("train.idx", "property"):
        path = tmp_path / "set" / name
        path.write_bytes(by_windows(path.read_text()))
    records = ImageRecords(tmp_path / "set")
    assert (len(records), records.num_classes) == (3, 2)
    (tmp_path / "keys").write_bytes(by_windows("1\n3\n"))
    out = tmp_path / "out"
    assert unpack_rec.main([str(tmp_path / "set"), str(out), "--keys", f"@{tmp_path / 'keys'}", "--quiet"]) == 0
    assert sorted(path.name for path in out.rglob("*.jpg")) == ["1.jpg", "3.jpg"]


def test_pairs_of_names_that_are_no_utf_8_are_drawn_written_and_packed(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    root = faces(tmp_path / "f", f"{odd}/1.jpg", f"{odd}/2.jpg", "two words/1.jpg", "two words/2.jpg")
    pairs = tmp_path / "pairs"
    assert make_pairs.main([str(root), str(pairs), "--pairs", "4", "--folds", "1", "--quiet"]) == 0
    assert b"caf\xe9/1.jpg" in pairs.read_bytes()
    assert pack_bin.main([str(pairs), str(root), str(tmp_path / "out.bin"), "--quiet"]) == 0
    assert len(read_pairs(tmp_path / "out.bin")) == 4


@pytest.mark.parametrize("odd", ["new\nline", "tab\there"])
def test_names_that_no_list_can_hold_get_one_answer(
    tmp_path: Path, odd: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = faces(tmp_path / "f", f"{odd}/1.jpg", f"{odd}/2.jpg", "b/1.jpg", "b/2.jpg")
    assert make_pairs.main([str(root), str(tmp_path / "p"), "--pairs", "4", "--folds", "1", "--quiet"]) == 1
    assert pack_rec.main([str(root), str(tmp_path / "set" / "train"), "--quiet"]) == 1
    by_pairs, by_pack = capsys.readouterr().err.splitlines()
    answer = "has a tab or a line break, which no list can name; expected none; rename it"
    assert by_pairs.endswith(answer) and by_pack.endswith(answer) and not (tmp_path / "p").exists()
