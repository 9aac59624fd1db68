"""The run folder as a whole: on one small disk with everything in it, and wanted by two runs at once."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
from pathlib import Path

from recognition.distributed.checkpoint import list_checkpoints
from recognition.training.run_folder import LOCK
from tests.faults.cases import after, ends_well, resume, stops_alike
from tests.faults.compare import last_step
from tests.faults.disk import BALLAST, are_whole, can_mount, fill, small_disk
from tests.faults.launch import Job
from tests.faults.outcome import Case, Found
from tests.faults.runs import Lab

_HOLD_STEPS = 8
_TWO_LINES = re.compile(r".20\d\d-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ rank ")
_SLOW = {"kind": "slow", "rank": 1, "pause_s": 0.05}


def folder_cases() -> list[Case]:
    """Return the cases of this module; where no tmpfs can be mounted, those that need none."""
    cases = [
        Case("lock/two", "two starts in one folder", "bit-equal", _two_starts),
        Case("lock/two resumed", "two starts in one folder", "bit-equal", _two_starts_that_resume),
        Case("lock/take-over", "lock of a crashed machine, then --take-over", "bit-equal", _take_over),
    ]
    if not can_mount():
        return cases
    return [
        Case("folder/passing", "whole run folder full for a while", "bit-equal", _full_for_a_while),
        Case("folder/stays", "whole run folder full for good, then resumed", "bit-equal", _full_for_good),
        Case("folder/end", "whole run folder full at the end, then resumed", "bit-equal", _full_at_the_end),
        *cases,
    ]


def _full_for_a_while(lab: Lab, place: Path) -> Found:
    """Log, metrics, TensorBoard, weights and checkpoints at once: training goes on, and nothing is missing after it."""
    with small_disk(place / "run") as run:
        settings = lab.settings(ranks=2, checkpoint__max_failures="100", log__tensorboard="true")
        with Job(place, settings, ranks=2, fault=_SLOW) as job:
            job.wait_for((run / "checkpoints" / "latest").exists, "the first checkpoint")
            fill(run)
            before = list_checkpoints(run / "checkpoints")
            warned = job.wait_for(lambda: job.said(0).count("no checkpoint") >= 2, "the warnings")
            wrong = "" if warned else f"no warning of a full disk: {job.said(0)[-300:]}"
            wrong = wrong or are_whole(before)
            (run / BALLAST).unlink()
            ended = job.end()
            said = job.said(0)
            wrong = wrong or ends_well(job, ended, lab.reference("fused", 2).run)
            wrong = wrong or _is_quiet(said) or _speaks_of(said, "metrics.jsonl", "tfevents", "train.log", "rank0.log")
            wrong = wrong or _lines_are_whole(run)
    return Found(ended, wrong, f"{said.count('no checkpoint')} saves failed")


def _full_for_good(lab: Lab, place: Path) -> Found:
    """After checkpoint.max_failures the run ends on all ranks; with room again it goes on where its checkpoint is."""
    settings = lab.settings(ranks=2, checkpoint__max_failures="2", log__tensorboard="true")
    with small_disk(place / "run") as run:
        with Job(place, settings, ranks=2) as job:
            job.wait_for((run / "checkpoints" / "latest").exists, "the first checkpoint")
            fill(run)
            ended = job.end()
            wrong = stops_alike(job, ended, "no checkpoint", "checkpoint.max_failures", "No space left")
            wrong = wrong or _is_quiet(job.said(0)) or are_whole(list_checkpoints(run / "checkpoints"))
        if wrong or ended.left_behind:
            return Found(ended, wrong)
        (run / BALLAST).unlink()
        return resume(job, ended, lab.reference("fused", 2).run)


def _full_at_the_end(lab: Lab, place: Path) -> Found:
    """Where saves may fail, the run reaches its last step; its weights are what it cannot do without."""
    settings = lab.settings(ranks=2, checkpoint__max_failures="100", log__tensorboard="true")
    with small_disk(place / "run") as run:
        with Job(place, settings, ranks=2, fault=_SLOW) as job:
            job.wait_for(lambda: last_step(run) >= _HOLD_STEPS, f"step {_HOLD_STEPS}")
            fill(run)
            ended = job.end()
            wrong = stops_alike(job, ended, "model.safetensors", "cannot be written", "No space left")
            wrong = wrong or _is_quiet(job.said(0))
        if wrong or ended.left_behind:
            return Found(ended, wrong)
        (run / BALLAST).unlink()
        return resume(job, ended, lab.reference("fused", 2).run)


def _is_quiet(said: str) -> str:
    """A disk that is full is said in lines, and once a file: never in a traceback."""
    for words in ("Traceback", "Logging error"):
        if words in said:
            return f"{words}: {said[said.index(words) :][:300]}"
    once = said.count("metrics.jsonl: cannot be written")
    return "" if once <= 1 else f"{once} warnings for metrics.jsonl"


def _speaks_of(said: str, *names: str) -> str:
    lines = [line for line in said.splitlines() if "cannot be written" in line]
    missing = [name for name in names if not any(name in line for line in lines)]
    return f"no warning for {missing}: {lines}" if missing else ""


def _lines_are_whole(run: Path) -> str:
    for path in [run / "train.log", *(run / "logs").iterdir()]:
        torn = [line for line in path.read_text().splitlines() if _TWO_LINES.search(line)]
        if torn:
            return f"{path}: torn lines {torn[:2]}"
    return ""


def _two_starts(lab: Lab, place: Path, *more: str) -> Found:
    """The second start ends with who holds the folder, on all ranks; the first does not notice."""
    with Job(place / "first", [*lab.settings(ranks=2), *more], ranks=2, timeout_s=150) as first:
        first.wait_for(lambda: last_step(first.run) >= 2, "step 2")
        held = first.rank_pids()
        for pid in held.values():
            os.kill(pid, signal.SIGSTOP)  # so that it is at work for as long as the second takes to start
        second = Job(place / "second", [*lab.settings(ranks=2, seed="7"), *more], ranks=2, run=first.run)
        with second as job:
            refused = job.end()
            words = (
                "a run is at work in it",
                f"process {held.get(0)} on {socket.gethostname()}, since 20",
            )
            wrong = stops_alike(job, refused, *words)
        for pid in held.values():
            os.kill(pid, signal.SIGCONT)
        ended = first.end()
        return Found(after(refused, ended), wrong or ends_well(first, ended, lab.reference("fused", 2).run))


def _two_starts_that_resume(lab: Lab, place: Path) -> Found:
    return _two_starts(lab, place, "resume=true")


def _take_over(lab: Lab, place: Path) -> Found:
    """A file server may keep the lock of a machine that crashed: only then, and when asked, it is taken."""
    run = place / "run"
    run.mkdir(parents=True)
    (run / LOCK).write_text(json.dumps({"host": "node7", "pid": 41, "since": "2026-01-02 03:04:05"}))
    with open(run / LOCK, "rb") as kept:
        fcntl.flock(kept, fcntl.LOCK_EX)
        with Job(place, lab.settings(ranks=2), ranks=2) as job:
            refused = job.end()
            wrong = stops_alike(job, refused, "process 41 on node7, since 2026-01-02 03:04:05", "--take-over")
        with Job(place, lab.settings(ranks=2), ranks=2, arguments=["--take-over"]) as job:
            ended = job.end()
            wrong = wrong or ends_well(job, ended, lab.reference("fused", 2).run)
    return Found(after(refused, ended), wrong)
