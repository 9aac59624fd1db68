"""Measure embed_faces: what reading costs the process that embeds, and what bf16 gains and changes.

    python benchmarks/embedding.py work_dirs/demo_data/train.rec --model work_dirs/demo

"reading" is processor time of the embedding process alone, an image, with a network that does nothing: what a GPU would
wait for. "network" is images per second of processor time on one thread, and the cosines are those of bf16 embeddings
to float32 ones. Contenders take turns, round after round; each figure is the best of them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

import numpy as np
import torch

from recognition.cli import make_parser, positive_int, run_command
from recognition.config.schema import Precision
from recognition.embedding.embedder import Embedder
from recognition.embedding.models import BlockEmbedder
from recognition.embedding.reading_ahead import embed_ahead
from recognition.embedding.store import BLOCK, ImageSource, open_images, read_block
from recognition.embedding.unit_rows import to_unit_rows_
from recognition.formats.model_facts import ModelFacts


class Nothing:
    """Embeds nothing, in no time."""

    facts = ModelFacts(None)

    def embed(self, images_rgb: np.ndarray) -> np.ndarray:
        """Return a zero for each image."""
        return np.zeros((len(images_rgb), 1), np.float32)


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("embedding", __doc__)
    parser.add_argument("faces", type=Path, help="a packed set or a folder of aligned faces")
    parser.add_argument("--model", type=Path, required=True, help="a run folder or a weight file")
    parser.add_argument("--images", type=positive_int, default=3200, help="of the set (default 3200)")
    parser.add_argument("--readers", type=positive_int, default=1, help="processes that read (default 1)")
    parser.add_argument("--rounds", type=positive_int, default=5, help="default 5")
    parser.add_argument("--json", type=Path, help="write the measurements here")
    return run_command(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    source = open_images(args.faces)
    blocks = range(min(args.images, len(source)) // BLOCK)
    result = {"images": len(blocks) * BLOCK, **reading(source, blocks, args), **network(source, blocks, args)}
    for name, value in result.items():
        sys.stdout.write(f"{name:34} {value}\n")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


def reading(source: ImageSource, blocks: range, args: argparse.Namespace) -> dict[str, Any]:
    """Return microseconds of this process an image, which reads itself or has readers."""
    tool = BlockEmbedder(source, Nothing())
    ways: dict[str, Callable[[], Iterable[Any]]] = {
        "reading itself, us": lambda: map(tool, blocks),
        f"with {args.readers} readers, us": lambda: embed_ahead(tool, blocks, num_readers=args.readers),
    }
    seconds = best_of(ways, args.rounds)
    return {name: round(s / (len(blocks) * BLOCK) * 1e6, 1) for name, s in seconds.items()}


def network(source: ImageSource, blocks: range, args: argparse.Namespace) -> dict[str, Any]:
    """Return images a processor second by precision, and the cosines between the two."""
    images = np.concatenate([read_block(source, block) for block in blocks])
    precisions: dict[str, Precision] = {"float32": "off", "bf16": "bf16"}
    embedders = {name: Embedder.load(args.model, precision=value) for name, value in precisions.items()}
    found = {name: embedder.embed(images) for name, embedder in embedders.items()}
    seconds = best_of({name: partial(map, each.embed, [images]) for name, each in embedders.items()}, args.rounds)
    one, other = (found[name].astype(np.float64) for name in precisions)
    for rows in (one, other):
        to_unit_rows_(rows)
    cosines = np.einsum("nd,nd->n", one, other)
    rates = {f"{name}, images a processor second": round(len(images) / s) for name, s in seconds.items()}
    return {**rates, "cosine, mean": round(float(cosines.mean()), 6), "cosine, least": round(float(cosines.min()), 6)}


def best_of(ways: dict[str, Callable[[], Iterable[Any]]], rounds: int) -> dict[str, float]:
    """Return the least processor seconds of this process for each way, over rounds in which they take turns."""
    seconds = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.process_time()
            for _ in way():
                pass
            seconds[name] = min(seconds[name], time.process_time() - started)
    return seconds


if __name__ == "__main__":
    sys.exit(main())
