"""Measure augmentation on the CPU: processor milliseconds of a batch, the median over epochs.

python benchmarks/augmenting.py --presets arcface_dali adaface
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

import torch

from recognition.cli import make_parser, positive_int, run_command
from recognition.config.schema import AugmentConfig
from recognition.images.augment import PRESETS, Augmenter, recipe


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("augmenting", __doc__)
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=["arcface_dali", "adaface"])
    parser.add_argument("--batch-size", type=positive_int, default=128)
    parser.add_argument("--rounds", type=positive_int, default=30, help="batches of different images (default 30)")
    return run_command(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (args.batch_size, 112, 112, 3), dtype=torch.uint8, generator=generator)
    indices = torch.arange(args.batch_size)
    for preset in args.presets:
        augment = Augmenter(recipe(AugmentConfig(preset=preset)), seed=1)
        augment(images, indices, 0)
        seconds = []
        for epoch in range(args.rounds):
            started = time.process_time()
            augment(images, indices, epoch)
            seconds.append(time.process_time() - started)
        median = sorted(seconds)[len(seconds) // 2]
        print(f"{preset:14} {median * 1e3:.1f} ms of processor time for {args.batch_size} images (median)")


if __name__ == "__main__":
    sys.exit(main())
