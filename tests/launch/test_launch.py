"""The launch scripts: one line for what is wrong, and two nodes that train as one does, also when one of them fails."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.places import ROOT
from tests.helpers.runs import SMALL, with_overrides

pytestmark = pytest.mark.slow

TINY = with_overrides(SMALL, "train.batch_size=6", "train.num_epoch=12")
SETTINGS = (
    "NNODES",
    "NODE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "NPROC_PER_NODE",
    "RESTARTS",
    "JOIN_TIMEOUT_S",
    "SLURM_SUBMIT_DIR",
)
TIMEOUT_S = 240


def _environment(**settings: str) -> dict[str, str]:
    """Return this environment without a launcher's variables, with `settings`."""
    kept = {key: value for key, value in os.environ.items() if key not in (*SETTINGS, "RANK", "WORLD_SIZE")}
    return {**kept, "OMP_NUM_THREADS": "1", **settings}


def _fail(script: str, *argv: str, **settings: str) -> str:
    """Run a script that must refuse to start, and return its line."""
    done = subprocess.run(
        [ROOT / "launch" / script, *argv],
        env=_environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


NODE = {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"NNODES": ""}, "NNODES: not set; expected a whole number from 1 to 10000; set NNODES=..."),
        ({"NNODES": "two"}, "NNODES: found 'two', expected a whole number from 1 to 10000"),
        ({"NODE_RANK": ""}, "NODE_RANK: not set; expected a whole number from 0 to 1"),
        ({"NODE_RANK": "2"}, "NODE_RANK: found 2, expected a whole number from 0 to 1"),
        ({"NODE_RANK": "-1"}, "NODE_RANK: found '-1', expected a whole number from 0 to 1"),
        ({"NODE_RANK": "a[$(exit 9)]"}, "NODE_RANK: found 'a[$(exit 9)]', expected a whole number from 0 to 1"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR: not set; expected the name or address of node 0"),
        ({"MASTER_ADDR": "203.0.113.7"}, "NODE_RANK: found 0, but MASTER_ADDR '203.0.113.7' is not this node; 0 is"),
        ({"MASTER_ADDR": "nowhere.invalid", "NODE_RANK": "1"}, "MASTER_ADDR: 'nowhere.invalid' is not known here ("),
        ({"MASTER_PORT": "80"}, "MASTER_PORT: found 80, expected a whole number from 1024 to 65535"),
        ({"RESTARTS": "many"}, "RESTARTS: found 'many', expected a whole number from 0 to 1000"),
        ({"NPROC_PER_NODE": "0"}, "NPROC_PER_NODE: found 0, expected a whole number from 1 to 1024"),
    ],
)
def test_a_wrong_setting_is_one_line_before_any_work(settings: dict[str, str], message: str) -> None:
    everything = {**NODE, "MASTER_PORT": str(_free_port()), **settings}
    assert _fail("multi_node.sh", "configs/demo", **everything).startswith(f"multi_node: error: {message}")


def test_a_busy_port_is_named_on_the_node_that_needs_it() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = str(server.getsockname()[1])
        line = _fail("multi_node.sh", "configs/demo", **{**NODE, "MASTER_PORT": port})
    assert line == (
        f"multi_node: error: MASTER_PORT: {port} is in use on this node; expected a free port; set MASTER_PORT=...\n"
    )


def test_a_config_is_needed() -> None:
    for script in ("single_node.sh", "multi_node.sh"):
        assert "no config named; expected " in _fail(script)
        assert "for example configs/ms1mv3_r50" in _fail(script, "optim.lr=0.1")


def test_the_job_script_wants_to_be_submitted(tmp_path: Path) -> None:
    assert "run this file with sbatch" in _fail("slurm.sbatch", "configs/demo")
    assert "submit from the root" in _fail("slurm.sbatch", "configs/demo", SLURM_SUBMIT_DIR=str(tmp_path))


def test_the_job_script_starts_every_node_with_what_slurm_says(tmp_path: Path) -> None:
    """Stand-ins for SLURM's two commands; the check of a config takes the place of its run."""
    for name, body in (("scontrol", "echo 127.0.0.1"), ("srun", 'shift; SLURM_NODEID=0 exec "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "n[0]", "SLURM_GPUS_ON_NODE": "2"}
    job["SLURM_JOB_ID"] = str(os.getpid())
    done = subprocess.run(
        [ROOT / "launch" / "slurm.sbatch", "configs/ms1mv3_r50", "--check"],
        env=_environment(**job, SLURM_SUBMIT_DIR=str(ROOT), PATH=f"{tmp_path}:{os.environ['PATH']}"),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    port = 20000 + os.getpid() % 20000
    assert f"NODE_RANK=0 of NNODES=1, MASTER_ADDR=127.0.0.1, MASTER_PORT={port}, NPROC_PER_NODE=2" in done.stderr
    assert "2 ranks" in done.stdout


class Nodes:
    """Launch scripts that run at once, each with its output in a file; all are ended with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = f"mark-{uuid.uuid4()}"
        self.running: list[subprocess.Popen] = []

    def start(self, script: str, *argv: str, **settings: str) -> None:
        with open(self.folder / f"{len(self.running)}.log", "wb") as log:
            process = subprocess.Popen(
                [ROOT / "launch" / script, ROOT / "configs" / "base", *TINY, *argv],
                env=_environment(ARCSHARD_TEST=self.mark, **settings),
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        self.running.append(process)

    def wait(self) -> str:
        """Return the output of all once they have ended well."""
        deadline = time.monotonic() + TIMEOUT_S
        codes = [process.wait(max(0.1, deadline - time.monotonic())) for process in self.running]
        text = "".join((self.folder / f"{number}.log").read_text() for number in range(len(codes)))
        assert codes == [0] * len(codes), text
        return text

    def wait_for(self, path: Path) -> None:
        """Return once `path` exists and is not empty; the scripts must not end before."""
        deadline = time.monotonic() + TIMEOUT_S
        while not path.exists() or not path.stat().st_size:
            assert time.monotonic() < deadline, f"{path} did not appear"
            assert self.are_running(), self.wait()
            time.sleep(0.02)

    def are_running(self) -> bool:
        """Tell whether none of the scripts has ended."""
        return all(process.poll() is None for process in self.running)

    def processes(self) -> dict[int, dict[str, str]]:
        """Return the environments of every live process that descends from a script here, by its id."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                entries = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
                variables = dict(entry.partition("=")[::2] for entry in entries)
                if variables.get("ARCSHARD_TEST") == self.mark:
                    found[int(folder.name)] = variables
        return found

    def end(self) -> None:
        for number in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        for process in self.running:
            process.wait()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    running = Nodes(tmp_path)
    yield running
    running.end()


def _curve(folder: Path) -> list[float]:
    """Return the loss of each step."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["loss"] for row in rows]


@pytest.fixture(scope="module")
def one_node(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Return the curve of two processes under one agent."""
    alone = Nodes(tmp_path_factory.mktemp("one"))
    try:
        alone.start("single_node.sh", "output=run", NPROC_PER_NODE="2")
        assert "single_node: 2 processes on this node, up to 3 restarts: " in alone.wait()
        return _curve(alone.folder / "run")
    finally:
        alone.end()


def _start_two(nodes: Nodes) -> None:
    port = str(_free_port())
    for rank in (1, 0):
        settings = {**NODE, "NODE_RANK": str(rank), "MASTER_PORT": port, "NPROC_PER_NODE": "1"}
        nodes.start("multi_node.sh", "output=run", **settings)


def test_two_nodes_reach_the_curve_of_one_and_leave_nothing_behind(nodes: Nodes, one_node: list[float]) -> None:
    _start_two(nodes)
    text = nodes.wait()
    for rank in (0, 1):
        assert f"multi_node: NODE_RANK={rank} of NNODES=2, MASTER_ADDR=127.0.0.1, MASTER_PORT=" in text
    assert len(one_node) == 132
    np.testing.assert_allclose(_curve(nodes.folder / "run"), one_node, rtol=1e-6)
    assert not nodes.processes()


def test_a_process_killed_on_one_node_brings_all_back_from_the_newest_checkpoint(
    nodes: Nodes, one_node: list[float]
) -> None:
    _start_two(nodes)
    nodes.wait_for(nodes.folder / "run" / "checkpoints" / "latest")
    by_rank = {variables["RANK"]: number for number, variables in nodes.processes().items() if "RANK" in variables}
    # The other node hears of the failure from its agent, not from its own process: the two then count differently.
    os.kill(by_rank["0"], signal.SIGSTOP)
    os.kill(by_rank["1"], signal.SIGKILL)
    time.sleep(4)
    os.kill(by_rank["0"], signal.SIGCONT)
    nodes.wait()
    assert "resumed run/checkpoints/step_" in (nodes.folder / "run" / "train.log").read_text()
    np.testing.assert_allclose(_curve(nodes.folder / "run"), one_node, rtol=1e-6)
    assert not nodes.processes()


def test_signals_to_the_script_save_and_stop_the_training(nodes: Nodes) -> None:
    folder = nodes.folder / "run" / "checkpoints"
    nodes.start("single_node.sh", "output=run", "checkpoint.every_epochs=999", NPROC_PER_NODE="2")
    (script,) = nodes.running
    nodes.wait_for(nodes.folder / "run" / "metrics.jsonl")
    script.send_signal(signal.SIGUSR1)
    nodes.wait_for(folder / "latest")
    asked = (folder / "latest").read_text()
    assert nodes.are_running(), "a request to save ends nothing"
    script.send_signal(signal.SIGTERM)
    assert script.wait(TIMEOUT_S) != 0
    log = (nodes.folder / "run" / "train.log").read_text()
    stopped = re.search(r"stopped by SIGTERM at step ([\d,]+)", log)
    assert stopped, log
    # Of the very step it stopped at, which may be the one that the request before had saved.
    assert (folder / "latest").read_text() == f"step_{int(stopped[1].replace(',', '')):08d}\n"
    assert (folder / "latest").read_text() >= asked
    assert not nodes.processes()
