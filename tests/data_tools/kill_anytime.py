"""Kill real runs of the commands at random moments, run them again, and compare with undisturbed runs.

    python tests/data_tools/kill_anytime.py PHOTOS WORK --kills 20

PHOTOS is a folder per identity of about a hundred photos. All processes of the command get SIGKILL at a moment drawn
over the time that an undisturbed run takes; one run in three is killed once more. Prints a line for each command.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from recognition.cli import make_parser, positive_int, run_command
from recognition.console import progress
from recognition.errors import DataError

TIMEOUT_S = 600


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, kill, and return 1 when a run ended otherwise."""
    parser = make_parser("kill_anytime", __doc__)
    parser.add_argument("photos", type=Path, metavar="PHOTOS")
    parser.add_argument("work", type=Path, metavar="WORK", help="folder for the outputs; replaced")
    parser.add_argument("--kills", type=positive_int, default=20, metavar="N", help="of each command (default: 20)")
    parser.add_argument("--seed", type=int, default=0)
    return run_command(parser, _run, argv)


def commands(photos: Path, work: Path) -> dict[str, list[str]]:
    """Return the command lines by name, but for the output, which comes last; some read what others made."""
    python = [sys.executable]
    torchrun = [*python, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    faces, embedded = str(work / "align dlib"), str(work / "embed")
    return {
        "align dlib": [*python, "data_tools/align_faces.py", "--detector", "dlib", "--workers", "2", str(photos)],
        "align mtcnn": [*python, "data_tools/align_faces.py", "--detector", "mtcnn", "--workers", "2", str(photos)],
        "embed": [*python, "data_tools/embed_faces.py", "--model", "dlib", "--workers", "2", faces],
        "embed torchrun": [*torchrun, "data_tools/embed_faces.py", "--model", "dlib", faces],
        "clean": [*python, "data_tools/clean_faces.py", "--embeddings", embedded, faces],
    }


def kill_often(command: Sequence[str], output: Path, kills: int, dice: random.Random, *, label: str) -> tuple[int, int]:
    """Leave the undisturbed output; return how many killed runs ended equal to it, and how many kills struck a run."""
    shutil.rmtree(output, ignore_errors=True)
    started = time.perf_counter()
    _end([*command, str(output)])
    seconds = time.perf_counter() - started
    whole = _tree(output)
    equal = struck = 0
    other = output.with_name("killed")
    for number in progress(range(kills), total=kills, unit="kill", label=label, quiet=False):
        shutil.rmtree(other, ignore_errors=True)
        for _ in range(1 + (number % 3 == 2)):
            struck += _kill([*command, str(other)], dice.uniform(0, seconds))
        if not _is_finished(other):
            _end([*command, str(other)])
        equal += _tree(other) == whole
    shutil.rmtree(other, ignore_errors=True)
    return equal, struck


def _run(args: argparse.Namespace) -> None:
    args.work.mkdir(parents=True, exist_ok=True)
    dice = random.Random(args.seed)
    wrong = []
    for name, command in commands(args.photos, args.work).items():
        equal, struck = kill_often(command, args.work / name, args.kills, dice, label=name)
        print(f"{name:16} {args.kills} runs, {struck} kills, {equal} ended equal", flush=True)
        wrong += [name] * (equal < args.kills)
    if wrong:
        raise DataError(f"{args.work}: killed runs of {', '.join(wrong)} ended otherwise; expected equal outputs")


def _kill(command: Sequence[str], after_s: float) -> bool:
    """Start the command, kill all its processes after a time; return whether it still ran."""
    mark = f"{uuid.uuid4()}"
    environment = {**os.environ, "ARCSHARD_KILLED": mark}
    quiet = subprocess.DEVNULL
    running = subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet, env=environment)
    try:
        running.wait(after_s)
        return False
    except subprocess.TimeoutExpired:
        while processes := _marked(mark):
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            running.poll()
        return True


def _marked(mark: str) -> list[int]:
    """Return the living processes with `mark` in their environment, whatever session they are in."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark.encode() in path.read_bytes():  # empty once the process is dead
                found.append(int(path.parent.name))
    return found


def _end(command: Sequence[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise DataError(f"{' '.join(command)}: exit status {done.returncode}: {done.stderr[-400:]}")


def _is_finished(output: Path) -> bool:
    """Return whether the run came to its end, behind which the command refuses to go over the output again."""
    return any(output.glob("*.json")) and not any(path.is_dir() for path in output.glob(".*"))


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


if __name__ == "__main__":
    sys.exit(main())
