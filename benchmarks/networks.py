"""Measure how fast one core trains the networks that are small enough for it, in float32 and in bf16 autocast.

    python benchmarks/networks.py [--networks tiny small ...] [--batch-size 32] [--rounds 5]

A step is forward and backward of one batch of 112-pixel images on one thread. The networks take turns, so that what
else the machine does meets all of them; the figures are medians over the rounds, in images per second of
processor time.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

import statistics
import time
from argparse import Namespace
from collections.abc import Sequence

import torch
from torch import nn

from recognition.backbones import build_backbone
from recognition.backbones.architecture import Architecture
from recognition.backbones.profile import network_cost
from recognition.cli import make_parser, run_command

NETWORKS = ("tiny", "vit_xs", "small", "medium", "mobilenet_v2", "mbf", "r18")
PRECISIONS = ("off", "bf16")


def rate(module: nn.Module, precision: str, batch_size: int) -> float:
    """Return the images per second of processor time of one step."""
    images = torch.randn(batch_size, 3, 112, 112).contiguous(memory_format=torch.channels_last)
    started = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        embeddings = module(images)
    embeddings.square().mean().backward()
    return batch_size / (time.process_time() - started)


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("networks", __doc__)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, metavar="NAME", help="those to measure")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="images a step [%(default)s]")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="steps of each [%(default)s]")
    return run_command(parser, _run, argv)


def _run(args: Namespace) -> None:
    torch.set_num_threads(1)
    rates: dict[tuple[str, str], list[float]] = {}
    modules = {
        name: build_backbone(name, embedding_size=256).to(memory_format=torch.channels_last).train()
        for name in args.networks
    }
    for round_ in range(args.rounds + 1):
        for name, module in modules.items():
            for precision in PRECISIONS:
                found = rate(module, precision, args.batch_size)
                if round_:  # the first is a warm-up
                    rates.setdefault((name, precision), []).append(found)
    print(f"{'network':<14}{'parameters':>12}{'MMACs':>8}{'float32':>10}{'bf16':>8}  images/s")
    for name in args.networks:
        cost = network_cost(Architecture(name, 256))
        medians = [statistics.median(rates[name, precision]) for precision in PRECISIONS]
        print(f"{name:<14}{cost.parameters:>12,}{cost.macs / 1e6:>8.0f}{medians[0]:>10.0f}{medians[1]:>8.0f}")


if __name__ == "__main__":
    sys.exit(main())
