"""Pictures are found by the names that lists and other programs give them."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from recognition.formats.picture_names import PictureFinder


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("Ann/Ann_0001.jpg", "Ann/Ann_0001"),
        ("Ann/Ann_0001.JPG", "Ann/Ann_0001"),
        ("Ann/Ann_0001.jpeg", "Ann/Ann_0001"),
        ("Ann/Ann_0001.png.jpg", "Ann/Ann_0001"),
        ("Ann/Ann_0001.HEIC.jpg", "Ann/Ann_0001"),
        ("Ann/Ann_0001.png.jpg", "Ann/Ann_0001.png"),
        ("Ann/Ann_0001.JPG", "Ann/Ann_0001.JPG"),
        ("J. R./J. R._0001.jpg", "J. R./J. R._0001"),
        ("Ann/Ann_0001", "Ann/Ann_0001"),
        (unicodedata.normalize("NFD", "José/José_0001.jpg"), "José/José_0001"),
        ("José/José_0001.jpg", unicodedata.normalize("NFD", "José/José_0001.jpg")),
    ],
)
def test_a_picture_is_found(tmp_path: Path, file: str, name: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).touch()
    found = PictureFinder(tmp_path).find(name)
    assert found is not None and found.samefile(tmp_path / file)


def test_the_least_guessed_of_several_is_taken_and_nothing_outside(tmp_path: Path) -> None:
    (tmp_path / "faces" / "Ann").mkdir(parents=True)
    for name in ("1.png.jpg", "1.jpg", "1.txt", "2.tar.gz", "3.jpg"):
        (tmp_path / "faces" / "Ann" / name).touch()
    (tmp_path / "secret.jpg").touch()
    (tmp_path / "faces" / "Ann" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    finder = PictureFinder(tmp_path / "faces")
    assert finder.find("Ann/1") == tmp_path / "faces" / "Ann" / "1.jpg"
    assert finder.find("Ann/2") is None and finder.find("Ann/0003") is None and finder.find("Bob/1") is None
    assert finder.find("../secret") is None and finder.find("Ann/link") is None and finder.leads_out("../secret.jpg")
