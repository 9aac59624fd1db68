"""A folder of work: held by one run, refused when it is another's, cleared and published so that a kill is survived."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recognition.errors import DataError
from recognition.work.files import writing
from recognition.work.work_folder import SETTINGS, WorkFolder

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def work(tmp_path: Path) -> WorkFolder:
    return WorkFolder(tmp_path / "out", ".work", ("list.txt", "summary.json"), "a result")


def _finish(work: WorkFolder, text: str = "old") -> None:
    with work.hold():
        work.begin({"text": text})
        for name in work.products:
            (work.path / name).write_text(text)
        work.publish()


def _files(work: WorkFolder) -> dict[str, str]:
    return {path.name: path.read_text() for path in work.output.iterdir()}


def test_what_is_published_is_all_there_and_refused_from_then_on(work: WorkFolder) -> None:
    _finish(work)
    assert _files(work) == {"list.txt": "old", "summary.json": "old"}
    assert work.is_finished and not work.is_under_way
    with pytest.raises(DataError, match=r"out: holds a result already; expected a new OUT; pass --overwrite to repl"):
        work.check(overwrite=False)
    work.check(overwrite=True)


def test_a_folder_of_something_else_is_refused(work: WorkFolder) -> None:
    work.output.mkdir()
    work.check(overwrite=False)
    (work.output / "diary").touch()
    for overwrite in (False, True):
        with pytest.raises(DataError, match="out: is not empty; expected a new folder, or one this command began"):
            work.check(overwrite=overwrite)
    WorkFolder(work.output, ".work", work.products, "a result", shares=True).check(overwrite=False)
    (work.output / "list.txt").touch()  # a kill between two removals leaves as much
    work.check(overwrite=True)
    with pytest.raises(DataError, match="diary: is not a folder; expected a folder for a result; choose another"):
        WorkFolder(work.output / "diary", ".work", work.products, "a result").check(overwrite=True)


def test_one_begun_by_a_killed_run_is_continued_with_the_same_settings_alone(work: WorkFolder) -> None:
    with work.hold():
        work.begin({"size": 1})
    work.check(overwrite=False)
    work.begin({"size": 1})
    with pytest.raises(DataError, match=r"out: was begun with other settings \(size 1, now 2\); expected the same to"):
        work.begin({"size": 2})


def test_work_that_an_older_version_began_is_continued(work: WorkFolder) -> None:
    with work.hold():
        (work.path / SETTINGS).write_text('{"photos": "/centre", "policy": "centre", "size": 112}')
        work.begin({"photos": "/centre", "policy": "center", "size": 112})
        with pytest.raises(DataError, match="policy 'center', now 'largest'"):
            work.begin({"photos": "/centre", "policy": "largest", "size": 112})


def test_a_run_killed_while_it_published_goes_on(work: WorkFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    with work.hold():
        work.begin({})
        for name in work.products:
            (work.path / name).write_text("new")
        monkeypatch.setattr(WorkFolder, "remove", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            work.publish()
    assert (work.output / "summary.json").is_file() and not work.is_finished
    work.check(overwrite=False)


def test_nothing_continues_what_a_killed_overwrite_left(work: WorkFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    with work.hold():
        work.begin({"size": 1})
    with pytest.raises(KeyboardInterrupt):
        work.clear(_interrupt)  # some of what the journal calls finished may be gone
    with pytest.raises(DataError, match=r"begun with other settings \(its settings cannot be read\); expected the s"):
        work.begin({"size": 1})
    work.check(overwrite=True)
    work.clear()
    assert list(work.output.iterdir()) == []


def test_clearing_removes_the_mark_before_the_rest(work: WorkFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    _finish(work)
    removed: list[str] = []
    monkeypatch.setattr(Path, "unlink", lambda path, missing_ok: removed.append(path.name))
    work.clear(lambda: removed.append("contents"))
    assert removed == ["contents", "summary.json", "list.txt"]


def test_giving_up_leaves_what_is_somebody_else_s(work: WorkFolder) -> None:
    for others in (False, True):
        with work.hold():
            work.begin({})
            assert work.is_untouched
            if others:
                (work.output / "diary").touch()
            (work.path / "part").touch()
            assert not work.is_untouched
            work.give_up()
        assert work.output.exists() == others
    assert [path.name for path in work.output.iterdir()] == ["diary"]


def test_a_disk_that_takes_nothing_is_one_line(work: WorkFolder, tmp_path: Path) -> None:
    message = r"out: cannot be written \(No space left on device\); check space and permissions$"
    with pytest.raises(DataError, match=message), writing(tmp_path / "out"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    work.output.touch()
    with pytest.raises(DataError, match=r"out: cannot be written \(.*\); choose a writable folder$"):
        work.hold()


def test_a_folder_is_held_until_its_holder_ends_however_it_ends(work: WorkFolder) -> None:
    code = (
        "import sys, pathlib\nfrom recognition.work.work_folder import WorkFolder\n"
        "held = WorkFolder(pathlib.Path(sys.argv[1]), '.work', ('a',), 'it').hold()\nprint(1, flush=True)\ninput()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(work.output)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"1\n"
    with pytest.raises(DataError, match=r"out: another run is at work in it; expected none; wait for its end, or"):
        work.hold()
    with pytest.raises(DataError, match="another run"):
        work.clear()
    holder.kill()
    holder.communicate()
    with work.hold(), pytest.raises(DataError, match="another run"):
        work.hold()
    work.hold().close()


def test_the_settings_of_finished_work_are_deleted_last(work: WorkFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    with work.hold():
        work.begin({"size": 1})
    work.staging.mkdir()
    (work.staging / "1.part").touch()
    left: list[list[str]] = []
    unlink = os.unlink

    def noting(path: str, **more: int) -> None:
        unlink(path, **more)
        left.append(sorted(os.listdir(work.path)))

    monkeypatch.setattr(os, "unlink", noting)
    work.remove()
    assert not work.path.exists() and len(left) == 3 and all(SETTINGS in names for names in left[:-1])


def test_what_a_kill_left_of_deleted_work_is_not_under_way(work: WorkFolder) -> None:
    assert not work.is_under_way
    work.path.mkdir(parents=True)
    assert not work.is_under_way and not work.path.exists()
    work.path.mkdir()
    work.begin({})
    assert work.is_under_way


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
