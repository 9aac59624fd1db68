"""Lists of people are read in the shapes in which test sets come."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from recognition.errors import DataError
from recognition.formats.name_list import read_names
from tests.helpers.name_forms import FORMS


@pytest.mark.parametrize("form", FORMS)
def test_every_form_names_both_people(tmp_path: Path, form: str) -> None:
    (tmp_path / "list").write_text(FORMS[form], encoding="utf-8", newline="")
    spelled = [{unicodedata.normalize("NFC", name) for name in person} for person in read_names(tmp_path / "list")]
    assert any("Ann_Lee" in person for person in spelled) and any("José Ruiz" in person for person in spelled)
    assert len([person for person in spelled if not person & {"Ann_Lee", "José Ruiz", "name"}]) == 0


def test_utf_16_of_windows_is_read(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("Ann_Lee\r\nJosé\r\n", encoding="utf-16")
    assert read_names(tmp_path / "list") == [("Ann_Lee",), ("José",)]


def test_names_that_end_in_numbers_stay_whole_first(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("person_12\nn000029\n", encoding="utf-8")
    assert [person[0] for person in read_names(tmp_path / "list")] == ["person_12", "n000029"]


def test_folders_name_their_subfolders(tmp_path: Path) -> None:
    for name in ("Ann", ".hidden", "Bob"):
        (tmp_path / "set" / name).mkdir(parents=True)
    (tmp_path / "set" / "notes.txt").touch()
    assert sorted(read_names(tmp_path / "set")) == [("Ann",), ("Bob",)]


def test_a_list_without_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n10 300\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "zeros").write_bytes(bytes(9))
    with pytest.raises(DataError, match=r"empty\.txt: holds no names; expected a folder of identities"):
        read_names(tmp_path / "empty.txt")
    for name in ("binary", "zeros", "absent"):
        with pytest.raises(DataError, match=rf"{name}: cannot be read .*; expected a folder of identities, a list"):
            read_names(tmp_path / name)
