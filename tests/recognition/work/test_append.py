"""Records outlive a disk that takes none for a while: nothing is raised, nothing is torn, what is lost is counted."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from recognition.work import append
from recognition.work.append import AppendedFile, LogFile

ERRORS = [errno.ENOSPC, errno.EIO, errno.EDQUOT]


class Disk:
    """os.write that fails with `error` while `is_full`, after a `share` of the bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: int, share: float = 0.0) -> None:
        self.is_full = False
        self._write = os.write
        self._error, self._share = error, share
        monkeypatch.setattr(append.os, "write", self.write)

    def write(self, descriptor: int, data: bytes) -> int:
        if not self.is_full:
            return self._write(descriptor, data)
        if self._share:
            return self._write(descriptor, data[: int(len(data) * self._share)])
        raise OSError(self._error, os.strerror(self._error))


@pytest.mark.parametrize("share", [0.0, 0.4])
@pytest.mark.parametrize("error", ERRORS)
def test_what_a_disk_does_not_take_is_written_when_it_does(
    error: int, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk(monkeypatch, error, share)
    file = AppendedFile(tmp_path / "new" / "records", head=b"head\n")
    file.write(b"one\n")
    disk.is_full = True
    for line in (b"two\n", b"three\n"):
        file.write(line)
        assert file.path.read_bytes() == b"head\none\n", "no part of a record stays"
    disk.is_full = False
    file.write(b"four\n")
    file.close()
    assert file.path.read_bytes() == b"head\none\ntwo\nthree\nfour\n"
    assert (file.num_failed, file.num_lost) == (2, 0)
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2
    assert "cannot be written" in warnings[0]
    assert warnings[1].endswith("written again; 2 records had to wait, none is lost")


def test_a_part_that_cannot_be_cut_at_once_is_cut_before_the_next_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, errno.EIO, 0.5)
    file = AppendedFile(tmp_path / "records", head=b"head\n", separator=b"\n")
    disk.is_full = True
    with monkeypatch.context() as patch:
        patch.setattr(append.os, "ftruncate", _fail)
        file.write(b"one\n")
    assert file.path.read_bytes() == b"he"
    disk.is_full = False
    file.write(b"two\n")
    assert file.path.read_bytes() == b"head\none\ntwo\n"


def _fail(*_: Any) -> None:
    raise OSError(errno.EIO, "no")


def test_what_waits_is_bounded_and_what_is_dropped_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk(monkeypatch, errno.ENOSPC)
    monkeypatch.setattr(append, "MOST_HELD_BYTES", 10)
    file = AppendedFile(tmp_path / "records")
    disk.is_full = True
    for line in (b"1234", b"5678", b"90ab"):
        file.write(line)
    disk.is_full = False
    file.write(b"!")
    assert file.path.read_bytes() == b"567890ab!"
    assert file.num_lost == 1
    disk.is_full = True
    file.write(b"?")
    file.close()
    assert "ends without 2 of its records" in caplog.text


def test_a_folder_that_is_gone_or_forbidden_is_no_end(tmp_path: Path) -> None:
    file = AppendedFile(tmp_path / "taken" / "records")
    (tmp_path / "taken").write_text("a file in the place of the folder")
    file.write(b"one\n")
    (tmp_path / "taken").unlink()
    file.write(b"two\n")
    assert file.path.read_bytes() == b"one\ntwo\n"


def test_half_a_line_of_a_killed_process_is_closed_off(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"whole\nhal")
    file = AppendedFile(tmp_path / "log", separator=b"\n")
    file.write(b"next\n")
    assert file.path.read_bytes() == b"whole\nhal\nnext\n"


def test_a_log_file_that_warns_of_itself_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    disk = Disk(monkeypatch, errno.ENOSPC)
    handler = LogFile(tmp_path / "log")
    logging.getLogger().addHandler(handler)
    try:
        disk.is_full = True
        logging.getLogger("x").warning("one")
        disk.is_full = False
        logging.getLogger("x").warning("two")
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[0] == "one"
    assert "cannot be written (No space left on device)" in lines[1]
    assert lines[2] == "two"
    assert "Traceback" not in capfd.readouterr().err
