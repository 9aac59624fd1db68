"""One run at a time in a folder: the lock goes with its process, names it, and can be taken over after a crash."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from recognition.errors import DataError
from recognition.training import run_folder
from recognition.training.run_folder import LOCK, lock_folder
from tests.helpers.places import ROOT

HOLD = """
import sys, time
from pathlib import Path
from recognition.training.run_folder import lock_folder
lock = lock_folder(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, env=environment, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.slow
def test_a_second_start_names_the_first_and_a_killed_one_holds_nothing(
    other: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    expected = (
        rf"a run is at work in it \(process {other.pid} on {socket.gethostname()}, since 2.*\); expected none; wait"
    )
    for take_over in (False, True):
        with pytest.raises(DataError, match=expected):
            lock_folder(tmp_path, take_over=take_over)  # who lives here has to be ended
    other.send_signal(signal.SIGKILL)
    other.wait()
    lock = lock_folder(tmp_path)
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    lock.release()
    assert (tmp_path / LOCK).read_bytes() == b""


def _crashed(folder: Path) -> Path:
    path = folder / LOCK
    path.write_text(json.dumps({"host": "node7", "pid": 41, "since": "2026-01-02 03:04:05"}))
    return path


def test_the_lock_of_a_crashed_machine_is_taken_over_when_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open(_crashed(tmp_path), "rb") as kept_by_the_server:
        fcntl.flock(kept_by_the_server, fcntl.LOCK_EX)
        with pytest.raises(
            DataError, match=r"process 41 on node7, since 2026-01-02 03:04:05\).*start with --take-over"
        ):
            lock_folder(tmp_path)
        lock = lock_folder(tmp_path, take_over=True)
        assert "taken over from process 41 on node7" in caplog.text
        lock.check()
        with pytest.raises(DataError, match=f"process {os.getpid()} on"):
            lock_folder(tmp_path, take_over=True)  # this one lives
    lock.release()


def test_whoever_was_taken_over_learns_it_before_the_next_save(tmp_path: Path) -> None:
    lock = lock_folder(tmp_path)
    (tmp_path / LOCK).unlink()
    lock.check()  # a folder that does not answer is no other run
    _crashed(tmp_path)
    with pytest.raises(DataError, match="was taken over by process 41 on node7"):
        lock.check()


def test_a_free_lock_is_taken_whoever_held_it(tmp_path: Path) -> None:
    _crashed(tmp_path)
    lock_folder(tmp_path).release()
    for content in (b"", b"\xff{", b"[1]", b'{"host": 1, "pid": "x"}', b"[" * 5000):
        (tmp_path / LOCK).write_bytes(content)
        lock_folder(tmp_path).release()


def test_without_locks_what_the_file_says_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "lock_file", lambda handle, wait: False)
    _crashed(tmp_path)
    with pytest.raises(DataError, match="process 41 on node7"):
        lock_folder(tmp_path)
    lock_folder(tmp_path, take_over=True)
    with pytest.raises(DataError, match=f"process {os.getpid()} on {socket.gethostname()}"):
        lock_folder(tmp_path)


def test_a_folder_that_cannot_be_written_is_one_line() -> None:
    with pytest.raises(DataError, match=r"/proc/nowhere: cannot be written \(.*\); set output=... to a writable"):
        lock_folder(Path("/proc/nowhere"))
