"""The images below a folder: any depth, the first folder is the identity, links end, nothing is passed over unsaid."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from recognition.errors import DataError
from recognition.formats.image_tree import ImageTree, identity_of
from recognition.images.photos import PHOTO_SUFFIXES


def touch(root: Path, names: Sequence[str]) -> Path:
    """Make empty files below `root`; the tree looks at names alone."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def images(root: Path) -> dict[str, list[str]]:
    """Return identity -> its images."""
    tree = ImageTree(root)
    found = {identity: tree.images_of(identity) for identity in tree.identities}
    assert len(tree) == sum(map(len, found.values())) == len(tree.names())
    assert all(identity_of(name) in found for name in tree.names())
    assert tree.names() == ImageTree(root, keeps_names=True).names()
    return found


def test_the_identity_is_the_first_folder_at_any_depth(tmp_path: Path) -> None:
    touch(tmp_path, ["ann/2.JPG", "ann/1.jpg", "bob/x.jpg", "bob/2020/4.PNG", "bob/2020/rome/3.Jpeg", "top.jpg"])
    assert images(tmp_path) == {"ann": ["1.jpg", "2.JPG"], "bob": ["2020/4.PNG", "2020/rome/3.Jpeg", "x.jpg"]}


def test_the_order_of_flat_trees_is_what_it_was(tmp_path: Path) -> None:
    """Identities by name, so `a` before `a-b`; all names together as text, where `a-b/` comes before `a/`."""
    touch(tmp_path, ["a-b/1.jpg", "a/10.jpg", "a/9.jpg", "B/1.jpg", "a/é.jpg"])
    tree = ImageTree(tmp_path)
    assert tree.identities == ["B", "a", "a-b"]
    assert tree.images_of("a") == ["10.jpg", "9.jpg", "é.jpg"]
    assert tree.names() == ["B/1.jpg", "a-b/1.jpg", "a/10.jpg", "a/9.jpg", "a/é.jpg"]


def test_a_flat_folder_has_images_of_no_identity(tmp_path: Path) -> None:
    tree = ImageTree(touch(tmp_path, ["2.jpg", "1.jpg", "notes/a.txt"]))
    assert (tree.is_flat, tree.identities, tree.names(), len(tree)) == (True, [], ["1.jpg", "2.jpg"], 2)
    assert [identity_of(name) for name in tree.names()] == ["", ""]


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", ["ann/1.jpg", "rome/2.jpg", "rome/deep/3.jpg"])
    touch(tmp_path / "root", ["bob/4.jpg"])
    (tmp_path / "root" / "ann").symlink_to(tmp_path / "elsewhere" / "ann")
    (tmp_path / "root" / "bob" / "trip").symlink_to(tmp_path / "elsewhere" / "rome")
    assert images(tmp_path / "root") == {"ann": ["1.jpg"], "bob": ["4.jpg", "trip/2.jpg", "trip/deep/3.jpg"]}


def test_no_link_leads_back_or_counts_an_image_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = touch(tmp_path / "up" / "root", ["ann/z/1.jpg", "bob/2.jpg"])
    for link, target in (
        ("ann/all", root),
        ("ann/up", tmp_path),
        ("ann/z/back", root / "ann"),
        ("ann/a", root / "ann" / "z"),  # comes first by name, but the folder itself comes before links to it
        ("bob/self", root / "bob"),
        ("everybody", root),
    ):
        (root / link).symlink_to(target)
    (root / "bob" / "loop").symlink_to("loop")
    assert images(root) == {"ann": ["z/1.jpg"], "bob": ["2.jpg"]}
    ImageTree(root).log_passed_over()
    assert "passed over 1 file: without suffix 1; 6 links to a folder above or already taken" in caplog.text


def test_links_to_each_other_do_not_multiply(tmp_path: Path) -> None:
    """Twelve folders with a link to each other one have 12! ways through them; each is taken once."""
    shared = tmp_path / "shared"
    for i in range(12):
        touch(shared, [f"{i}/{i}.jpg"])
        for j in range(12):
            (shared / f"{i}" / f"to{j}").symlink_to(shared / f"{j}")
    (tmp_path / "root" / "ann").mkdir(parents=True)
    (tmp_path / "root" / "ann" / "in").symlink_to(shared / "0")
    assert len(images(tmp_path / "root")["ann"]) == 12


def test_what_is_passed_over_is_named_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    others = ["LICENSE", "ann/.DS_Store", ".git/1.jpg", *(f"ann/{i}.HEIC" for i in range(3))]
    touch(tmp_path, [*others, "ann/0.jpg", "bob/1.mp4", "bob/2/3.mp4", "top.jpg"])
    (tmp_path / "new\nline").mkdir()
    ImageTree(tmp_path).log_passed_over()
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{tmp_path}: passed over 7 files: .heic 3, .mp4 2, without suffix 1, .jpg 1, with 1 image beside the folders "
        "of identities; 2 folders without an image (bob, 'new\\nline'); 2 names beginning with a dot"
    )
    assert record.levelno == logging.WARNING


def test_notes_beside_pictures_are_no_reason_for_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, ["ann/0.jpg", "align.jsonl", "ann/notes.txt", "ann/.thumbs"])
    with caplog.at_level(logging.INFO):
        ImageTree(tmp_path).log_passed_over()
    (record,) = caplog.records
    assert "passed over 2 files: .jsonl 1, .txt 1; 1 name beginning with a dot" in record.getMessage()
    assert record.levelno == logging.INFO


def test_many_suffixes_and_folders_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, ["ann/0.jpg", *(f"ann/0.x{i}" for i in range(9))])
    for i in range(8):
        (tmp_path / f"empty{i}").mkdir()
    ImageTree(tmp_path).log_passed_over()
    assert "passed over 9 files: .x0 1, .x1 1, .x2 1, .x3 1, .x4 1 and 4 more; 8 folders" in caplog.text
    assert "(empty0, empty1, empty2, empty3, empty4 and 3 more)" in caplog.text


def test_people_a_folder_lower_are_pointed_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, ["test/n1/1.jpg", "train/n2/2.jpg", "train/n3/3.jpg"])
    ImageTree(tmp_path).log_passed_over()
    (record,) = caplog.records
    assert "all images lie two folders deep or more; taken as identities: test, train;" in record.getMessage()
    touch(tmp_path, ["train/one.jpg"])
    caplog.clear()
    ImageTree(tmp_path).log_passed_over()
    assert not caplog.records


def test_names_of_any_kind_are_listed(tmp_path: Path) -> None:
    names = ["a..b/1.jpg", "quo'te\"s/Zoë 文.PNG", "two words/new\nline.webp", "x.jpg/top.pgm"]
    names.append(os.fsdecode(b"\xff/1.bmp"))
    touch(tmp_path, [*names, "..x/1.jpg", "a..b/.2.jpg", "a..b/notes.txt"])
    tree = ImageTree(tmp_path / "a..b" / ".." / "..x" / "..", PHOTO_SUFFIXES)
    assert tree.names() == sorted(names)


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, ["ann/1.jpg", "ann/locked/2.jpg"])
    scandir = os.scandir

    def refusing(path: Any) -> Any:  # for root, who may run the tests, permissions refuse nothing
        if os.path.basename(str(path).rstrip("/")) == "locked":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    words = r"locked/: cannot be read \(Permission denied\); expected a readable folder; fix its permissions"
    with pytest.raises(DataError, match=words):
        ImageTree(tmp_path)
    with pytest.raises(DataError, match="nothing: is not a folder; expected a folder of images"):
        ImageTree(tmp_path / "nothing")
