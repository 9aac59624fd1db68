"""Compare a student of dlib's network with ArcFace alone, by accuracy on LFW's fold 5: same photos, network and epochs.

    python benchmarks/distillation.py work_dirs/lfw/fold5_small.bin --output work_dirs/distillation
    python benchmarks/distillation.py fold5_small.bin --seeds 1 --epochs 8

After the steps of docs/recipes.md ("On LFW"). One process of one thread a run; a run whose folder is finished is not
taken again, so a stopped study goes on. A run's length is a number of epochs, since seconds depend on the machine; its
processor time is reported.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

import argparse
import json
import os
import resource
import statistics
import subprocess
from collections.abc import Sequence

from recognition.cli import make_parser, positive_int, run_command
from recognition.errors import DataError

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = {"student": "lfw_distill", "ArcFace alone": "lfw_medium"}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, train what is missing, and print the table."""
    parser = make_parser("distillation", __doc__)
    add = parser.add_argument
    add("pairs", type=Path, metavar="BIN", help="fold 5 at 56 pixels")
    add("--output", type=Path, default=Path("work_dirs/distillation"), help="folder for the runs")
    add("--seeds", type=int, nargs="+", default=[1, 2, 3])
    add("--epochs", type=positive_int, help="in place of the configs' own")
    add("--rec", help="data.rec of both, where it is not work_dirs/lfw/small")
    add("--teacher", help="the teacher's embeddings, where they are not work_dirs/lfw/teacher")
    return run_command(parser, _study, argv)


def _study(args: argparse.Namespace) -> None:
    found: dict[str, list[float]] = {}
    for seed in args.seeds:
        for kind, config in CONFIGS.items():
            folder = args.output / f"{config}_{seed}"
            seconds = _train(args, config, seed, folder)
            accuracy, auc = _judge(folder, args.pairs)
            found.setdefault(kind, []).append(accuracy)
            print(f"{kind:<14} seed {seed}  accuracy {accuracy:.4f}  AUC {auc:.4f}  {seconds:.0f} s of processor time")
    for kind, accuracies in found.items():
        print(f"{kind:<14} mean of {len(accuracies)}: {statistics.mean(accuracies):.4f}")


def _train(args: argparse.Namespace, config: str, seed: int, folder: Path) -> float:
    """Train, unless it is done, and return the processor time in seconds, which the folder keeps."""
    note = folder / "seconds.json"
    if note.is_file():
        return float(json.loads(note.read_text(encoding="utf-8")))
    settings = [f"seed={seed}", f"output={folder}", f"resume={str(folder.is_dir()).lower()}", "log.tensorboard=false"]
    if args.epochs:
        settings.append(f"train.num_epoch={args.epochs}")
    if args.rec:
        settings.append(f"data.rec={args.rec}")
    if args.teacher and config == "lfw_distill":
        settings.append(f"teacher.embeddings=[{args.teacher}]")
    before = _children_s()
    _run("train_v2.py", f"configs/{config}", *settings)
    seconds = _children_s() - before
    note.write_text(json.dumps(seconds), encoding="utf-8")
    return seconds


def _judge(folder: Path, pairs: Path) -> tuple[float, float]:
    """Return accuracy and AUC of a run."""
    (result,) = json.loads(_run("eval/verify.py", str(folder), str(pairs), "--json"))["results"]
    return float(result["accuracy"]), float(result["auc"])


def _run(script: str, *arguments: str) -> str:
    """Run a command of the checkout on one thread and return what it prints; DataError with its last line."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DataError(f"{script}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
