"""What the system around a command refuses ends it in one line, and a device that is full never in a traceback."""

from __future__ import annotations

import argparse
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from recognition.cli import make_parser, run_command
from recognition.errors import DataError
from tests.helpers.places import ROOT


def _fail(error: Exception) -> Callable[[argparse.Namespace], None]:
    def body(_: argparse.Namespace) -> None:
        raise error

    return body


ERRORS = [
    (OSError(errno.EMFILE, None, "/a/b"), "/a/b: Too many open files; expected it to be possible; raise the limit of"),
    (OSError(errno.ENOSPC, None), "the system: No space left on device; expected it to be possible; free space on"),
    (
        BlockingIOError(errno.EAGAIN, None),
        "the system: Resource temporarily unavailable; expected it to be",
    ),
    (FileNotFoundError(errno.ENOENT, "no usable folder", "a\x1bb"), "a\\x1bb: no usable folder; expected it"),
    (RuntimeError("can't start new thread"), "threads: no more can be started; expected a few; raise the limit"),
]


@pytest.mark.parametrize(("error", "line"), ERRORS)
def test_what_the_system_refuses_is_one_line(error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    parser = make_parser("some", "Do it.")
    assert run_command(parser, _fail(error), [], report=lambda text, _: told.append(text)) == 1
    assert capsys.readouterr().err.startswith(f"some: error: {line}")
    assert told[0].startswith(f"some: error: {line}")


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    for error in (RuntimeError("a tensor's shape"), OSError("no number"), KeyError("x")):
        with pytest.raises(type(error)):
            run_command(make_parser("some", "Do it."), _fail(error), [])


SCRIPT = """
import sys
from recognition.cli import make_parser, run_command
from recognition.console import progress

def body(args):
    for _ in progress(range(3), total=3, unit="x", label="y"):
        pass
    print("a result")

sys.exit(run_command(make_parser("some", "Do it."), body))
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
@pytest.mark.parametrize(
    ("redirection", "status", "said"),
    [
        (">/dev/full", 1, ": No space left on device; expected it to be possible; free space"),
        ("2>/dev/full", 0, ""),
        (">/dev/full 2>/dev/full", 1, ""),
        (">&-", 0, ""),
        ("2>&-", 0, ""),
    ],
)
def test_a_full_or_closed_stream_is_no_traceback(redirection: str, status: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "some.py").write_text(SCRIPT)
    done = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" some.py {redirection}'],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_user_s_error_is_reported_as_it_is() -> None:
    told = []
    run_command(
        make_parser("some", "x"), _fail(DataError("a: b")), [], report=lambda line, err: told.append((line, err))
    )
    assert told[0][0] == "some: error: a: b"
    assert isinstance(told[0][1], DataError)
