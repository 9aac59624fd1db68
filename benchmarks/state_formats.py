"""Measure what each format of centers and momentum costs in accuracy: train a config with each, and verify.

    python benchmarks/state_formats.py configs/demo work_dirs/demo_data/unseen.bin --seeds 1 2 3
    python benchmarks/state_formats.py configs/lfw_tiny work_dirs/lfw/fold5.bin --set train.num_epoch=18

Every run is a job of its own, below --output; one that has finished is not trained again, so a stopped study goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

import argparse
import json
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from recognition.cli import make_parser, positive_int, run_command
from recognition.errors import DataError

FORMATS = ("float32+float32", "bf16+float32", "bf16+bf16", "bf16+int8", "float32+none", "bf16+none")


@dataclass(frozen=True)
class Row:
    """What the runs of one format reached."""

    format: str
    accuracies: tuple[float, ...]
    aucs: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def cells(self) -> list[str]:
        """The columns of the table."""
        each = " ".join(f"{accuracy:.4f}" for accuracy in self.accuracies)
        means = [statistics.mean(values) for values in (self.accuracies, self.aucs, self.losses)]
        return [self.format, each, f"{means[0]:.4f}", f"{means[1]:.4f}", f"{means[2]:.3f}"]


def overrides(name: str) -> list[str]:
    """Return the keys of one format; without momentum the head's step is as much larger as momentum makes it."""
    centers, momentum = name.split("+")
    keys = [f"head.centers_format={centers}", f"head.momentum_format={momentum}"]
    return keys + (["head.lr_factor=10.0"] if momentum == "none" else [])


def train(args: argparse.Namespace, name: str, seed: int) -> Path:
    """Train one run unless its folder holds a finished one; return the folder."""
    folder = args.output / f"{Path(args.config).stem}_{name.replace('+', '_')}_{seed}"
    if (folder / "model.pt").is_file():
        return Path(folder)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={args.ranks}"]
    command += ["train_v2.py", args.config, f"output={folder}", f"seed={seed}", *overrides(name), *args.set]
    command += ["validation.every_steps=1000000"]  # only the end counts
    print(f"{name}, seed {seed} ...", file=sys.stderr)
    done = subprocess.run([*command, "--quiet"], cwd=Path(__file__).resolve().parent.parent, check=False)
    if done.returncode:
        raise DataError(f"{folder}: the run ended with status {done.returncode}; its log is {folder / 'train.log'}")
    return Path(folder)


def verify(folder: Path, pairs: Path) -> tuple[float, float]:
    """Return (accuracy, AUC) of a run."""
    command = [sys.executable, "eval/verify.py", str(folder), str(pairs), "--json", "--quiet"]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=Path(__file__).resolve().parent.parent
    )
    found = json.loads(done.stdout)["results"][0]
    return found["accuracy"], found["auc"]


def last_loss(folder: Path) -> float:
    """Return the mean loss of the last tenth of the reports."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    return statistics.mean(losses[-max(1, len(losses) // 10) :])


def run(args: argparse.Namespace) -> None:
    """Train and verify every format with every seed."""
    rows = []
    for name in args.formats:
        folders = [train(args, name, seed) for seed in args.seeds]
        found = [verify(folder, args.pairs.resolve()) for folder in folders]
        losses = tuple(last_loss(folder) for folder in folders)
        rows.append(Row(name, tuple(f[0] for f in found), tuple(f[1] for f in found), losses))
    if args.json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    lines = [["centers+momentum", "accuracy of each seed", "mean", "mean AUC", "loss at the end"], ["---"] * 5]
    print("\n".join(f"| {' | '.join(cells)} |" for cells in [*lines, *(row.cells for row in rows)]))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = make_parser("state_formats", __doc__)
    parser.add_argument("config")
    parser.add_argument("pairs", type=Path, help="a .bin of people the config does not train on")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--ranks", type=positive_int, default=2)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further keys of the config")
    parser.add_argument("--output", type=Path, default=Path("work_dirs/state_formats"))
    parser.add_argument("--json", action="store_true")
    return run_command(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
