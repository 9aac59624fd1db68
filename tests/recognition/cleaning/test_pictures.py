"""The pictures of a set: names by their place in a file, groups, and folders that are not what was embedded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recognition.cleaning.pictures import Pictures, check_faces, group_rows
from recognition.errors import DataError
from tests.helpers.people import people, write_embeddings, write_set

ODD = ["plain", "two words", "quo'te\"s", "a..b", "Zoë 文", "\udcff\udcfe", "a, b; c", "&lt;b&gt;"]


def test_names_and_identities_are_those_of_the_folders(tmp_path: Path) -> None:
    vectors = people(dict.fromkeys(ODD, 3))
    faces, embedded = write_set(tmp_path, vectors)
    pictures = Pictures(embedded)
    names = sorted(vectors)
    assert [pictures.name(row) for row in range(len(pictures))] == names
    assert pictures.identities == sorted(ODD)
    assert [pictures.identities[label] for label in pictures.labels] == [name.rpartition("/")[0] for name in names]
    np.testing.assert_allclose(pictures.units(np.array([4, 1])), [vectors[names[4]], vectors[names[1]]], atol=1e-6)
    check_faces(pictures, faces)


@pytest.mark.parametrize("size", [1, 4, 7, 1000])
def test_blocks_hold_whole_identities_in_order(size: int) -> None:
    owners = np.array([3, 0, 3, 3, 5, 0, 3, 3, 3, 3, 5], np.int32)
    chosen = np.arange(11) != 4
    groups = group_rows(owners, 7, chosen)
    assert [groups.of(i).tolist() for i in range(7)] == [
        [row for row in range(11) if chosen[row] and owners[row] == i] for i in range(7)
    ]
    blocks = list(groups.blocks(size))
    assert [i for block in blocks for i in block] == list(range(7))
    assert all(len(block) == 1 or groups.counts[block.start : block.stop].sum() <= size for block in blocks)


def test_a_folder_that_is_not_what_was_embedded_is_refused(tmp_path: Path) -> None:
    faces, embedded = write_set(tmp_path, people({"a": 2, "b": 2, "c": 1}))
    pictures = Pictures(embedded)
    (faces / ".hidden.jpg").touch()
    (faces / "notes.txt").touch()
    check_faces(pictures, faces)
    (faces / "b" / "new.png").touch()
    with pytest.raises(DataError, match=r"b/new\.png: has no embedding; expected one for every picture; embed again"):
        check_faces(pictures, faces)
    (faces / "b" / "new.png").rename(faces / "stray.png")  # of no identity, so embed_faces.py passes over it as well
    check_faces(pictures, faces)
    (faces / "b" / "001.jpg").unlink()
    with pytest.raises(DataError, match=r"b/001\.jpg: no such picture, but it was embedded"):
        check_faces(pictures, faces)
    (faces / "b" / "000.jpg").unlink()
    (faces / "b").rmdir()
    with pytest.raises(DataError, match="holds no folder 'b', which was embedded"):
        check_faces(pictures, faces)
    with pytest.raises(DataError, match="nothing: is not a folder; expected the folder of faces"):
        check_faces(pictures, tmp_path / "nothing")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../a.jpg", "leaves the folder of faces; expected a path below it"),
        ("a/../../b.jpg", "leaves the folder of faces"),
        ("/etc/a.jpg", "leaves the folder of faces"),
        ("a/\ud800.jpg", "leaves the folder of faces"),
        ("a/b\tc.jpg", "has a tab or a line break, which no .lst can name; rename it"),
        ("a\n/b.jpg", "has a tab or a line break"),
        ("flat.jpg", "has no identity; expected a folder for each"),
        ("17", "is no picture in a folder; expected embeddings of a folder; unpack_rec.py makes one"),
    ],
)
def test_hostile_names_are_refused(tmp_path: Path, name: str, message: str) -> None:
    write_embeddings(tmp_path, ["a/0.jpg", name], np.ones((2, 4)))
    with pytest.raises(DataError, match=message):
        Pictures(tmp_path)


def test_an_embedding_that_is_not_finite_is_named(tmp_path: Path) -> None:
    vectors = np.ones((3, 4))
    vectors[1, 2] = np.nan
    write_embeddings(tmp_path, ["a/0.jpg", "a/1.jpg", "a/2.jpg"], vectors)
    with pytest.raises(DataError, match=r"embedding 1: .*; expected"):
        Pictures(tmp_path).units(np.arange(3))


def test_a_matrix_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    write_embeddings(tmp_path, ["a/0.jpg", "a/1.jpg"], np.ones((2, 4)))
    with open(tmp_path / "keys.jsonl", "a") as handle:
        handle.write('["a/2.jpg", 0]\n')
    with pytest.raises(DataError, match="2 vectors for 3 keys; expected one each; embed again"):
        Pictures(tmp_path)
