"""SIGTERM ends a command as SIGINT does: what it has half done goes."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recognition.cli import make_parser, run_command
from tests.helpers.places import ROOT

WAITS = """
import sys, time
from pathlib import Path
from recognition.cli import make_parser, run_command
from recognition.work.files import staged
def body(args):
    with staged(Path(sys.argv[1]) / "out") as (temporary,):
        temporary.write_bytes(b"half")
        (Path(sys.argv[1]) / "begun").touch()
        time.sleep(60)
sys.exit(run_command(make_parser("waits", None), body, []))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_nothing_half_written(number: signal.Signals, status: int, tmp_path: Path) -> None:
    run = subprocess.Popen([sys.executable, "-c", WAITS, str(tmp_path)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    run.send_signal(number)
    _, err = run.communicate(timeout=60)
    assert (run.returncode, err) == (status, "waits: interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["begun"]


def test_a_handler_of_somebody_elses_stays_and_ours_goes() -> None:
    seen: list[object] = []

    def look(args: argparse.Namespace) -> None:
        seen.append(signal.getsignal(signal.SIGTERM))

    parser = make_parser("looks", None)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        assert run_command(parser, look, []) == 0
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert run_command(parser, look, []) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert callable(seen[0]) and seen[0] is not signal.SIG_DFL
    assert seen[1] is signal.SIG_IGN


def test_a_fork_of_a_command_ends_by_the_signal_itself() -> None:
    def fork(args: argparse.Namespace) -> None:
        receiver, sender = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(sender, b"!")  # Python drops a signal that comes before it has begun as a fork
            time.sleep(60)
            os._exit(0)
        os.read(receiver, 1)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM

    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        assert run_command(make_parser("forks", None), fork, []) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
