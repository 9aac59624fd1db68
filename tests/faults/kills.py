"""SIGKILL of a rank: drawn from a seed, delivered by the harness or at a byte of a save, and the job's own restart."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tests.faults.compare import difference, last_step
from tests.faults.launch import Ended, Job
from tests.faults.outcome import Case, Found
from tests.faults.runs import SAVE_EVERY, STEPS, VALIDATE_EVERY, VARIANTS, Lab

SAVE_PLACES = ("staging", "rows", "replicated", "manifest", "rename", "latest", "pruning")
"""Before the copy, at a byte of three kinds of file, before the folder's rename, before `latest` names it, and before
an old one that is no longer kept is deleted."""
MOMENTS = ("start-up", "first step", "step", "validation", "end", "any time")
_TRIES = 6
_TIMEOUT_S = 150.0


@dataclass(frozen=True)
class Kill:
    """Which rank dies, and when. `share` in [0, 1) places it within its moment or its file, `save` counts from 1."""

    number: int
    ranks: int
    variant: str
    rank: int
    place: str
    share: float
    save: int
    step: int

    @property
    def in_save(self) -> bool:
        return self.place in SAVE_PLACES


def draw_kills(counts: Mapping[int, int], *, in_save: Mapping[int, int], seed: int) -> list[Kill]:
    """Return counts[ranks] kills for each number of ranks, in_save[ranks] of them inside a save.

    Places and variants take turns, so that each is hit alike often; the rest is drawn.
    """
    kills: list[Kill] = []
    for ranks, count in counts.items():
        for index in range(count):
            generator = random.Random(f"{seed} {ranks} {index}")
            places = SAVE_PLACES if index < in_save[ranks] else MOMENTS
            place = places[index % len(places)]
            kills.append(
                Kill(
                    number=len(kills),
                    ranks=ranks,
                    variant=_variant(index),
                    rank=_victim(place, generator.randrange(ranks)),
                    place=place,
                    share=generator.random(),
                    save=generator.randint(1, 5 if place == "pruning" else STEPS // SAVE_EVERY),
                    step=generator.randint(2, STEPS - 1),
                )
            )
    return kills


def kill_case(kill: Kill) -> Case:
    """Return the job that this kill interrupts and that must end as if it had not been."""
    group = "SIGKILL inside a save" if kill.in_save else "SIGKILL at a random moment"
    return Case(
        f"kill/{kill.number:03d}", f"{group}, W = {kill.ranks}", "bit-equal", lambda lab, place: _run(kill, lab, place)
    )


def _variant(index: int) -> str:
    """Loader processes cost another import of torch each: one job in ten."""
    others = [name for name in VARIANTS if name != "loader processes"]
    return "loader processes" if index % 10 == 9 else others[index % 10 % len(others)]


def _victim(place: str, rank: int) -> int:
    """Rank 0 alone writes what the ranks share."""
    return 0 if place in SAVE_PLACES and place not in ("staging", "rows") else rank


def _run(kill: Kill, lab: Lab, place: Path) -> Found:
    """Try until the kill lands: a random moment may fall behind the end of a run."""
    reference = lab.reference(kill.variant, kill.ranks)
    settings = lab.settings(kill.variant, ranks=kill.ranks)
    for attempt in range(_TRIES):
        own = place / f"try_{attempt}"
        fault = {**asdict(kill), "kind": "kill in a save"} if kill.in_save else None
        with Job(own, settings, ranks=kill.ranks, restarts=1, timeout_s=_TIMEOUT_S, fault=fault) as job:
            if not kill.in_save:
                _deliver(kill, job, reference.start_s, reference.total_s)
            at = last_step(job.run)
            ended = job.end()
            if job.starts() == 1 and ended.status == 0 and not kill.in_save:
                kill = replace(kill, share=kill.share * 0.7)
                continue
            when = f"save {kill.save}" if kill.in_save else f"step {max(at, 0)}"
            note = f"W={kill.ranks} {kill.variant}, rank {kill.rank}, {kill.place}, {when}"
            return Found(ended, _fault(job, ended, reference.run), note)
    return Found(ended, f"the kill missed the run {_TRIES} times")


def _fault(job: Job, ended: Ended, reference: Path) -> str:
    if ended.status != 0:
        return f"status {ended.status}: {' / '.join(job.errors()) or job.said(0)[-300:]}"
    if job.starts() != 2:
        return f"{job.starts()} starts; expected 2: the kill did not happen"
    return difference(job.run, reference)


def _deliver(kill: Kill, job: Job, start_s: float, total_s: float) -> None:
    """Wait for the moment and kill the rank, if the job is still there."""
    job.wait_for(lambda: kill.rank in job.rank_pids(), f"rank {kill.rank}")
    pid = job.rank_pids().get(kill.rank)
    if kill.place == "start-up":
        time.sleep(kill.share * start_s)
    elif kill.place == "first step":
        job.wait_for((job.run / "config.yaml").exists, "config.yaml")
        time.sleep(kill.share * 0.5)
    elif kill.place == "any time":
        time.sleep(kill.share * total_s)
    else:
        step, window_s = {
            "step": (kill.step, 0.02),
            "validation": (VALIDATE_EVERY * (1 + kill.step % (STEPS // VALIDATE_EVERY)), 0.06),
            "end": (STEPS, 0.5),
        }[kill.place]
        job.wait_for(lambda: last_step(job.run) >= step, f"step {step}")
        time.sleep(kill.share * window_s)
    if pid is not None and job.is_running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
