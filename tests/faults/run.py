"""Run real torchrun jobs, do every fault to them, and print what came of it as a table.

    python tests/faults/run.py [--kills 80 20] [--jobs 2] [--only 'kill/*'] [--json faults.json]

A run that is interrupted continues where it was; --overwrite starts from the beginning. Exit status 1 when anything
was wrong.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])  # the root, so that no file here shadows the library

import torch

from recognition.cli import make_parser, non_negative_int, positive_int, run_command
from recognition.console import Stopwatch, count, duration, progress
from recognition.errors import ArcShardError
from recognition.work.files import write_text
from recognition.work.journal import Journal
from recognition.work.revision import find_revision
from tests.faults.around import around_cases
from tests.faults.cases import fault_cases
from tests.faults.damage import damage_cases
from tests.faults.disk import disk_cases
from tests.faults.folder import folder_cases
from tests.faults.kills import draw_kills, kill_case
from tests.faults.outcome import Case, table
from tests.faults.runs import Lab
from tests.faults.speed import slowness

IN_SAVE = 0.4
"""The share of the kills that strike inside a save."""


class FaultError(ArcShardError):
    """Something did not come out as it should."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, do the faults, and return the exit status."""
    parser = make_parser("faults", __doc__)
    parser.add_argument("--output", type=Path, default=Path("work_dirs/faults"), help="folder of the jobs and results")
    parser.add_argument(
        "--kills",
        type=non_negative_int,
        nargs=2,
        default=(80, 20),
        metavar=("N2", "N3"),
        help="kills of jobs of two and of three ranks (default 80 20)",
    )
    parser.add_argument(
        "--flips", type=non_negative_int, default=100, help="random bits flipped per file (default 100)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the kills (default 0)")
    parser.add_argument("--jobs", type=positive_int, default=2, help="jobs side by side (default 2)")
    parser.add_argument("--only", action="append", metavar="PATTERN", help="cases by name, for example 'kill/*'")
    parser.add_argument("--json", type=Path, help="write all outcomes here")
    parser.add_argument("--overwrite", action="store_true", help="forget what an earlier run of this folder found")
    return run_command(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    """Do what is left to do, print the table of everything, and raise FaultError when something was wrong."""
    if not Path("/proc/self/environ").exists():
        raise FaultError("/proc: is missing; expected Linux, where the processes of a job are found; run it there")
    torch.set_num_threads(1)
    watch = Stopwatch()
    folder = args.output.resolve()
    if args.overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(
        _made(folder / "journal"), {"seed": args.seed, "kills": list(args.kills), "code": find_revision()}
    )
    cases = [case for case in all_cases(args) if _is_asked_for(case, args.only)]
    left = [case for case in cases if case.key not in journal.done]
    for key, outcome in progress(_outcomes(left, Lab(folder), args.jobs), total=len(left), unit="case", label="faults"):
        journal.append(key, outcome)
        sys.stderr.write(_line(key, outcome))
    found = {record["key"]: record for record in journal.records()}
    journal.close()
    outcomes = [found[case.key] for case in cases]
    sys.stdout.write(f"{table(outcomes)}\n\n{_summary(outcomes, watch.seconds)}\n")
    if args.json:
        write_text(args.json, json.dumps({"outcomes": outcomes}, indent=1) + "\n")
    wrong = [outcome["key"] for outcome in outcomes if outcome["fault"]]
    if wrong:
        raise FaultError(
            f"{folder}: {count(len(wrong), 'case')} of {len(outcomes)} came out wrong; expected none; look into "
            f"{folder}/jobs/ and repeat with --output work_dirs/again --only '{wrong[0]}'"
        )


def _line(key: str, outcome: Mapping[str, Any]) -> str:
    """Return what a case took, and what was waited for: a slow one says where the time went."""
    waits = f"; waited for {', '.join(outcome['waits'])}" if outcome["waits"] else ""
    wrong = f"WRONG: {outcome['fault']} ({outcome['note']})" if outcome["fault"] else "as it should be"
    return f"\n{key}: {wrong}, {outcome['seconds']:.1f} s, timeouts x {slowness():.1f}{waits}\n"


def all_cases(args: argparse.Namespace) -> list[Case]:
    """Return every case, the kills first."""
    counts = dict(zip((2, 3), args.kills))
    in_save = {ranks: -int(-number * IN_SAVE // 1) for ranks, number in counts.items()}
    kills = draw_kills(counts, in_save=in_save, seed=args.seed)
    return [
        *map(kill_case, kills),
        *fault_cases(),
        *disk_cases(),
        *folder_cases(),
        *around_cases(),
        *damage_cases(flips=args.flips),
    ]


def _outcomes(cases: Sequence[Case], lab: Lab, jobs: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (key, outcome) as the cases end; a case's folder stays only when something was wrong."""
    stop = threading.Event()

    def work(case: Case) -> tuple[str, dict[str, Any]] | None:
        if stop.is_set():
            return None
        outcome = case.outcome(lab)
        if not outcome.fault:
            shutil.rmtree(lab.place(case.key))
        return case.key, outcome.as_dict()

    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(work, case) for case in cases]
        try:
            for future in as_completed(futures):
                done = future.result()
                if done is not None:
                    yield done
        finally:
            stop.set()  # a case that failed in itself, or Ctrl-C: those under way end, no more begin


def _is_asked_for(case: Case, patterns: list[str] | None) -> bool:
    return patterns is None or any(fnmatch.fnmatch(case.key, pattern) for pattern in patterns)


def _summary(outcomes: Sequence[dict[str, Any]], seconds: float) -> str:
    kills = [outcome for outcome in outcomes if outcome["key"].startswith("kill/")]
    equal = sum(not outcome["fault"] for outcome in kills)
    wrong = sum(bool(outcome["fault"]) for outcome in outcomes)
    return (
        f"{equal} of {count(len(kills), 'kill')} ended bit-equal; {count(len(outcomes), 'case')}, {wrong} wrong, "
        f"{sum(outcome['hang'] for outcome in outcomes)} hangs, {sum(outcome['left_behind'] for outcome in outcomes)} "
        f"processes left behind, in {duration(seconds)} on {count(len(os.sched_getaffinity(0)), 'core')}; "
        f"code {find_revision()}"
    )


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
