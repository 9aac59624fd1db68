"""The journal of finished work: continued behind a kill, by the same settings alone, by one run at a time."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from recognition.errors import DataError
from recognition.work.journal import JOURNAL, SETTINGS, Journal, check_settings, hold, is_under_way, remove_work
from tests.helpers.places import ROOT


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "out" / ".work"
    folder.mkdir(parents=True)
    return folder


def test_a_journal_is_continued_without_the_line_that_a_kill_cut_short(work: Path) -> None:
    first = Journal(work, {"size": 1})
    first.append("b\n\udcff", {"n": 1})
    first.append("a", {"n": 2})
    first.close()
    with open(work / JOURNAL, "ab") as handle:
        handle.write(b'{"key": "c", "n"')
    again = Journal(work, {"size": 1})
    assert list(again.done) == ["b\n\udcff", "a"]
    again.append("c", {"n": 3})
    assert [(record["key"], record["n"]) for record in again.records()] == [("a", 2), ("b\n\udcff", 1), ("c", 3)]
    again.close()


def test_a_damaged_line_and_other_settings_are_refused(work: Path) -> None:
    Journal(work, {"size": 1, "name": None}).close()
    with pytest.raises(DataError, match=r"out: was begun with other settings \(size 1, now 2\); expected the same"):
        Journal(work, {"size": 2, "name": None})
    (work / JOURNAL).write_bytes(b'{"key": "a"}\n[1]\n')
    with pytest.raises(DataError, match=r"journal\.jsonl: at byte 13: .*; expected a line this command wrote"):
        Journal(work, {"size": 1, "name": None})


def test_a_full_disk_is_one_line_and_the_lines_before_stay(work: Path) -> None:
    journal = Journal(work, {})
    journal.append("a", {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30, before[1]))
    try:
        with pytest.raises(DataError, match=r"journal\.jsonl: cannot be written \(.*\); check space and start again"):
            journal.append("b", {"text": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    journal.close()
    again = Journal(work, {})
    assert list(again.done) == ["a"]
    again.append("b", {})
    again.close()
    assert (work / JOURNAL).read_bytes() == b'{"key": "a"}\n{"key": "b"}\n'


def test_a_folder_is_held_until_its_holder_ends_however_it_ends(work: Path) -> None:
    code = "import sys, pathlib\nfrom recognition.work.journal import hold\nheld = hold(pathlib.Path(sys.argv[1]))\n"
    code += "print(1, flush=True)\ninput()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(work)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"1\n"
    with pytest.raises(DataError, match=r"out: another run is at work in it; expected none; wait for its end, or"):
        hold(work)
    holder.kill()
    holder.communicate()
    with hold(work), pytest.raises(DataError, match="another run"):
        hold(work)
    hold(work).close()


def test_the_settings_of_finished_work_are_deleted_last(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_settings(work, {"size": 1})
    (work / "staging").mkdir()
    (work / "staging" / "1.part").touch()
    (work / JOURNAL).touch()
    left: list[list[str]] = []
    unlink = os.unlink

    def noting(path: str, **more: int) -> None:
        unlink(path, **more)
        left.append(sorted(os.listdir(work)))

    monkeypatch.setattr(os, "unlink", noting)
    remove_work(work)
    assert not work.exists() and len(left) == 3 and all(SETTINGS in names for names in left[:-1])


def test_what_a_kill_left_of_deleted_work_is_not_under_way(work: Path) -> None:
    assert not is_under_way(work) and not work.exists()
    work.mkdir()
    check_settings(work, {})
    assert is_under_way(work)
