"""Kill the data commands at random moments, start them again, and compare what they leave.

    python benchmarks/kill_tools.py lfw/images aligned/ work_dirs/kills --kills 20 --detector mtcnn

PHOTOS is a folder per person, ALIGNED what align_faces.py made of some, WORK a new folder. Each run is killed one to
three times with SIGKILL or SIGTERM, all its processes or one alone, at moments drawn over its length from the
appearance of its work folder on (a tenth of them: from its start), and then left to end. The same in every byte and
name as an undisturbed run with one process is what each has to leave; no process may be left.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

from recognition.cli import make_parser, positive_int, run_command
from recognition.errors import DataError
from recognition.formats.image_tree import ImageTree
from recognition.images.photos import PHOTO_SUFFIXES

ROOT = Path(__file__).resolve().parent.parent
PYTHON = [sys.executable]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
NAMES = ("align", "crop", "embed", "embed torchrun", "clean", "pack", "shuffle", "merge", "convert", "unpack")
COPIES = 20  # of each aligned face in the set that is packed, so that there is time to kill
WAIT_S = 600


@dataclass(frozen=True)
class Tool:
    """A command line without its launcher; OUT stands for the output. `work` is the folder it begins with in there."""

    name: str
    launcher: list[str]
    words: list[str]
    more: list[str]
    work: str

    def line(self, output: Path, *, undisturbed: bool = False) -> list[str]:
        """Return the command line: undisturbed by one process, else by all of them."""
        words = [f"{output}{word[3:]}" if word.split("/")[0] == "OUT" else word for word in self.words]
        return [*PYTHON, *words] if undisturbed else [*self.launcher, *words, *self.more]


@dataclass
class Outcome:
    """What came of the runs of a tool."""

    runs: int = 0
    kills: int = 0
    terminated: int = 0
    """How many of the kills were by SIGTERM."""
    equal: int = 0
    left: int = 0


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, kill, print the table, and return the exit status."""
    parser = make_parser("kill_tools", __doc__)
    add = parser.add_argument
    add("photos", type=Path, metavar="PHOTOS")
    add("aligned", type=Path, metavar="ALIGNED")
    add("work", type=Path, metavar="WORK")
    add("--kills", type=positive_int, default=20, help="at least this many of each command (default: 20)")
    add("--num-photos", type=positive_int, default=60, metavar="N", help="of PHOTOS (default: 60)")
    add("--num-faces", type=positive_int, default=320, metavar="N", help="of ALIGNED (default: 320)")
    add("--detector", default="mtcnn", help="default: mtcnn")
    add("--signals", nargs="+", choices=("KILL", "TERM"), default=["KILL", "TERM"], help="default: both, drawn")
    add("--only", nargs="+", choices=NAMES, metavar="NAME", help=f"some of: {', '.join(NAMES)}")
    add("--seed", type=int, default=0)
    return run_command(parser, _run, argv)


def _run(args: argparse.Namespace) -> None:
    if args.work.exists():
        raise DataError(f"{args.work}: exists already; expected a new folder; remove it")
    _copy(args.photos, args.work / "photos", args.num_photos)
    _copy(args.aligned, args.work / "faces", args.num_faces)
    tools = {tool.name: tool for tool in _tools(args.work, args.detector)}
    names = args.only or list(tools)
    if "clean" in names:
        _check(tools["embed"].line(args.work / "embedded", undisturbed=True))  # what it begins with
    draw = random.Random(args.seed)
    signals = [signal.Signals[f"SIG{name}"] for name in args.signals]
    print("command              runs  kills   TERM  equal  processes left  undisturbed", flush=True)
    for name in names:
        tool = tools[name]
        outcome, seconds = kill_often(tool, args.work / tool.name.replace(" ", "-"), args.kills, draw, signals)
        print(
            f"{tool.name:<19} {outcome.runs:>5}  {outcome.kills:>5}  {outcome.terminated:>5}  {outcome.equal:>5}  "
            f"{outcome.left:>14}  {seconds:>9.1f} s",
            flush=True,
        )


def kill_often(
    tool: Tool, place: Path, least_kills: int, draw: random.Random, signals: Sequence[signal.Signals]
) -> tuple[Outcome, float]:
    """Kill runs of a tool until there were enough; return what came of them, and the seconds of an undisturbed one."""
    whole = place / "whole"
    _check(tool.line(whole, undisturbed=True))
    expected = _tree(whole)
    begun, start = _start(tool, place / "timed"), time.monotonic()
    _await_work(begun, place / "timed" / tool.work)
    first = time.monotonic() - start
    begun.wait(WAIT_S)
    seconds = time.monotonic() - start
    outcome = Outcome()
    while outcome.kills < least_kills:
        output = place / f"run-{outcome.runs}"
        pids: list[int] = []
        chosen = [draw.choice(signals) for _ in range(draw.randint(1, 3))]
        kills = [number for number in chosen if _kill_one(tool, output, draw, (first, seconds), pids, number)]
        last = _start(tool, output)
        last.wait(WAIT_S)
        outcome.runs += 1
        outcome.kills += len(kills)
        outcome.terminated += kills.count(signal.SIGTERM)
        outcome.left += sum(not _is_gone(pid) for pid in [*pids, last.pid])
        is_equal = _tree(output) == expected
        outcome.equal += is_equal
        if is_equal:
            shutil.rmtree(output)  # of the others one wants to see what they left
    return outcome, seconds


def _kill_one(
    tool: Tool,
    output: Path,
    draw: random.Random,
    times: tuple[float, float],
    pids: list[int],
    number: signal.Signals,
) -> bool:
    """Start the tool and kill it by signal `number`, unless it ends before; return whether it was.

    `pids` gets its processes.
    """
    first, seconds = times
    running = _start(tool, output)
    pids.append(running.pid)
    if draw.random() < 0.1:
        time.sleep(draw.uniform(0, seconds))
    else:
        _await_work(running, output / tool.work)
        time.sleep(draw.uniform(0, seconds - first))
    is_killed = running.poll() is None
    if is_killed and tool.launcher == TORCHRUN:
        # One rank alone, or all and torchrun: its own death is no kill of the work, which its ranks go on with.
        ranks = _children(running.pid)
        pids += ranks
        for pid in draw.choice([[running.pid, *ranks], ranks[:1], ranks[1:]]):
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, number)
    elif is_killed and draw.random() < 0.5:
        os.killpg(running.pid, number)
    elif is_killed:
        running.send_signal(number)
    running.wait(WAIT_S)
    return is_killed


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def _tools(work: Path, detector: str) -> list[Tool]:
    photos, faces, embedded = str(work / "photos"), str(work / "faces"), str(work / "embedded")
    align = ["data_tools/align_faces.py", photos, "OUT", "--detector", detector, "--quiet"]
    embed = ["data_tools/embed_faces.py", faces, "OUT", "--model", "dlib", "--device", "cpu", "--quiet"]
    clean = ["data_tools/clean_faces.py", faces, "OUT", "--embeddings", embedded, "--device", "cpu", "--quiet"]
    crop = ["data_tools/crop_boxes.py", photos, _table(work), "OUT", "--size", "600", "--quiet"]
    return [
        Tool("align", PYTHON, [*align, "--workers", "1"], ["--workers", "2"], ".align"),
        Tool("crop", PYTHON, [*crop, "--workers", "1"], ["--workers", "2"], ".crops"),
        Tool("embed", PYTHON, embed, ["--workers", "2"], ".embed"),
        Tool("embed torchrun", TORCHRUN, embed, [], ".embed"),
        Tool("clean", PYTHON, clean, [], ".clean"),
        *_packing_tools(work),
    ]


def _packing_tools(work: Path) -> list[Tool]:
    """Return the commands that only move pictures, and make the set that they begin with."""
    many, packed = work / "many", str(work / "packed" / "train.rec")
    for name in ImageTree(work / "faces").names():
        for number in range(COPIES):
            target = (many / name).with_name(f"{number}-{Path(name).name}")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(work / "faces" / name, target)
    pack = ["data_tools/pack_rec.py", str(many)]
    _check([*PYTHON, *pack, str(work / "packed" / "train"), "--quiet"])
    shuffle = ["data_tools/shuffle_rec.py", packed, "OUT/train", "--memory", "8", "--quiet"]
    convert = ["data_tools/convert_rec.py", packed, "OUT", "--to", "webdataset", "--shard-images", "300", "--quiet"]
    return [
        Tool("pack", PYTHON, [*pack, "OUT/train", "--quiet", "--workers", "1"], ["--workers", "2"], ".train.part"),
        Tool("shuffle", PYTHON, shuffle, [], ".train.part"),
        Tool("merge", PYTHON, ["data_tools/merge_rec.py", packed, packed, "OUT/train", "--quiet"], [], ".train.part"),
        Tool("convert", PYTHON, convert, [], ".convert"),
        Tool("unpack", PYTHON, ["data_tools/unpack_rec.py", packed, "OUT", "--quiet"], [], ".unpack"),
    ]


def _table(work: Path) -> str:
    """Write a table with a box in each photo and return its path."""
    names = ImageTree(work / "photos", PHOTO_SUFFIXES).names()
    rows = [f"{json.dumps(name)},40,40,{60 + i % 20},70\n" for i, name in enumerate(names)]
    (work / "boxes.csv").write_text("NAME_ID,X,Y,W,H\n" + "".join(rows), encoding="utf-8")
    return str(work / "boxes.csv")


def _copy(source: Path, target: Path, num: int) -> None:
    for name in ImageTree(source, PHOTO_SUFFIXES).names()[:num]:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


def _start(tool: Tool, output: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    silent = subprocess.DEVNULL
    return subprocess.Popen(
        tool.line(output), cwd=ROOT, env=environment, stdout=silent, stderr=silent, start_new_session=True
    )


def _await_work(running: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + WAIT_S
    while not folder.is_dir() and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)


def _check(line: list[str]) -> None:
    """Run a command to its end."""
    done = subprocess.run(line, cwd=ROOT, capture_output=True, check=False, text=True)
    if done.returncode != 0:
        raise DataError(f"{' '.join(line)}: ended with {done.returncode}: {done.stderr[-500:]}; expected 0; see it")


def _tree(folder: Path) -> dict[str, bytes | None]:
    """Return every file and folder (None) below `folder`."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def _is_gone(group: int) -> bool:
    """Return whether no process of a group (torchrun's ranks have their own) is left, after some time to end."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


if __name__ == "__main__":
    sys.exit(main())
