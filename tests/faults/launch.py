"""One real torchrun job: started, watched from outside, signalled, and ended without a trace."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.faults.speed import slowness

ROOT = Path(__file__).resolve().parents[2]
MARK = "ARCSHARD_FAULTS_JOB"
FAULT = "ARCSHARD_FAULT"
_GRACE_S = 3.0
"""What a job's helpers (loader processes, their server) may take to see that it is gone."""
_SHOWN_S = 1.0
"""Waits below this are not worth a word."""


@dataclass(frozen=True)
class Ended:
    """How a job ended. `status` is None when it had to be killed at its timeout: a hang."""

    status: int | None
    seconds: float
    left_behind: tuple[str, ...]
    """The command lines of its processes that outlived it; they are killed."""
    waits: tuple[str, ...] = ()
    """What was waited for, and how long."""


class Job:
    """`torchrun` with `ranks` processes of train_v2 (by way of job.py) in the folder `place`; ended with its context.

    place/run is the run folder, place/ranks holds each start's output by rank, place/torchrun.log the agent's words.
    `fault` is what job.py does to the first start from inside. `run` is another run folder, `arguments` are flags of
    train_v2, `variables` are added to the environment. `seconds` counts from `start`. All timeouts are those of an idle
    machine: they grow as it slows down (`speed.slowness`).
    """

    def __init__(
        self,
        place: Path,
        settings: Sequence[str],
        *,
        ranks: int,
        restarts: int = 0,
        timeout_s: float = 90.0,
        fault: Mapping[str, object] | None = None,
        run: Path | None = None,
        arguments: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.place = place
        self.run = run or place / "run"
        self.waits: list[str] = []
        """What was waited for for longer than a moment."""
        self._arguments = arguments
        self._variables = dict(variables or {})
        self._slowness = 1.0
        self.settings = settings
        self.ranks = ranks
        self._restarts = restarts
        self._timeout_s = timeout_s
        self._fault = fault
        self.mark = {MARK: f"{uuid.uuid4()}"}
        """The variable by which the job's processes are known."""
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0

    def __enter__(self) -> Job:
        self.place.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.place / "ranks", ignore_errors=True)
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={self.ranks}",
            f"--max-restarts={self._restarts}",
            "--redirects=3",
            f"--log-dir={self.place / 'ranks'}",
            str(ROOT / "tests" / "faults" / "job.py"),
            str(ROOT / "configs" / "base"),
            *self.settings,
            f"output={self.run}",
            *self._arguments,
        ]
        launcher = {"RANK", "WORLD_SIZE", "LOCAL_RANK", FAULT}
        environment = {key: value for key, value in os.environ.items() if key not in launcher}
        environment |= {"OMP_NUM_THREADS": "1", **self._variables, **self.mark}
        if self._fault:
            environment[FAULT] = json.dumps(self._fault)
        self._started = time.monotonic()
        with open(self.place / "torchrun.log", "wb") as log:
            self._process = subprocess.Popen(
                command, cwd=self.place, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill_all()
        assert self._process is not None
        self._process.wait()

    @property
    def agent(self) -> int:
        """The process id of torchrun's agent."""
        assert self._process is not None, "a job runs within its context"
        return self._process.pid

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    @property
    def is_running(self) -> bool:
        """Whether the agent lives."""
        return self._process is not None and self._process.poll() is None

    def rank_pids(self) -> dict[int, int]:
        """Return the live processes of the ranks: process id by rank."""
        found = {}
        for pid in children_of(self.agent):
            variables = _environment(pid)
            if self._is_own(variables) and "RANK" in variables:
                found[int(variables["RANK"])] = pid
        return found

    def wait_for(self, happened: Callable[[], object], what: str = "", *, poll_s: float = 0.004) -> bool:
        """Wait until `happened()` is true; False when the job ended or its time ran out first. `what` says it in words.

        A time that runs out is first measured against the machine's speed of that moment.
        """
        started = self.seconds
        try:
            while not happened():
                if not self.is_running or self._is_over():
                    return bool(happened())
                time.sleep(poll_s)
            return True
        finally:
            self._note_wait(what or getattr(happened, "__name__", "something").replace("_", " "), started)

    def end(self) -> Ended:
        """Wait for the end, at most until the timeout, and return how it came; nothing of the job lives afterwards."""
        assert self._process is not None
        started = self.seconds
        status: int | None = None
        while status is None and not self._is_over():
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = self._process.wait(max(0.1, min(1.0, self._timeout_s * self._slowness - self.seconds)))
        seconds = self.seconds
        self._note_wait("the end", started)
        left: list[int] = []
        deadline = time.monotonic() + _GRACE_S * slowness()
        while status is not None and (left := self._survivors()) and time.monotonic() < deadline:
            time.sleep(0.05)
        words = tuple(_command_line(pid) for pid in left)
        self._kill_all()
        return Ended(status, seconds, words, tuple(self.waits))

    def _is_over(self) -> bool:
        """Whether the job's time is up, by the slowest speed that the machine had during it."""
        if self.seconds <= self._timeout_s * self._slowness:
            return False
        self._slowness = max(self._slowness, slowness())
        if self.seconds <= self._timeout_s * self._slowness:
            return False
        self._slowness = max(self._slowness, slowness(now=True))
        return self.seconds > self._timeout_s * self._slowness

    def _note_wait(self, what: str, started_s: float) -> None:
        if self.seconds - started_s > _SHOWN_S:
            self.waits.append(f"{what} {self.seconds - started_s:.1f} s")

    def starts(self) -> int:
        """Return how often the ranks were started."""
        return len(list((self.place / "ranks").glob("*/attempt_*")))

    def said(self, rank: int, start: int = -1) -> str:
        """Return what `rank` wrote to stderr in its first (0), second (1), or last (-1) start."""
        found = sorted((self.place / "ranks").glob(f"*/attempt_*/{rank}/stderr.log"))
        return found[start].read_text(errors="replace") if found else ""

    def errors(self, start: int = -1) -> list[str]:
        """Return each rank's last line that reports an error, in rank order; "" for a rank without one."""
        lines = []
        for rank in range(self.ranks):
            own = [line for line in self.said(rank, start).splitlines() if line.startswith("train_v2: error: ")]
            lines.append(own[-1] if own else "")
        return lines

    def _is_own(self, variables: Mapping[str, str]) -> bool:
        return self.mark.items() <= variables.items()

    def _survivors(self) -> list[int]:
        pids = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
        return [pid for pid in pids if self._is_own(_environment(pid))]

    def _kill_all(self) -> None:
        while pids := self._survivors():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)


def children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _environment(pid: int) -> dict[str, str]:
    """Return the variables a process started with; none for one that is gone (or a zombie, which holds nothing)."""
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(entry.partition("=")[::2] for entry in entries)


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
