"""Temporary files: what a killed writer left goes with the next one, what a living one holds stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from recognition.errors import DataError
from recognition.work.file_set import check_published, staged_set, work_path
from recognition.work.files import staged, staged_folder, write_text


def _left_by_a_kill(path: Path) -> None:
    """Leave what a writer of `path` leaves that is killed before it ends."""
    child = os.fork()
    if child == 0:
        with staged(path) as (temporary,):
            temporary.write_bytes(b"half")
            os._exit(0)
    os.waitpid(child, 0)


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    _left_by_a_kill(tmp_path / "a.txt")
    _left_by_a_kill(tmp_path / "b.txt")
    assert len(list(tmp_path.iterdir())) == 2
    write_text(tmp_path / "a.txt", "whole")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 2 and names[0].startswith(".b.txt.") and names[1] == "a.txt"


def test_a_living_writer_keeps_its_file(tmp_path: Path) -> None:
    with staged(tmp_path / "a.txt") as (first,):
        first.write_text("first")
        write_text(tmp_path / "a.txt", "second")
        assert first.read_text() == "first"
    assert (tmp_path / "a.txt").read_text() == "first"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_a_kill_left_half_replaced_is_the_old_one_again(tmp_path: Path) -> None:
    work = tmp_path / ".out.part"
    (work / "old").mkdir(parents=True)
    (work / "old" / "a").write_text("old")
    (work / "new").mkdir()
    with pytest.raises(DataError, match="exists already"), staged_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "a").read_text() == "old"
    assert not work.exists()


def _set(folder: Path, content: str, *, overwrite: bool = False) -> None:
    with staged_set([folder / "s.rec", folder / "s.idx"], overwrite=overwrite, stale=[folder / "s.lst"]) as files:
        for path in files.paths:
            path.write_text(content)


def test_a_set_leaves_nothing_of_the_one_before(tmp_path: Path) -> None:
    _set(tmp_path, "old")
    (tmp_path / "s.lst").write_text("of other images")
    with pytest.raises(DataError, match=r"s\.rec: exists already"):
        _set(tmp_path, "new")
    _set(tmp_path, "new", overwrite=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"s.rec": "new", "s.idx": "new"}


def test_a_file_that_goes_with_no_set_is_not_removed_without_overwrite(tmp_path: Path) -> None:
    (tmp_path / "s.lst").write_text("a list of somebody's")
    with pytest.raises(DataError, match=r"s\.lst: exists already"):
        _set(tmp_path, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["s.lst"]


def test_an_error_leaves_the_old_set_and_nothing_else(tmp_path: Path) -> None:
    _set(tmp_path, "old")

    def fail() -> None:
        with staged_set([tmp_path / "s.rec", tmp_path / "s.idx"], overwrite=True) as files:
            files.paths[0].write_text("half")
            raise DataError("bad image")

    with pytest.raises(DataError, match="bad image"):
        fail()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.idx", "s.rec"]
    assert (tmp_path / "s.rec").read_text() == "old"


def test_a_second_writer_of_a_set_is_refused(tmp_path: Path) -> None:
    with staged_set([tmp_path / "s.rec", tmp_path / "s.idx"], overwrite=False) as files:
        for path in files.paths:
            path.write_text("first")
        with pytest.raises(DataError, match="another run is writing it"):
            _set(tmp_path, "second")
    assert (tmp_path / "s.rec").read_text() == "first"


def test_a_set_stopped_while_it_was_published_is_refused_until_it_is_written_again(tmp_path: Path) -> None:
    _set(tmp_path, "old")
    work_path(tmp_path / "s.rec").mkdir()
    (work_path(tmp_path / "s.rec") / "publishing").touch()
    (tmp_path / "s.idx").unlink()
    with pytest.raises(DataError, match=r"s\.rec: is unfinished"):
        check_published(tmp_path / "s.rec")
    _set(tmp_path, "new")  # nothing whole is there that --overwrite would have to be given for
    check_published(tmp_path / "s.rec")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.idx", "s.rec"]
