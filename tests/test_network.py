"""What of a run the network can reach: no port without a launcher, and nothing between ranks that is unpickled."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.places import ROOT
from tests.helpers.runs import SMALL, with_overrides

PACKAGE = ROOT / "recognition"
TAKES_PICKLES_APART = {"backbones/torch_file.py", "formats/pairs_bin.py"}
"""The readers that look at a pickle byte by byte and run nothing of it."""
_LISTENING = "0A"  # the state of a TCP socket in /proc/net/tcp


def _sources() -> dict[str, ast.Module]:
    paths = sorted(PACKAGE.rglob("*.py"))
    return {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def _listening(pid: int) -> list[str]:
    """Return the addresses, in hexadecimal, on which a process listens by TCP or waits by UDP."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the descriptor of this very look
            match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry))
            inodes |= {match[1]} if match else set()
    found = []
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes and (fields[3] == _LISTENING or table.startswith("udp")):
                found.append(f"{table} {fields[1]}")
    return found


def test_no_collective_of_objects_which_torch_unpickles() -> None:
    for name, tree in _sources().items():
        called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        called |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
        objects = {word for word in called if re.search(r"_objects?(_|$)", word)}
        assert not objects, f"recognition/{name}: {sorted(objects)}"


def test_pickle_is_imported_by_the_readers_that_take_one_apart_alone() -> None:
    found = set()
    for name, tree in _sources().items():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if {word.partition(".")[0] for word in names} & {
                "pickle",
                "cPickle",
                "dill",
                "marshal",
                "shelve",
                "joblib",
            }:
                found.add(name)
    assert found == TAKES_PICKLES_APART


def test_torch_reads_files_as_weights_alone() -> None:
    for name, tree in _sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "torch.load",
                "np.load",
                "np.lib.format.open_memmap",
            ):
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                is_safe = given.get("weights_only") == "True" or given.get("allow_pickle") == "False"
                assert is_safe or given.get("mode") == "'w+'", f"recognition/{name}:{node.lineno}"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_count_of_ports_sees_an_open_one() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        assert f"tcp 0100007F:{server.getsockname()[1]:04X}" in _listening(os.getpid())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_training_without_a_launcher_listens_nowhere(tmp_path: Path) -> None:
    settings = with_overrides(SMALL, "train.batch_size=6", "train.num_epoch=4000", f"output={tmp_path / 'run'}")
    command = [sys.executable, "train_v2.py", "configs/base", *settings]
    outside = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "MASTER_ADDR")}
    with open(tmp_path / "log", "wb") as log:
        run = subprocess.Popen(command, cwd=ROOT, env={**outside, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log)
    try:
        metrics = tmp_path / "run" / "metrics.jsonl"
        deadline = time.monotonic() + 240
        while not (metrics.is_file() and metrics.stat().st_size):
            assert run.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, "no step within four minutes"
            time.sleep(0.05)
        assert _listening(run.pid) == []
    finally:
        run.kill()
        run.wait()
