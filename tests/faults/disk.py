"""A full disk: checkpoints go to a small tmpfs that the harness fills up, or, where mounting is not allowed, files that
may not grow."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from recognition.distributed.checkpoint import Checkpoint, list_checkpoints
from recognition.distributed.world import World
from tests.faults.cases import ends_well, resume, stops_alike
from tests.faults.compare import last_step
from tests.faults.launch import Job
from tests.faults.outcome import Case, Found
from tests.faults.runs import SAVE_EVERY, Lab

_SIZE_MIB = 24
BALLAST = "ballast"


def disk_cases() -> list[Case]:
    """Return the cases of this module; where no tmpfs can be mounted, the one that needs none."""
    cases = [Case("disk/limit", "files that may not grow", "ended", _no_growth)]
    if not can_mount():
        return cases
    return [
        Case("disk/passing", "disk full for a while", "bit-equal", _full_for_a_while),
        Case("disk/stays", "disk full for good, then resumed", "bit-equal", _full_for_good),
        *cases,
    ]


def _full_for_a_while(lab: Lab, place: Path) -> Found:
    """The first failed save is warned of, leaves the checkpoint before it whole, and costs nothing else."""
    with small_disk(place / "run" / "checkpoints") as checkpoints:
        # Slowed down, so that the run does not end before the disk has room again.
        fault = {"kind": "slow", "rank": 1, "pause_s": 0.05}
        settings = lab.settings(ranks=2, checkpoint__max_failures="100")
        with Job(place, settings, ranks=2, fault=fault) as job:
            job.wait_for((checkpoints / "latest").exists)
            fill(checkpoints)
            before = list_checkpoints(checkpoints)
            warned = job.wait_for(lambda: "no checkpoint" in job.said(0))
            wrong = "" if warned else f"no warning of a full disk: {job.said(0)[-300:]}"
            wrong = wrong or are_whole(before)
            (checkpoints / BALLAST).unlink()
            ended = job.end()
            warnings = job.said(0).count("no checkpoint")
            return Found(
                ended, wrong or ends_well(job, ended, lab.reference("fused", 2).run), f"{warnings} saves failed"
            )


def _full_for_good(lab: Lab, place: Path) -> Found:
    """After checkpoint.max_failures the run ends on all ranks, and goes on once there is room."""
    settings = lab.settings(ranks=2, checkpoint__max_failures="2")
    with small_disk(place / "run" / "checkpoints") as checkpoints:
        with Job(place, settings, ranks=2) as job:
            job.wait_for((checkpoints / "latest").exists)
            fill(checkpoints)
            ended = job.end()
            wrong = stops_alike(job, ended, "no checkpoint", "checkpoint.max_failures", "No space left")
        wrong = wrong or are_whole(list_checkpoints(checkpoints))
        if wrong or ended.left_behind:
            return Found(ended, wrong)
        (checkpoints / BALLAST).unlink()
        return resume(job, ended, lab.reference("fused", 2).run)


def _no_growth(lab: Lab, place: Path) -> Found:
    """No file of rank 0 may exceed a MiB after two checkpoints: ends as on a full disk, and needs no mount."""
    settings = lab.settings(ranks=2, checkpoint__max_failures="2")
    fault = {"kind": "file limit", "rank": 0, "step": 2 * SAVE_EVERY + 2, "bytes": 1 << 20}
    with Job(place, settings, ranks=2, fault=fault) as job:
        ended = job.end()
        wrong = stops_alike(job, ended, "no checkpoint", "checkpoint.max_failures", "File too large")
        reached = last_step(job.run)
    wrong = wrong or are_whole(list_checkpoints(job.run / "checkpoints"))
    return Found(ended, wrong, f"stopped at step {reached}")


def are_whole(checkpoints: list[Path]) -> str:
    """Return "" when there are some, and raise CheckpointError when one of them is torn."""
    if not checkpoints:
        return "no checkpoint was there before the disk was full"
    for path in checkpoints:
        if path.exists():
            Checkpoint(path).verify(World(0, 1, 0, torch.device("cpu")))
    return ""


def can_mount() -> bool:
    """Whether this process may mount a tmpfs."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with small_disk(Path(folder) / "disk"):
                return True
        except OSError:
            return False


@contextlib.contextmanager
def small_disk(target: Path) -> Iterator[Path]:
    """Mount a tmpfs of a few MiB at `target` for the time of the context; PermissionError where that is forbidden."""
    target.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE_MIB}m", "tmpfs", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PermissionError(f"{target}: no tmpfs can be mounted here ({done.stderr.strip()})")
    try:
        yield target
    finally:
        subprocess.run(["umount", "--lazy", str(target)], check=True)


def fill(folder: Path) -> None:
    """Write a file until the disk is full."""
    descriptor = os.open(folder / BALLAST, os.O_WRONLY | os.O_CREAT)
    try:
        with contextlib.suppress(OSError):
            while True:
                os.write(descriptor, b"\0" * 4096)
    finally:
        os.close(descriptor)
