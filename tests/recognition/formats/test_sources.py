"""What a path means is decided in one place, a folder before a set of the same name."""

from __future__ import annotations

from pathlib import Path

import pytest

from recognition.errors import DataError
from recognition.formats.sources import companions_folder, find_rec, find_source


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with one of everything."""
    for name in (
        *("people/ann/1.jpg", "people.rec", "set/train.rec", "set/ann/1.jpg", "v1.5.rec", "odd", "LOUD.REC"),
        *("wds/b.tar", "wds/a.TAR", "one.tar", "lfw.bin", "all.lst", "train.idx", "flat/1.jpg", "flat/none/a.txt"),
        *("nested/ann/2020/1.PNG", "photos/ann/1.webp", "photos/1.heic"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "bob").symlink_to(tmp_path / "people" / "ann")
    (tmp_path / "void").mkdir()
    (tmp_path / "void.rec").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "kind", "means"),
    [
        ("people", "identities", "people"),
        ("people.rec", "packed", "people.rec"),
        ("set", "packed", "set/train.rec"),
        ("set/train", "packed", "set/train.rec"),
        ("v1.5", "packed", "v1.5.rec"),
        ("odd", "packed", "odd"),
        ("LOUD.REC", "packed", "LOUD.REC"),
        ("wds", "shards", "wds"),
        ("one.tar", "shards", "one.tar"),
        ("lfw.bin", "pairs", "lfw.bin"),
        ("all.lst", "list", "all.lst"),
        ("flat", "photos", "flat"),
        ("nested", "identities", "nested"),
        ("linked", "identities", "linked"),
    ],
)
def test_a_path_means_one_thing(place: Path, name: str, kind: str, means: str) -> None:
    source = find_source(place / name)
    assert (source.kind, source.path) == (kind, place / means)


def test_a_command_asks_for_the_kinds_it_takes(place: Path) -> None:
    assert find_source(place / "set", ["identities"]).kind == "identities", "a set packed into the folder of its faces"
    assert find_source(place / "odd", ["identities", "list"]).kind == "list", "a list by any name"
    assert find_source(place / "photos", ["identities"], suffixes=[".webp"]).kind == "identities"
    with pytest.raises(DataError, match=r"photos: is a folder of identity folders; expected a folder of images; check"):
        find_source(place / "photos", ["photos"], suffixes=[".webp", ".heic"])
    assert [path.name for path in find_source(place / "wds").shards] == ["a.TAR", "b.tar"]
    assert find_source(place / "one.tar").shards == [place / "one.tar"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "nothing",
            r"nothing: no such file or folder; expected a packed set \(.*\) or a folder of identity.*; do",
        ),
        (
            "flat",
            r"flat: holds no folder with an image, but 1 image of no identity and 1 other file: \.txt 1",
        ),
        ("void", r"void: holds no image; expected .*; do it, or give .*void\.rec, which lies beside it"),
        ("photos", r"photos: holds no image, but 2 other files: \.heic 1, \.webp 1; expected"),
        ("wds", r"wds: is \.tar shards; expected a packed set"),
        ("lfw.bin", r"lfw\.bin: is a \.bin of verification pairs; expected"),
        ("train.idx", r"train\.idx: is no file of a set; expected"),
        ("flat/1.jpg", r"1\.jpg: is no file of a set; expected"),
    ],
)
def test_what_a_command_does_not_take_is_said(place: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_source(place / name, ["packed", "identities"], todo="do it")


def test_a_rec_is_found_by_its_folder_its_stem_or_itself(place: Path) -> None:
    assert find_rec(place / "set") == find_rec(place / "set" / "train") == place / "set" / "train.rec"
    assert find_rec(place / "v1.5") == place / "v1.5.rec"
    with pytest.raises(DataError, match=r"void/train\.rec: no such file; .* check it, or give .*void\.rec"):
        find_rec(place / "void")
    with pytest.raises(DataError, match=r"nothing\.rec: no such file; expected a \.rec, its prefix, or a folder"):
        find_rec(place / "nothing")


def test_verification_sets_lie_beside_a_file_and_in_a_folder(place: Path) -> None:
    for name in ("people.rec", "v1.5", "absent.rec"):
        assert companions_folder(place / name) == place
    for name in ("people", "set", "absent"):
        assert companions_folder(place / name) == place / name
