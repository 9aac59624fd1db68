"""Measure a step of every loss beside ArcFace's: processor time, both heads alternating in one process.

    python benchmarks/losses_time.py                                        # all losses, float32 and bf16 products
    python benchmarks/losses_time.py --losses circle spherefacer --identities 200e3 --rounds 5

All work of a step but a few rows is per block of classes, so the ratio does not depend on their number.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from recognition.cli import make_parser, positive_int, run_command
from recognition.console import progress
from recognition.distributed.world import World
from recognition.heads.by_class import ByClass
from recognition.heads.margins import MARGINS
from recognition.heads.sharded_softmax import ShardedSoftmax

SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
HEADS: dict[str, dict[str, Any]] = {
    **{name: {"margin": name} for name in MARGINS},
    "adacos this_step": {"margin": "adacos", "settings": {"scale": "this_step"}},
    "circle": {"margin": "circle", "scale": 256.0},
    "spherefacer v2": {"margin": "spherefacer", "settings": {"version": "v2"}},
    "spherefacer v2 exact": {"margin": "spherefacer", "settings": {"version": "v2", "gradient": "exact"}},
    "sphereface2": {"margin": "sphereface2", "scale": 30.0},
    "arcface smoothed": {"margin": "arcface", "label_smoothing": 0.1},
    "circle smoothed": {"margin": "circle", "scale": 256.0, "label_smoothing": 0.1},
}


class Stepper:
    """Takes steps of one head."""

    def __init__(self, name: str, products: str, args: argparse.Namespace) -> None:
        made = dict(HEADS[name])
        margin = MARGINS[made.pop("margin")](**made.pop("settings", {}))
        sizes = torch.arange(args.identities) % 50 + 1
        world = World(0, 1, 0, torch.device("cpu"))
        by_class = ByClass(sizes)
        self.head = ShardedSoftmax(
            args.identities, args.dim, margin=margin, products=products, world=world, by_class=by_class, **made
        )
        self.optimizer = self.head.optimizer(**SGD)
        self.batch, self.dim, self.number = args.batch_size, args.dim, 0

    def step(self) -> float:
        """Take one step and return its processor time in seconds."""
        self.number += 1
        generator = torch.Generator().manual_seed(self.number)
        embeddings = torch.randn(self.batch, self.dim, generator=generator).requires_grad_()
        labels = torch.randint(0, self.head.num_classes, (self.batch,), generator=generator)
        start = time.process_time()
        self.head(embeddings, labels).backward()
        self.optimizer.step()
        return time.process_time() - start


def ratio(name: str, products: str, args: argparse.Namespace) -> tuple[float, float]:
    """Return the median step of `name` in seconds, and its ratio to ArcFace's."""
    steppers = Stepper("arcface", products, args), Stepper(name, products, args)
    for stepper in steppers:
        stepper.step()  # pages and buffers
    rounds = [tuple(stepper.step() for stepper in steppers) for _ in range(args.rounds)]
    of_arcface, of_loss = (statistics.median(each) for each in zip(*rounds, strict=True))
    return of_loss, of_loss / of_arcface


def run(args: argparse.Namespace) -> None:
    """Measure what was asked for and print a table."""
    args.identities = int(args.identities)
    torch.set_num_threads(1)
    names = args.losses or list(HEADS)
    found = {
        name: {products: ratio(name, products, args) for products in args.products}
        for name in progress(names, total=len(names), unit="loss", label="losses", quiet=args.quiet)
    }
    if args.json:
        print(json.dumps(found))
        return
    print("| loss |" + "".join(f" {products}: step s | of ArcFace |" for products in args.products))
    print("|---|" + "---:|---:|" * len(args.products))
    for name, row in found.items():
        print(f"| {name} |" + "".join(f" {step:.3f} | {times:.2f}x |" for step, times in row.values()))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = make_parser("losses_time", __doc__)
    parser.add_argument("--losses", nargs="+", choices=list(HEADS), help="all when absent")
    parser.add_argument("--products", nargs="+", choices=["float32", "bf16"], default=["float32", "bf16"])
    parser.add_argument("--identities", type=float, default=50e3)
    parser.add_argument("--batch-size", type=positive_int, default=128)
    parser.add_argument("--dim", type=positive_int, default=512)
    parser.add_argument("--rounds", type=positive_int, default=3)
    parser.add_argument("--json", action="store_true")
    return run_command(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
