"""The journal of finished work: continued after a kill, by the same settings alone."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from recognition.errors import DataError
from recognition.work.journal import JOURNAL, Journal


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
