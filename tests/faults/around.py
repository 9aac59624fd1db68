"""What is absent or odd around a run: git, a home, variables of a launcher, room on stdout, open files, the time."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests.faults.cases import after, ends_well, stops_alike
from tests.faults.launch import FAULT, ROOT, Ended, Job
from tests.faults.outcome import Case, Found
from tests.faults.runs import Lab
from tests.faults.speed import slowness

_TIMEOUT_S = 60.0
_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", FAULT)


def around_cases() -> list[Case]:
    """Return the cases of this module; those in a mount namespace where one can be made."""
    cases = [
        Case("around/git", "no git", "bit-equal", _without_git),
        Case("around/home", "no home and no place for temporary files", "bit-equal", _without_home),
        Case("around/clock", "a clock that jumps", "bit-equal", _jumping_clock),
        Case("around/stdout", "stdout and stderr on a full device", "ended", _full_streams),
        Case("around/files", "few open files", "ended", _few_files),
        Case("around/variables", "odd RANK, WORLD_SIZE, LOCAL_RANK, MASTER_*", "ended", _odd_variables),
        Case("around/config", "a config error under --max-restarts", "ended", _config_error),
        Case("around/cause", "torchrun's root cause", "ended", _root_cause),
    ]
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode == 0:
        cases.append(Case("around/shm", "64 KB of /dev/shm", "ended", _small_shm))
    return cases


def _without_git(lab: Lab, place: Path) -> Found:
    (place / "bin").mkdir()
    return _job_with(lab, place, {"PATH": str(place / "bin")})


def _without_home(lab: Lab, place: Path) -> Found:
    return _job_with(lab, place, {"HOME": "/proc/nowhere", "XDG_CACHE_HOME": "/proc/nowhere"})


def _job_with(lab: Lab, place: Path, variables: Mapping[str, str]) -> Found:
    with Job(place, lab.settings(ranks=2), ranks=2, variables=variables) as job:
        ended = job.end()
        wrong = ends_well(job, ended, lab.reference("fused", 2).run)
        return Found(ended, wrong or ("Traceback" if "Traceback" in job.said(0) else ""))


def _jumping_clock(lab: Lab, place: Path) -> Found:
    with Job(place, lab.settings(ranks=2), ranks=2, fault={"kind": "clock", "rank": 0}) as job:
        ended = job.end()
        return Found(ended, ends_well(job, ended, lab.reference("fused", 2).run))


def _alone(lab: Lab, place: Path, *more: str) -> list[str]:
    """Return a command that trains in one process, without a launcher."""
    settings = [*lab.settings(ranks=1), *more, f"output={place / 'run'}"]
    return [sys.executable, str(ROOT / "train_v2.py"), str(ROOT / "configs" / "base"), *settings]


def _shell(line: str, place: Path, variables: Mapping[str, str] | None = None) -> tuple[Ended, str]:
    """Run a line of shell and return how it ended and its stderr."""
    kept = {key: value for key, value in os.environ.items() if key not in _LAUNCHER}
    environment = {**kept, "OMP_NUM_THREADS": "1", **(variables or {})}
    started = time.monotonic()
    process = subprocess.Popen(
        ["sh", "-c", f"exec {line}" if line[0] == "/" else line],
        cwd=place,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    try:
        _, said = process.communicate(timeout=_TIMEOUT_S * slowness())
    except subprocess.TimeoutExpired:
        process.kill()
        _, said = process.communicate()
        return Ended(None, time.monotonic() - started, ()), said
    return Ended(process.returncode, time.monotonic() - started, ()), said


def _one_line(ended: Ended, said: str, *words: str) -> str:
    """Return what is wrong with a command that must end with status 1 and one line."""
    line = (said.splitlines() or [""])[-1]
    missing = [word for word in words if word not in line]
    if ended.status != 1 or not line.startswith("train_v2: error: ") or "Traceback" in said or missing:
        return f"status {ended.status}, expected 1 and one line with {missing}: {said[-300:]}"
    return ""


def _full_streams(lab: Lab, place: Path) -> Found:
    train, check = shlex.join(_alone(lab, place)), shlex.join(_alone(lab, place, "--check"))
    first, said = _shell(f"{check} >/dev/full", place)
    wrong = _one_line(first, said, "No space left on device")
    second, _ = _shell(f"{train} >/dev/full 2>/dev/full", place)
    log = (place / "run" / "train.log").read_text()
    if second.status != 0 or "Traceback" in log:
        wrong = wrong or f"status {second.status}, expected 0: {log[-300:]}"
    return Found(after(first, second), wrong, runs=2)


def _few_files(lab: Lab, place: Path) -> Found:
    """With too few the command says so; a soft limit below the hard one is raised."""
    few, said = _shell(f"ulimit -n 8; {_with_workers(lab, place)}", place)
    wrong = _one_line(few, said, "Too many open files", "ulimit -n")
    soft, said = _shell(f"ulimit -S -n 8; {_with_workers(lab, place)} resume=true", place)
    return Found(
        after(few, soft), wrong or ("" if soft.status == 0 else f"status {soft.status}: {said[-300:]}"), runs=2
    )


def _with_workers(lab: Lab, place: Path) -> str:
    return shlex.join(_alone(lab, place)).replace("data.num_workers=0", "data.num_workers=3")


_ODD: tuple[tuple[dict[str, str], str], ...] = (
    ({"RANK": "abc"}, "RANK: found 'abc'"),
    ({"RANK": "3"}, "RANK: found '3'"),
    ({"WORLD_SIZE": "0"}, "WORLD_SIZE: found '0'"),
    ({"LOCAL_RANK": "-1"}, "LOCAL_RANK: found '-1'"),
    ({"WORLD_SIZE": "2"}, "RANK: not set"),
    ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "x"}, "MASTER_PORT: found 'x'"),
    ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "no.host.invalid", "MASTER_PORT": "29617"}, "no.host.invalid"),
    ({"TORCHELASTIC_RESTART_COUNT": "x"}, "TORCHELASTIC_RESTART_COUNT: found 'x'"),
)


def _odd_variables(lab: Lab, place: Path) -> Found:
    command = shlex.join(_alone(lab, place, "train.timeout_s=3"))
    total, wrong = Ended(1, 0.0, ()), ""
    for variables, words in _ODD:
        ended, said = _shell(command, place, variables)
        total = after(total, ended)
        wrong = wrong or _one_line(ended, said, words)
    return Found(total, wrong, runs=len(_ODD))


def _config_error(lab: Lab, place: Path) -> Found:
    """No restart mends it, and none is tried. torchrun may end a rank before its line, but not the first one."""
    with Job(place, [*lab.settings(ranks=2), "optim.lrr=1"], ranks=2, restarts=3) as job:
        ended = job.end()
        lines = {line for line in job.errors() if line}
        wrong = "" if len(lines) == 1 and "optim.lrr" in lines.pop() else f"not one line: {job.errors()}"
        if ended.status != 1 or job.starts() != 1:
            wrong = wrong or f"status {ended.status} after {job.starts()} starts; expected 1 after 1"
        return Found(ended, wrong)


def _root_cause(lab: Lab, place: Path) -> Found:
    """The line of the rank is what torchrun reports, at the end of its own words."""
    with Job(place, [*lab.settings(ranks=2, data__rec=str(place / "nowhere"))], ranks=2) as job:
        ended = job.end()
        wrong = stops_alike(job, ended, "nowhere")
    words = (place / "torchrun.log").read_text()
    cause = words[words.find("Root Cause") :]
    found = "train_v2: error: " in cause and "nowhere" in cause
    return Found(ended, wrong or ("" if found else f"torchrun reports {cause[:400]!r}"))


def _small_shm(lab: Lab, place: Path) -> Found:
    inner = f"mount -t tmpfs -o size=64k tmpfs /dev/shm && {_with_workers(lab, place)}"
    ended, said = _shell(f"unshare -m sh -c {shlex.quote(inner)}", place)
    return Found(ended, "" if ended.status == 0 else f"status {ended.status}; expected 0: {said[-300:]}")
