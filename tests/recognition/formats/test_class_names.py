"""Names of people beside a packed set: written by pack_rec, read with every line checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recognition.commands import pack_rec, unpack_rec
from recognition.errors import DataError
from recognition.formats.class_names import class_of_name, names_path, read_class_names, write_class_names
from recognition.images.codec import encode_jpeg


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    for person in ("Zoë", "Ada Lee"):
        (tmp_path / "faces" / person).mkdir(parents=True)
        (tmp_path / "faces" / person / "0.jpg").write_bytes(encode_jpeg(np.full((32, 32, 3), 99, np.uint8)))
    return tmp_path / "faces"


def test_packing_keeps_the_names_of_the_folders(faces: Path, tmp_path: Path) -> None:
    assert pack_rec.main([str(faces), str(tmp_path / "set" / "train"), "--quiet"]) == 0
    path = names_path(tmp_path / "set" / "train.rec")
    assert path.read_text(encoding="utf-8") == "Ada Lee\nZoë\n"
    assert class_of_name(read_class_names(path)) == {"Ada Lee": 0, "Zoë": 1}


def test_a_list_whose_folders_are_not_its_people_has_no_names(faces: Path, tmp_path: Path) -> None:
    lines = ["1\t0\tZoë/0.jpg", "2\t1\tAda Lee/0.jpg"]
    for name, text, expected in (
        ("good", lines, ["Zoë", "Ada Lee"]),
        ("twice", [lines[0], "2\t1\tZoë/0.jpg"], None),
    ):
        (tmp_path / f"{name}.lst").write_text("\n".join(text) + "\n", encoding="utf-8")
        prefix = tmp_path / name / "train"
        assert pack_rec.main([str(tmp_path / f"{name}.lst"), str(prefix), "--root", str(faces), "--quiet"]) == 0
        path = names_path(prefix.with_suffix(".rec"))
        assert (read_class_names(path) if path.exists() else None) == expected


def test_names_come_through_unpacking_and_packing_again(faces: Path, tmp_path: Path) -> None:
    assert pack_rec.main([str(faces), str(tmp_path / "set" / "train"), "--quiet"]) == 0
    out = tmp_path / "out"
    assert unpack_rec.main([str(tmp_path / "set" / "train.rec"), str(out), "--quiet"]) == 0
    assert read_class_names(out / "images.names") == ["Ada Lee", "Zoë"]
    assert pack_rec.main([str(out / "images.lst"), str(tmp_path / "again" / "train"), "--quiet"]) == 0
    assert read_class_names(tmp_path / "again" / "train.names") == ["Ada Lee", "Zoë"]
    (tmp_path / "set" / "train.names").unlink()
    assert unpack_rec.main([str(tmp_path / "set" / "train.rec"), str(out), "--overwrite", "--quiet"]) == 0
    assert not (out / "images.names").exists(), "what the set has not, the folder does not keep of an earlier one"


def test_the_names_beside_a_list_come_before_its_folders(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lst, names = tmp_path / "some.lst", tmp_path / "some.names"
    lst.write_text("1\t0\tZoë/0.jpg\n2\t1\tAda Lee/0.jpg\n", encoding="utf-8")
    names.write_text("Zed\nZoë\n", encoding="utf-8")
    pack = [str(lst), str(tmp_path / "set" / "train"), "--root", str(faces), "--quiet", "--overwrite"]
    assert pack_rec.main(pack) == 0
    assert read_class_names(tmp_path / "set" / "train.names") == ["Zed", "Zoë"]
    names.write_text("Zed\n", encoding="utf-8")
    assert pack_rec.main(pack) == 1
    assert "some.names: has 1 names, but Ada Lee/0.jpg is of class 1" in capsys.readouterr().err
    names.write_bytes(b"")
    assert pack_rec.main(pack) == 0
    assert not (tmp_path / "set" / "train.names").exists(), "an empty file says that nobody has a name"


def test_classes_without_a_name_are_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "train.names"
    assert write_class_names(path, {0: "Ann", 2: "Bea", 1: ""})
    assert path.read_bytes() == b"Ann\n\nBea\n" and read_class_names(path) == ["Ann", "", "Bea"]
    assert not write_class_names(tmp_path / "none", {0: ""}) and not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Ann\nBea\nAnn\n", r"train.names:3: 'Ann' again, as in line 1; expected each name once"),
        (b"Ann\n" + b"B" * 1025, r"train.names:2: 'BBB.*at most 1,024 characters"),
        (b"a/b\n", r"train.names:1: 'a/b'; expected a name"),
        (b"a\x1b[2J\n", r"train.names:1: .*expected a name of one line"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "train.names").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_class_names(tmp_path / "train.names")
