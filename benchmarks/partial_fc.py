"""Hold the sampled head against arcface_torch's own PartialFC_V2: the losses of some hundred steps under SGD.

    python benchmarks/partial_fc.py INSIGHTFACE/recognition/arcface_torch
    python benchmarks/partial_fc.py INSIGHTFACE/recognition/arcface_torch --rates 0.3 --ranks 1 --steps 1000

Both start from the same centers, see the same embeddings and draw the same classes: at rate 0 theirs alone decide, and
else their call of torch.rand returns what the head here has drawn. CosFace 0.4, scale 32, float32, a rate that changes
with every step. Ends with exit status 1 when the losses of `unsampled: coast` differ by more than 1e-5.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.arcface_torch_head import ArcfaceTorchHead
from benchmarks.ranks import run_ranks
from recognition import CosFace, ShardedSoftmax
from recognition.cli import make_parser, positive_int, run_command
from recognition.distributed.world import World
from recognition.errors import DataError

CLASSES, DIM, BATCH, TOLERANCE = 1000, 64, 32, 1e-5
SCALE = 32.0
"""Theirs cuts the loss of an image at 69 (p at 1e-30) without cutting its gradient; at scale 64 some begin above."""
SGD: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}


def compare(world: World, checkout: Path, rate: float, num_steps: int) -> tuple[float, float]:
    """Return the largest differences of the losses from theirs, as a share of the largest: of coast, and of frozen."""
    common: dict[str, Any] = {"margin": CosFace(0.4), "scale": SCALE, "world": world, "sample_rate": rate}
    heads = [ShardedSoftmax(CLASSES, DIM, unsampled="coast", **common), ShardedSoftmax(CLASSES, DIM, **common)]
    optimizers: list[torch.optim.Optimizer] = [head.optimizer(**SGD) for head in heads]
    theirs = ArcfaceTorchHead(
        checkout, CLASSES, DIM, device=world.device, margins=(1.0, 0.0, 0.4), scale=SCALE, sgd=SGD, sample_rate=rate
    )
    with torch.no_grad():
        theirs.weight.copy_(heads[0].centers)
    found: list[list[float]] = [[], [], []]
    for step in range(num_steps):
        for optimizer in (*optimizers, theirs.optimizer):
            optimizer.param_groups[0]["lr"] = SGD["lr"] * (1 - step / num_steps) ** 2
        embeddings, labels = batch(world, step)
        for head, losses, optimizer in zip(heads, found, optimizers):
            loss = head(embeddings.clone().requires_grad_(), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        result = heads[0].result
        assert result is not None and result.sampled is not None
        with drawing(result.sampled, len(heads[0].class_range)):
            loss = theirs(embeddings.clone().requires_grad_(), labels.clone())
        loss.backward()
        theirs.step()
        found[2].append(loss.item())
    coast, frozen, expected = (torch.tensor(losses, dtype=torch.float64) for losses in found)
    # Theirs are -log p of a float32 p, so where they are near 0 only the absolute difference means something.
    differences = [float((losses - expected).abs().max() / expected.max()) for losses in (coast, frozen)]
    return differences[0], differences[1]


def batch(world: World, step: int) -> tuple[Tensor, Tensor]:
    """Return this rank's embeddings and labels of a step: people near fixed directions, so that there is to learn."""
    generator = torch.Generator().manual_seed(step * world.size + world.rank)
    labels = torch.randint(0, CLASSES, (BATCH // world.size,), generator=generator)
    people = torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(1 << 40))
    return people[labels] + torch.randn(len(labels), DIM, generator=generator), labels


@contextlib.contextmanager
def drawing(sample: Tensor, num_classes: int) -> Iterator[None]:
    """Let torch.rand give the classes of `sample` 0.75 and the others 0.25, so that the highest are these."""
    drawn = torch.full((num_classes,), 0.25).index_fill_(0, sample, 0.75)
    with mock.patch.object(torch, "rand", lambda size: drawn.clone().view(size)):
        yield


def run(args: argparse.Namespace) -> None:
    """Compare at every rate and number of ranks."""
    failed = False
    print("| ranks | rate | coast | frozen |\n|---:|---:|---:|---:|")
    for ranks in args.ranks:
        for rate in args.rates:
            coast, frozen = run_ranks(ranks, "cpu", compare, args.checkout.resolve(), rate, args.steps)[0]
            print(f"| {ranks} | {rate:g} | {coast:.1e} | {frozen:.1e} |", flush=True)
            failed |= coast > TOLERANCE
    if failed:
        raise DataError(f"{args.checkout}: losses differ from PartialFC_V2's by more than {TOLERANCE:g}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = make_parser("partial_fc", __doc__)
    parser.add_argument("checkout", type=Path, help="the folder recognition/arcface_torch of insightface")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0, 0.1, 0.5])
    parser.add_argument("--ranks", type=positive_int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=positive_int, default=300)
    return run_command(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
