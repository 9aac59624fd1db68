"""Measure what checkpoints cost a training: the pause, the slow-down, and the agreement of a step.

    python benchmarks/checkpoint.py                                     # sizes for a laptop
    python benchmarks/checkpoint.py --identities 1e6 --ranks 2          # 4 GB of state; needs 8 GB of memory, 8 of disk

Stall: how long `Saver.begin` keeps training from its next step, beside a plain copy of the same tensors into the same
memory, in turns; the slowest rank counts. Slow-down: the demo's network, batch and identities on synthetic images, in
turns with a checkpoint in every block of steps and without. Agreement: the exchange of flags before each step.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.ranks import run_ranks
from recognition.cli import make_parser, positive_int, run_command
from recognition.config.loader import load_config
from recognition.console import size
from recognition.distributed.checkpoint import Snapshot
from recognition.distributed.collectives import barrier, gather_numbers, gather_values
from recognition.distributed.manifest import rows_file
from recognition.distributed.saver import Saver
from recognition.distributed.shards import class_range
from recognition.distributed.world import World
from recognition.feed.build import build_loader
from recognition.feed.datasets import open_dataset
from recognition.plan import make_plan
from recognition.training.build import build_parts
from recognition.training.trainer import Trainer

DEMO = [
    "data.rec=synthetic",
    "data.num_classes=600",
    "data.num_image=9600",
    "device=cpu",
    "log.tensorboard=false",
    "validation.val_targets=[]",
    "validation.val_dir=null",
    "validation.every_steps=2000",
]


def measure_stall(world: World, identities: int, embedding_size: int, rounds: int, folder: str) -> dict[str, Any]:
    """Return the seconds of copies and of stalls, in turns, and of whole saves."""
    classes = class_range(identities, world.rank, world.size)
    rows = {name: torch.randn(len(classes), embedding_size) for name in ("centers", "momentum")}
    snapshot = Snapshot(step=1, replicated={}, rows=rows, local={}, classes=classes, num_classes=identities, meta={})
    saver = Saver(Path(folder), snapshot, world=world, keep=1, max_failures=1)
    target = saver.staging.files[rows_file(world.rank)]

    def copy() -> None:
        for name, tensor in rows.items():
            target[name].copy_(tensor)

    copies, stalls, saves = [], [], []
    for number in range(rounds):
        copies.append(_slowest(copy, world))
        stalls.append(_slowest(lambda: saver.begin(snapshot), world))
        started = time.perf_counter()
        saver.finish()
        saves.append(time.perf_counter() - started)
        if number == 0:  # the first takes the threads' and the files' first pages
            copies.clear()
            stalls.clear()
    num_bytes = sum(tensor.nbytes for tensor in rows.values())
    return {"copies_s": copies, "stalls_s": stalls, "saves_s": saves, "bytes": num_bytes}


def measure_slowdown(world: World, blocks: int, steps: int, folder: str) -> dict[str, Any]:
    """Return the seconds of blocks of `steps` steps without and with a checkpoint, in turns."""
    trainer = _demo_trainer(world, folder)
    batches = (batch for epoch in range(999) for batch in trainer.loader.epoch(epoch))
    trainer.parts.backbone.train()

    def block(with_checkpoint: bool) -> None:
        for number in range(steps):
            batch = next(batches)
            trainer.agree(None)
            trainer.train_step([batch], 0)
            if with_checkpoint and number == 0:
                trainer.save()

    _slowest(lambda: block(True), world)  # warm
    trainer.saver.finish()
    pairs = []
    for number in range(blocks):
        # Which goes first changes from pair to pair.
        order = (False, True) if number % 2 else (True, False)
        took = {flag: _slowest(lambda flag=flag: block(flag), world) for flag in order}  # type: ignore[misc]
        trainer.saver.finish()
        pairs.append((took[False], took[True]))
    return {"pairs_s": pairs, "staged_bytes": trainer.saver.staging.num_bytes}


def measure_agreement(world: World, calls: int) -> float:
    """Return the seconds of one exchange of four flags."""
    started = time.perf_counter()
    for _ in range(calls):
        gather_numbers([0, 0, 0, 1], world)
    return (time.perf_counter() - started) / calls


def _demo_trainer(world: World, folder: str) -> Trainer:
    config = load_config("configs/demo", DEMO)
    dataset = open_dataset(config.data)
    return Trainer(
        make_plan(config, world_size=world.size, num_images=len(dataset), num_classes=dataset.num_classes),
        build_parts(config, dataset.num_classes, world),
        build_loader(config, dataset, world, Path(folder)),
        world=world,
        folder=Path(folder),
        validators={},
    )


def _slowest(work: Callable[[], None], world: World) -> float:
    """Return the seconds of the slowest rank."""
    barrier(world)
    started = time.perf_counter()
    work()
    return float(max(gather_values(time.perf_counter() - started, world)))


def run(args: argparse.Namespace) -> None:
    """Measure and print."""
    found: dict[str, Any] = {"ranks": args.ranks, "identities": args.identities}
    for name, function, arguments in (
        ("stall", measure_stall, (args.identities, args.embedding_size, args.rounds + 1)),
        ("slowdown", measure_slowdown, (args.blocks, args.steps)),
    ):
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            found[name] = run_ranks(args.ranks, "cpu", function, *arguments, folder)[0]
    found["agreement_s"] = max(run_ranks(args.ranks, "cpu", measure_agreement, 2000))
    print(json.dumps(found) if args.json else _table(found, args))


def _table(found: dict[str, Any], args: argparse.Namespace) -> str:
    stall, slowdown = found["stall"], found["slowdown"]
    copy_s, stall_s = statistics.median(stall["copies_s"]), statistics.median(stall["stalls_s"])
    ratios = sorted(after / before for before, after in slowdown["pairs_s"])
    without, with_save = (statistics.median(column) for column in zip(*slowdown["pairs_s"]))
    return "\n".join(
        [
            f"{args.identities:,} identities on {args.ranks} ranks: {size(stall['bytes'])} of state on rank 0",
            f"  a plain copy of it           {copy_s:8.3f} s",
            f"  training pauses for          {stall_s:8.3f} s, {stall_s / copy_s:.2f} times that",
            f"  the save, during training    {statistics.median(stall['saves_s']):8.3f} s",
            f"the demo, {args.steps} steps in a block, {args.blocks} pairs, a checkpoint of "
            f"{size(slowdown['staged_bytes'])} staged on rank 0",
            f"  without a checkpoint         {without:8.3f} s",
            f"  with one                     {with_save:8.3f} s, {statistics.median(ratios):.3f} times that "
            f"(pairs {ratios[0]:.3f} to {ratios[-1]:.3f})",
            f"the agreement before a step    {found['agreement_s'] * 1e3:8.3f} ms",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, measure, and return the exit status."""
    parser = make_parser("checkpoint", __doc__)
    parser.add_argument("--identities", type=lambda text: int(float(text)), default=50_000, help="[50000]")
    parser.add_argument("--embedding-size", type=positive_int, default=512, help="[512]")
    parser.add_argument("--ranks", type=positive_int, default=2, help="[2]")
    parser.add_argument("--rounds", type=positive_int, default=5, help="copies and saves [5]")
    parser.add_argument("--blocks", type=positive_int, default=4, help="pairs of blocks of steps [4]")
    parser.add_argument("--steps", type=positive_int, default=50, help="in a block [50]")
    parser.add_argument("--folder", type=Path, help="where to write checkpoints [the system's temporary folder]")
    parser.add_argument("--json", action="store_true", help="print one JSON object with every time")
    return run_command(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
