"""Measure exported files: cosines with torch, bytes, and images per second on one core beside float32 torch.

    python benchmarks/export.py --networks tiny mbf r50
    python benchmarks/export.py --networks r34 r100 r200 --forms onnx        only whether they agree, and bytes
    python benchmarks/export.py --model work_dirs/lfw_tiny --faces work_dirs/lfw/people

The networks of --networks have fresh weights with the BatchNorm statistics of drawn faces. The contenders embed the
same batches in turns, round after round, so that a busy machine slows all of them; the median round counts, in time of
the processor.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

import numpy as np
import torch

from recognition.backbones import build_backbone
from recognition.backbones.fresh import set_batch_norms
from recognition.backbones.weights import Model, load_backbone, save_backbone
from recognition.cli import make_parser, positive_int, run_command
from recognition.commands.export import read_faces
from recognition.export.ncnn_files import NcnnNetwork
from recognition.export.onnx_graph import INPUT
from recognition.export.parity import drawn_faces
from recognition.export.writers import Export, Request, write_export
from recognition.images.preprocess import to_network
from recognition.work.onnx_session import open_onnx

FORMS = {"onnx": (".onnx", "fp32"), "fp16": (".onnx", "fp16"), "int8": (".onnx", "int8"), "ncnn": (".ncnn", "fp32")}
CROPS = 64
Run = Callable[[np.ndarray], Any]


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("export", __doc__)
    parser.add_argument("--networks", nargs="*", default=[], help="fresh ones")
    parser.add_argument("--model", type=Path, help="a run folder or weights")
    parser.add_argument("--faces", type=Path, help="aligned faces for int8 (default: drawn ones)")
    parser.add_argument("--forms", nargs="+", choices=list(FORMS), default=list(FORMS))
    parser.add_argument("--image-size", type=positive_int, default=112)
    parser.add_argument("--batch-size", type=positive_int, default=8)
    parser.add_argument("--rounds", type=positive_int, default=7, help="measurements per contender (7)")
    return run_command(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="export.") as name:
        folder = Path(name)
        models = [fresh(network, args.image_size, folder) for network in args.networks]
        models += [load_backbone(args.model)] if args.model else []
        for model in models:
            side = model.image_size or args.image_size
            faces = read_faces(args.faces, side) if args.faces else drawn_faces(CROPS, side)
            measure(model, side, faces, args, folder)


def fresh(network: str, side: int, folder: Path) -> Model:
    """Return a network that gives finite numbers without training."""
    torch.manual_seed(0)
    module = build_backbone(network, image_size=side)
    set_batch_norms(module, to_network(torch.from_numpy(drawn_faces(16, side))))
    save_backbone(module, folder / f"{network}.pt")
    return load_backbone(folder / f"{network}.pt", network)


def measure(model: Model, side: int, faces: np.ndarray, args: argparse.Namespace, folder: Path) -> None:
    """Export in every form, print cosine and bytes, then the speeds."""
    name = model.architecture.network
    contenders: dict[str, Run] = {"torch": lambda images: model.module(torch.from_numpy(images))}
    for form in args.forms:
        suffix, precision = FORMS[form]
        target = folder / f"{name}_{form}{suffix}"
        started = time.perf_counter()
        small = precision != "fp32"
        export = write_export(Request(model, target, side, precision, faces=faces if small else None))
        row = {
            "network": name,
            "side": side,
            "form": form,
            "bytes": export.num_bytes,
            "least_cosine": export.agreement.least_cosine,
            "mean_cosine": export.agreement.mean_cosine,
            "num_images": export.agreement.num_images,
            "seconds": round(time.perf_counter() - started, 1),
        }
        print(json.dumps(row), flush=True)
        contenders[form] = runner(export)
    if len(args.forms) > 1:
        race(name, contenders, faces[: args.batch_size], args.rounds)


def runner(export: Export) -> Run:
    """Return what embeds with an exported file on one thread."""
    if len(export.paths) > 1:
        return NcnnNetwork(*export.paths[:2])
    session = open_onnx(export.paths[0])
    return lambda images: session.run(None, {INPUT: images})


def race(name: str, contenders: dict[str, Run], faces: np.ndarray, rounds: int) -> None:
    """Print images per second of each contender."""
    images = to_network(torch.from_numpy(faces)).numpy()
    taken: dict[str, list[float]] = {contender: [] for contender in contenders}
    with torch.inference_mode():
        for number in range(rounds + 1):
            for contender, embed in contenders.items():
                started = time.process_time()
                embed(images)
                if number:  # the first warms up
                    taken[contender].append(time.process_time() - started)
    rates = {contender: round(len(images) / statistics.median(times), 1) for contender, times in taken.items()}
    print(json.dumps({"network": name, "batch": len(images), "images_per_second": rates}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
