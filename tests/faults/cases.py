"""Every other fault: ranks that stop or crawl, records and files that break, NaNs, signals, lost loader processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.faults.compare import difference, last_step, newest_checkpoint, tensors_of
from tests.faults.launch import Ended, Job, children_of
from tests.faults.outcome import Case, Found
from tests.faults.runs import SAVE_EVERY, Lab
from tests.faults.speed import slowness

AT = 10
"""The step at which most faults strike, behind two checkpoints."""
TIMEOUT_S = 8.0
"""What the ranks are told to wait for each other on an idle machine."""
_AGENT_S = 30.0
"""torchrun sends SIGTERM to the ranks that are left, and SIGKILL half a minute later."""


def fault_cases() -> list[Case]:
    """Return all cases of this module."""
    return [
        *(_case("stopped rank", f"stopped/end/{rank}", "ended", _stop(rank)) for rank in (0, 1)),
        _case("stopped rank, continued too late", "stopped/continued", "ended", _stop(1, is_continued=True)),
        _case("stopped rank, restart", "stopped/restart", "bit-equal", _stop_and_restart),
        _case("slow rank", "slow/each", "bit-equal", _slow(pause_s=0.1)),
        _case("slow rank", "slow/once", "bit-equal", _slow(pause_s=TIMEOUT_S / 2, step=AT)),
        *(_case("corrupt record, raise", f"record/raise/{n}", "ended", _corrupt_record(n)) for n in (2, 3)),
        _case("corrupt record, raise", "record/raise/workers", "ended", _corrupt_record(2, data__num_workers="1")),
        _case("corrupt record, skip, SIGKILL", "record/skip", "bit-equal", _skip_records),
        _case("data file gone", "files/picture", "ended", _lose_picture),
        _case("data file cut short", "files/cut", "ended", _cut_records),
        _case("data file unlinked, still open", "files/unlinked", "bit-equal", _unlink_records),
        _case("NaN in a shard", "nan/stop", "ended", _break_shard(2, is_resumed=False)),
        *(_case("NaN in a shard, then resumed", f"nan/{n}", "bit-equal", _break_shard(n)) for n in (2, 3)),
        *(
            _case(f"{name} to {target}, then resumed", f"signal/{name}/{target}", "bit-equal", _signal(name, target))
            for name in ("SIGTERM", "SIGINT")
            for target in ("torchrun", "one rank")
        ),
        _case("SIGTERM to one rank, restart", "signal/restart", "bit-equal", _terminate_and_restart),
        _case("SIGUSR1: saves and goes on", "signal/SIGUSR1", "bit-equal", _save_on_signal),
        _case("error on one rank, NCCL's shutdown", "nccl/error", "ended", _fail_beside_nccl),
        _case("killed loader process", "loader/end", "ended", _kill_loader),
        _case("killed loader process, restart", "loader/restart", "bit-equal", _kill_loader_and_restart),
    ]


def _case(group: str, key: str, wanted, run) -> Case:  # type: ignore[no-untyped-def]
    return Case(key, group, wanted, run)


Run = Callable[[Lab, Path], Found]


def stops_alike(job: Job, ended: Ended, *words: str) -> str:
    """Return what is wrong with a job that must end with status 1 and one line on every rank, holding `words`."""
    lines = job.errors()
    if ended.status != 1:
        return f"status {ended.status}; expected 1: {lines}"
    if len(set(lines)) != 1:
        return f"the ranks differ: {lines}"
    return _lacks(lines[0], *words)


def ends_well(job: Job, ended: Ended, reference: Path) -> str:
    """Return what is wrong with a job that must end with status 0 as the undisturbed run."""
    if ended.status != 0:
        return f"status {ended.status}; expected 0: {job.errors()} {job.said(0)[-300:]}"
    return difference(job.run, reference)


def _lacks(line: str, *words: str) -> str:
    missing = [word for word in words if word not in line]
    return f"{line!r} does not say {missing}" if missing else ""


def _reach(job: Job, step: int) -> str:
    return (
        ""
        if job.wait_for(lambda: last_step(job.run) >= step, f"step {step}")
        else f"never reached step {step}: {job.errors()}"
    )


def _stop(rank: int, *, is_continued: bool = False) -> Run:
    """SIGSTOP: the other rank must say so after the timeout; torchrun then ends the stopped one."""

    def run(lab: Lab, place: Path) -> Found:
        timeout_s = TIMEOUT_S * slowness()
        settings = lab.settings(ranks=2, train__timeout_s=str(timeout_s))
        with Job(place, settings, ranks=2, timeout_s=120) as job:
            fault = _reach(job, AT)
            stopped_s = job.seconds
            pid = job.rank_pids()[rank]
            os.kill(pid, signal.SIGSTOP)
            spoke = job.wait_for(lambda: job.errors()[1 - rank], "the other rank's line")
            silence_s = job.seconds - stopped_s
            if is_continued:
                with contextlib.suppress(ProcessLookupError):  # torchrun may have ended it by now
                    os.kill(pid, signal.SIGCONT)
            ended = job.end()
            line = job.errors()[1 - rank]
        if not fault and not spoke:
            fault = "the other rank never spoke"
        late_s = slowness()
        if not fault and silence_s > timeout_s + 5 * late_s:
            fault = f"the other rank spoke after {silence_s:.1f} s; the timeout was {timeout_s:.1f}"
        if not fault and ended.seconds - stopped_s > timeout_s + 20 * late_s + (0 if is_continued else _AGENT_S):
            fault = f"ended {ended.seconds - stopped_s:.1f} s after the stop"
        fault = fault or ("" if ended.status == 1 else f"status {ended.status}; expected 1")
        return Found(
            ended, fault or _lacks(line, "waited in vain for the other ranks"), f"spoke after {silence_s:.1f} s"
        )

    return run


def _stop_and_restart(lab: Lab, place: Path) -> Found:
    settings = lab.settings(ranks=2, train__timeout_s=str(TIMEOUT_S * slowness()))
    with Job(place, settings, ranks=2, restarts=1, timeout_s=150) as job:
        fault = _reach(job, AT)
        os.kill(job.rank_pids()[1], signal.SIGSTOP)
        ended = job.end()
        return Found(ended, fault or ends_well(job, ended, lab.reference("fused", 2).run))


def _slow(**pause: float) -> Run:
    def run(lab: Lab, place: Path) -> Found:
        settings = lab.settings(ranks=2, train__timeout_s=str(TIMEOUT_S * slowness()))
        with Job(place, settings, ranks=2, fault={"kind": "slow", "rank": 1, **pause}) as job:
            ended = job.end()
            return Found(ended, ends_well(job, ended, lab.reference("fused", 2).run))

    return run


def _corrupt_record(ranks: int, **changed: str) -> Run:
    def run(lab: Lab, place: Path) -> Found:
        key = break_record(_own_set(lab, place), number=77)
        settings = lab.settings(ranks=ranks, **{"data__rec": str(place / "set"), **changed})
        with Job(place, settings, ranks=ranks) as job:
            ended = job.end()
            return Found(ended, stops_alike(job, ended, "train.rec", f"record {key} "))

    return run


def _fail_beside_nccl(lab: Lab, place: Path) -> Found:
    """Nobody waits in the shutdown: the rank that fails says why, and the other that it has lost it."""
    fault = {"kind": "error beside NCCL", "rank": "all", "fails": 1, "step": AT}
    with Job(place, lab.settings(ranks=2, train__timeout_s=str(TIMEOUT_S)), ranks=2, fault=fault) as job:
        ended = job.end()
        wrong = "" if ended.status == 1 else f"status {ended.status}; expected 1"
        if "a mistake of ours" not in job.said(1):
            wrong = wrong or f"rank 1 says {job.said(1)[-300:]!r}"
        # torchrun may end the other before it has spoken.
        lines = [line for line in job.errors()[:1] if line]
        if lines and "lost the connection to another rank" not in lines[0]:
            wrong = wrong or f"rank 0 says {lines[0]!r}"
        return Found(ended, wrong)


def _skip_records(lab: Lab, place: Path) -> Found:
    """Two bad records: the run lists both and goes to its end, and so does one that is killed, as the same run."""
    rec = _own_set(lab, place)
    keys = [break_record(rec, number) for number in (31, 77)]
    settings = lab.settings(ranks=2, data__rec=str(place / "set"), data__on_bad_record="skip")
    with Job(place / "undisturbed", settings, ranks=2) as job:
        ended = job.end()
        reference = job.run
        wrong = "" if ended.status == 0 else f"status {ended.status}; expected 0: {job.errors()}"
    if wrong or ended.left_behind:
        return Found(ended, wrong)
    with Job(place / "killed", settings, ranks=2, restarts=1) as job:
        wrong = _reach(job, AT)
        os.kill(job.rank_pids()[0], signal.SIGKILL)
        again = after(ended, job.end())
        wrong = wrong or ends_well(job, again, reference)
    for run in (reference, job.run):
        found = sorted(json.loads(line)["key"] for line in (run / "bad_records.jsonl").read_text().splitlines())
        wrong = wrong or ("" if found == keys else f"{run} lists the keys {found}; expected {keys}")
    return Found(again, wrong)


def _lose_picture(lab: Lab, place: Path) -> Found:
    """A folder of pictures of which one person's vanish in the middle of the run."""
    shutil.copytree(lab.inputs / "people", place / "people")
    # The pairs stay where they are.
    settings = lab.settings(ranks=2, data__rec=str(place / "people"), validation__val_dir=str(lab.inputs / "set"))
    with Job(place, settings, ranks=2) as job:
        fault = _reach(job, 2)
        shutil.rmtree(place / "people" / "p03")
        ended = job.end()
        return Found(ended, fault or stops_alike(job, ended, "p03/", "cannot be read"))


def _cut_records(lab: Lab, place: Path) -> Found:
    rec = _own_set(lab, place)
    with Job(place, lab.settings(ranks=2, data__rec=str(place / "set")), ranks=2) as job:
        fault = _reach(job, 2)
        os.truncate(rec, rec.stat().st_size // 3)
        ended = job.end()
        return Found(ended, fault or stops_alike(job, ended, "train.rec", "record "))


def _unlink_records(lab: Lab, place: Path) -> Found:
    rec = _own_set(lab, place)
    with Job(place, lab.settings(ranks=2, data__rec=str(place / "set")), ranks=2) as job:
        fault = _reach(job, 2)
        rec.unlink()
        ended = job.end()
        return Found(ended, fault or ends_well(job, ended, lab.reference("fused", 2).run))


def _break_shard(ranks: int, *, is_resumed: bool = True) -> Run:
    """A NaN stays in one center: every step is refused until all ranks stop; resumed without it the run goes on."""

    def run(lab: Lab, place: Path) -> Found:
        settings = lab.settings(ranks=ranks, train__max_refused_steps="5")
        fault = {"kind": "nan", "rank": 1, "step": AT}
        with Job(place, settings, ranks=ranks, fault=fault) as job:
            ended = job.end()
            words = ("rank 1: the centers", "train.max_refused_steps=5", f"step {AT + 5}:")
            wrong = stops_alike(job, ended, *words)
        saved = newest_checkpoint(job.run)
        if not wrong and (saved is None or not all(t.double().isfinite().all() for t in tensors_of(saved).values())):
            wrong = f"the newest checkpoint {saved} is not finite"
        if not is_resumed or wrong or ended.left_behind:
            return Found(ended, wrong)
        return resume(job, ended, lab.reference("fused", ranks).run)

    return run


def _signal(name: str, target: str) -> Run:
    """The job ends in order with a checkpoint of the very step; the same line with resume=true finishes it."""

    def run(lab: Lab, place: Path) -> Found:
        with Job(place, lab.settings(ranks=2), ranks=2) as job:
            wrong = _reach(job, AT)
            os.kill(job.agent if target == "torchrun" else job.rank_pids()[1], signal.Signals[name])
            ended = job.end()
            said = [job.said(rank) for rank in range(2)]
        wrong = wrong or stopped_in_order(job.run, ended, said, name if target != "torchrun" else "stopped by ")
        if wrong or ended.left_behind:
            return Found(ended, wrong)
        return resume(job, ended, lab.reference("fused", 2).run)

    return run


def stopped_in_order(run: Path, ended: Ended, said: list[str], name: str) -> str:
    """Return what is wrong with a job that a signal was to end: a line on each rank, a checkpoint of its last step."""
    saved, reached = newest_checkpoint(run), last_step(run)
    if ended.status == 0:
        return "status 0; expected that of a stopped run"
    if not all(name in words for words in said):
        return f"a rank does not say {name!r}: {[words[-200:] for words in said]}"
    if saved is None or int(saved.name.partition("_")[2]) != reached:
        return f"the newest checkpoint is {saved}; expected that of step {reached}"
    return ""


def _terminate_and_restart(lab: Lab, place: Path) -> Found:
    """To torchrun a rank that ends by a signal has failed: with restarts the job goes on."""
    with Job(place, lab.settings(ranks=2), ranks=2, restarts=1) as job:
        wrong = _reach(job, AT)
        os.kill(job.rank_pids()[0], signal.SIGTERM)
        ended = job.end()
        return Found(ended, wrong or ends_well(job, ended, lab.reference("fused", 2).run))


def _save_on_signal(lab: Lab, place: Path) -> Found:
    with Job(place, lab.settings(ranks=2), ranks=2) as job:
        wrong = _reach(job, AT)
        os.kill(job.rank_pids()[1], signal.SIGUSR1)
        ended = job.end()
        saved = set(map(int, re.findall(r"saved .*/step_(\d+)", (job.run / "train.log").read_text())))
        if not wrong and all(step % SAVE_EVERY == 0 for step in saved):
            wrong = f"saved at {sorted(saved)}: none of them at the signal"
        return Found(ended, wrong or ends_well(job, ended, lab.reference("fused", 2).run))


def _kill_loader(lab: Lab, place: Path) -> Found:
    with Job(place, lab.settings("loader processes", ranks=2), ranks=2) as job:
        wrong = _reach(job, AT) or _kill_one_loader(job)
        ended = job.end()
        return Found(ended, wrong or stops_alike(job, ended, "loader worker 0", "ended with status -9"))


def _kill_loader_and_restart(lab: Lab, place: Path) -> Found:
    with Job(place, lab.settings("loader processes", ranks=2), ranks=2, restarts=1) as job:
        wrong = _reach(job, AT) or _kill_one_loader(job)
        ended = job.end()
        return Found(ended, wrong or ends_well(job, ended, lab.reference("loader processes", 2).run))


def _kill_one_loader(job: Job) -> str:
    """Kill a grandchild of rank 1: its child is the server that loader processes are forked from."""
    rank = job.rank_pids().get(1)
    loaders = [] if rank is None else [pid for child in children_of(rank) for pid in children_of(child)]
    if not loaders:
        return "rank 1 has no loader process"
    with contextlib.suppress(ProcessLookupError):
        os.kill(loaders[0], signal.SIGKILL)
    return ""


def resume(first: Job, ended: Ended, reference: Path) -> Found:
    """Start a job that ended again, undisturbed and with resume=true, and hold it against the undisturbed run."""
    with Job(first.place, [*first.settings, "resume=true"], ranks=first.ranks) as job:
        again = after(ended, job.end())
        resumed = re.findall(r"resumed \S*/(step_\d+)", job.said(0))
        wrong = "" if resumed else f"it did not resume: {job.said(0)[-300:]}"
        return Found(again, wrong or ends_well(job, again, reference), f"resumed {resumed}")


def after(first: Ended, second: Ended) -> Ended:
    """Return two jobs, one after the other, as one."""
    return replace(
        second,
        seconds=first.seconds + second.seconds,
        left_behind=first.left_behind + second.left_behind,
        waits=first.waits + second.waits,
    )


def _own_set(lab: Lab, place: Path) -> Path:
    """Copy the packed set for a case that damages it, and return its .rec."""
    shutil.copytree(lab.inputs / "set", place / "set", ignore=shutil.ignore_patterns(".*"))
    return place / "set" / "train.rec"


def break_record(rec: Path, number: int) -> int:
    """Overwrite the middle of image `number` of a packed set (its label stays as it is) and return the record's key."""
    rows = [line.split("\t") for line in rec.with_suffix(".idx").read_text().splitlines()]
    offsets = {int(key): int(offset) for key, offset in rows}
    key = number + 1  # keys of this layout begin at 1
    start, stop = offsets[key], offsets[key + 1]
    with open(rec, "r+b") as handle:
        handle.seek(start + 32)  # behind the record's head (8) and its header (24)
        handle.write(b"\0" * (stop - start - 40))
    return key
