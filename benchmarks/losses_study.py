"""Train every config of configs/losses with several seeds, and print their accuracy on people they have not seen.

    python benchmarks/losses_study.py work_dirs/lfw56/fold5.bin --seeds 1 2 3
    python benchmarks/losses_study.py work_dirs/lfw56/fold5.bin --losses arcface cosface --set train.num_epoch=20

Every run is a job of its own, below --output; one that has finished is not trained again, so a stopped study goes on.
Seeds come first: after each of them there is a row of every loss.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library
ROOT = Path(sys.path[0])

import argparse
import json
import math
import resource
import statistics
import subprocess
from collections.abc import Sequence
from typing import Any

from recognition.cli import make_parser, run_command
from recognition.errors import DataError

LOSSES = sorted(path.stem for path in (ROOT / "configs" / "losses").glob("*.yaml") if path.stem != "lfw_base")


def measured(args: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """Return what a run has reached: trained, verified and noted now, or read from its folder."""
    folder = args.output / f"{name}_{seed}"
    note = folder / "found.json"
    if note.is_file():
        found: dict[str, Any] = json.loads(note.read_text())
        return found
    print(f"{name}, seed {seed} ...", file=sys.stderr, flush=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "train_v2.py", f"configs/losses/{name}", f"output={folder}", f"seed={seed}", *args.set]
    if folder.is_dir():
        command.append("resume=true")
    done = subprocess.run([*command, "--quiet"], cwd=ROOT, check=False)
    if done.returncode:
        raise DataError(f"{folder}: the run ended with status {done.returncode}; its log is {folder / 'train.log'}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "eval/verify.py", str(folder), str(args.pairs.resolve()), "--json", "--quiet"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    row = json.loads(done.stdout)["results"][0]
    found = {
        "accuracy": row["accuracy"],
        "auc": row["auc"],
        "top1": _last(folder, "top1"),
        "loss": _last(folder, "loss"),
    }
    found["cpu_s"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    note.write_text(json.dumps(found))
    return found


def _last(folder: Path, name: str) -> float:
    """Return the mean of a number over the last tenth of the reports."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    values = [row[name] for row in rows if row["kind"] == "train"]
    return statistics.mean(values[-max(1, len(values) // 10) :])


def run(args: argparse.Namespace) -> None:
    """Train and verify every loss with every seed and print a table."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in args.losses}
    for seed in args.seeds:
        for name in args.losses:
            rows[name].append(measured(args, name, seed))
    if args.json:
        print(json.dumps(rows))
        return
    print("| loss | accuracy of each seed | mean | standard error | mean AUC | top-1 at the end | CPU s a run |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for name, found in sorted(rows.items(), key=lambda item: -statistics.mean(each["auc"] for each in item[1])):
        accuracies = [each["accuracy"] for each in found]
        means = {key: statistics.mean(each[key] for each in found) for key in ("auc", "top1", "cpu_s")}
        error = statistics.stdev(accuracies) / math.sqrt(len(found)) if len(found) > 1 else math.nan
        each = " ".join(f"{accuracy:.3f}" for accuracy in accuracies)
        print(
            f"| {name} | {each} | {statistics.mean(accuracies):.4f} | {error:.4f} | {means['auc']:.4f} | "
            f"{means['top1']:.3f} | {means['cpu_s']:.0f} |"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = make_parser("losses_study", __doc__)
    parser.add_argument("pairs", type=Path, help="a .bin of people the configs do not train on")
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=LOSSES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further keys of the configs")
    parser.add_argument("--output", type=Path, default=Path("work_dirs/losses_study"))
    parser.add_argument("--json", action="store_true")
    return run_command(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
