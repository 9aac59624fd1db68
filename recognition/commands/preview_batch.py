"""Write a picture of what the network sees: a batch as the trainer would make it, augmented and flipped.

    python data_tools/preview_batch.py configs/demo preview.png augment.preset=adaface

Reads the config and its overrides as train_v2.py does. The first row holds images as they are stored; each further row
is one epoch of the same images. --sheet instead shows each operation by itself, one per row.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from recognition.cli import make_parser, non_negative_int, positive_int, run_command
from recognition.config.loader import load_config
from recognition.config.schema import Config
from recognition.console import count
from recognition.feed.bad_records import Replacements
from recognition.feed.batches import BatchFiller, BatchLayout, Request
from recognition.feed.datasets import open_dataset
from recognition.feed.sampler import GlobalBatchSampler
from recognition.images.augment import Augmenter, Chance, flip_mask, recipe
from recognition.images.codec import encode_jpeg
from recognition.images.preprocess import to_network
from recognition.work.files import refuse_existing, write_bytes

GAP_PX = 2
CAPTION_PX = 92


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, write the picture, and return the exit status."""
    parser = make_parser("preview_batch", __doc__)
    add = parser.add_argument
    add("config", help="path of a config, with or without .yaml")
    add("out", type=Path, metavar="OUT.png", help="picture to write, .png or .jpg")
    add("overrides", nargs="*", metavar="KEY=VALUE", help="as for train_v2.py")
    add("--images", type=positive_int, default=12, help="images per row (default: 12)")
    add("--epochs", type=positive_int, default=5, help="rows (default: 5)")
    add("--step", type=non_negative_int, default=0, help="take the images of this step of epoch 0")
    add("--sheet", action="store_true", help="one row for each operation, applied to every image")
    add("--overwrite", action="store_true", help="replace an existing picture")
    return run_command(parser, preview, argv)


def preview(args: argparse.Namespace) -> None:
    """Run the command."""
    refuse_existing(args.out, overwrite=args.overwrite)
    config = load_config(args.config, args.overrides)
    images, indices = first_images(config, args.images, args.step)
    rows = {"stored": images}
    rows |= operation_rows(config, images, indices) if args.sheet else epoch_rows(config, images, indices, args.epochs)
    picture = draw(rows)
    encoded = cv2.imencode(".png", picture[..., ::-1])[1].tobytes()
    write_bytes(args.out, encode_jpeg(picture, 90) if args.out.suffix in (".jpg", ".jpeg") else encoded)
    sys.stdout.write(f"wrote {args.out}: {count(len(rows), 'row')} of {count(len(images), 'image')}\n")


def first_images(config: Config, num_images: int, step: int) -> tuple[Tensor, Tensor]:
    """Return (images uint8 [n, S, S, 3], indices [n]) of one step of epoch 0."""
    dataset = open_dataset(config.data, needs_identities=config.head.weight > 0)
    num_images = min(num_images, len(dataset))
    sampler = GlobalBatchSampler(len(dataset), seed=config.seed, batch_size=num_images)
    step %= sampler.steps_per_epoch
    sampler.start_at(0, step)
    layout = BatchLayout(num_images, dataset.image_size)
    batch = layout.view(torch.empty(layout.num_bytes, dtype=torch.uint8))
    may_skip = config.data.on_bad_record == "skip"
    replacements = Replacements(config.seed, len(dataset), dataset.origin) if may_skip else None
    request = Request(next(iter(sampler)), 0, sampler.first_position(step))
    BatchFiller(dataset, 1, replacements).fill_(batch, request)
    return batch.images, batch.indices


def epoch_rows(config: Config, images: Tensor, indices: Tensor, num_epochs: int) -> dict[str, Tensor]:
    """Return the images as the network sees them in epochs 0, 1, ..."""
    augment = Augmenter(recipe(config.augment), config.seed)
    rows = {}
    for epoch in range(num_epochs):
        flips = flip_mask(config.seed, epoch, indices, config.data.flip)
        rows[f"epoch {epoch}"] = to_pixels(to_network(augment(images, indices, epoch), flips))
    return rows


def operation_rows(config: Config, images: Tensor, indices: Tensor) -> dict[str, Tensor]:
    """Return the images under each operation of the config's preset alone, with probability 1."""
    rows = {}
    for name, chance in recipe(config.augment).items():
        alone = {name: Chance(1.0, chance.operation)}
        rows[name] = to_pixels(to_network(Augmenter(alone, config.seed)(images, indices, 0)))
    return rows


def to_pixels(inputs: Tensor) -> Tensor:
    """Undo to_network: float [n, 3, S, S] in [-1, 1] -> uint8 [n, S, S, 3]."""
    return ((inputs + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def draw(rows: dict[str, Tensor]) -> np.ndarray:
    """Return one picture uint8 [H, W, 3]: a captioned row of images for each entry."""
    strips = []
    for name, images in rows.items():
        padded = np.pad(images.numpy(), ((0, 0), (GAP_PX, GAP_PX), (GAP_PX, GAP_PX), (0, 0)), constant_values=255)
        strip = np.concatenate(list(padded), axis=1)
        caption = np.full((strip.shape[0], CAPTION_PX, 3), 255, np.uint8)
        for number, word in enumerate(name.split("_")):
            place = (4, strip.shape[0] // 2 + 14 * number)
            cv2.putText(caption, word, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
        strips.append(np.concatenate([caption, strip], axis=1))
    return np.concatenate(strips, axis=0)
