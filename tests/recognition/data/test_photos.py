"""Photos below a folder: which are listed, and what cannot be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from recognition.data import photos
from recognition.data.photos import list_photos
from recognition.errors import DataError


def test_photos_are_listed_sorted_and_dotted_names_passed_over(tmp_path: Path) -> None:
    passed_over = ("a b/..x.png", "a/notes.txt", ".hidden/1.jpg", ".1.jpg")
    for name in ("b/2.JPG", "b/1.webp", "a..b/q'\"é.bmp", "top.pgm", *passed_over):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list_photos(tmp_path) == ["a..b/q'\"é.bmp", "b/1.webp", "b/2.JPG", "top.pgm"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root any folder can be read, so the system's answer is made here."""
    (tmp_path / "locked").mkdir()
    (tmp_path / "1.jpg").touch()
    scan = os.scandir

    def refuse(path: str) -> object:
        if os.path.basename(path) == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(photos.os, "scandir", refuse)
    with pytest.raises(DataError, match=r"locked: cannot be read \(Permission denied\); expected a folder of photos"):
        list_photos(tmp_path)


@pytest.mark.parametrize("found", ["", "1.txt"])
def test_a_folder_without_photos_is_refused(found: str, tmp_path: Path) -> None:
    if found:
        (tmp_path / found).touch()
    with pytest.raises(DataError, match=r"holds no photo; expected \.bmp, \.jpeg"):
        list_photos(tmp_path)
