"""Export a model as ONNX, ncnn or a torch program, after a check that it gives the same embeddings.

    python -m recognition export work_dirs/ms1mv3_r50 r50.onnx
    python -m recognition export work_dirs/ms1mv3_r50 r50_int8.onnx --precision int8 --faces aligned/ --pairs lfw.bin
    python -m recognition export work_dirs/ms1mv3_r50 r50.ncnn

OUT.onnx takes float32 images [batch, 3, S, S] in RGB as x / 127.5 - 1 and gives embeddings [batch, D]; its metadata
says so. OUT.ncnn is three files, OUT.ncnn.param, .bin and .json. OUT.pt2 is torch's. --precision fp16 and int8 make
smaller files; --pairs says what they cost. docs/export.md has the rest.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recognition.backbones.weights import Model, load_backbone
from recognition.cli import make_parser, positive_int, run_command
from recognition.console import Stopwatch, duration, size
from recognition.embedding.embedder import Embedder
from recognition.embedding.onnx_embedder import OnnxEmbedder
from recognition.embedding.store import open_images
from recognition.errors import CheckpointError, ConfigError, DataError
from recognition.export.onnx_graph import OPSET
from recognition.export.writers import Export, Request, target_files, write_export
from recognition.verification.protocols import PairSet, embed_pair_set, open_pair_set, verify_embeddings
from recognition.work.files import refuse_existing

logger = logging.getLogger(__name__)

MOST_FACES = 256
BATCH = 64


def main(argv: Sequence[str] | None = None) -> int:
    """Export, print what was written, and return the exit status."""
    parser = make_parser("export", __doc__)
    add = parser.add_argument
    add("model", type=Path, metavar="RUN_OR_WEIGHTS", help="a run folder or a weight file")
    add("output", type=Path, metavar="OUT", help="OUT.onnx, OUT.ncnn or OUT.pt2")
    add("--precision", choices=["fp32", "fp16", "int8"], default="fp32", help="of the file's numbers (fp32)")
    add(
        "--faces",
        type=Path,
        help=f"aligned faces, {MOST_FACES} of which set the ranges of int8: a folder, .rec or .bin",
    )
    add("--pairs", type=Path, nargs="+", default=[], metavar="PAIRS.bin", help="measure accuracy before and after")
    add("--folds", type=positive_int, default=10, help="folds of consecutive pairs (10)")
    add("--network", help="the network of a bare file whose keys do not tell")
    add("--image-size", type=positive_int, help="side of a bare file's input, where keys leave it open")
    add("--opset", type=positive_int, default=OPSET, help=f"of an .onnx file (default: {OPSET})")
    add("--overwrite", action="store_true", help="replace files that exist")
    add("--json", action="store_true", help="print one JSON object")
    return run_command(parser, _run, argv)


def _run(args: argparse.Namespace) -> None:
    watch = Stopwatch()
    refuse_existing(*target_files(args.output), overwrite=args.overwrite)
    if args.output.suffix != ".onnx" and (args.pairs or args.faces or args.opset != OPSET):
        raise ConfigError(f"{args.output}: --pairs, --faces and --opset are for .onnx files; leave them out")
    if args.faces and args.precision == "fp32":
        raise ConfigError("--faces: a file in fp32 needs none; expected --precision fp16 or int8; leave it out")
    if args.model.suffix.lower() == ".onnx":
        raise ConfigError(f"{args.model}: is an .onnx file already; expected a run folder or weights; name those")
    sets = [open_pair_set(path, folds=args.folds) for path in args.pairs]
    model = load_backbone(args.model, network=args.network)
    side = _side(model, args.image_size)
    faces = read_faces(args.faces, side) if args.faces else None
    before = _accuracies(Embedder(model.module, batch_size=BATCH), sets, side, args.folds)
    after: dict[str, float] = {}

    def check(embedder: OnnxEmbedder) -> None:
        after.update(_accuracies(embedder, sets, side, args.folds))

    request = Request(model, args.output, side, args.precision, args.opset, faces)
    export = write_export(request, check=check)
    accuracy = {name: {"before": before[name], "after": after[name]} for name in before}
    if args.precision != "fp32" and not sets:
        logger.warning("%s: what it costs in accuracy was not measured; give --pairs", args.output)
    _report(args, request, export, accuracy, watch.seconds)


def _side(model: Model, asked: int | None) -> int:
    told = model.image_size
    if told is not None and asked not in (None, told):
        raise CheckpointError(
            f"{model.file}: {model.told_by} says images of {told} pixels; --image-size asks for {asked}; leave it out"
        )
    side = told or asked or model.architecture.image_size
    if told is None and asked is None:
        logger.warning("%s: nothing says the size of its images; %d pixels are taken for it", model.file, side)
    return side


def read_faces(path: Path, side: int) -> np.ndarray:
    """Return up to `MOST_FACES` images from all over a set, uint8 [n, side, side, 3]."""
    source = open_images(path)
    chosen = np.unique(np.linspace(0, len(source) - 1, MOST_FACES).astype(int)).tolist()
    images = [source.read(i) for i in chosen]
    for i, image in zip(chosen, images):
        if image.shape[:2] != (side, side):
            height, width = image.shape[:2]
            raise DataError(
                f"{path}: image {source.keyed(i).key!r}: {width} x {height} pixels; expected {side} x {side}, as the "
                "model takes them; align the faces to its size"
            )
    return np.stack(images)


def _accuracies(embedder: Embedder | OnnxEmbedder, sets: Sequence[PairSet], side: int, folds: int) -> dict[str, float]:
    """Return the accuracy on each set by its name."""
    found = {}
    for pair_set in sets:
        embeddings = embed_pair_set(embedder.embed, pair_set, image_size=side, batch_size=BATCH)
        found[pair_set.name] = verify_embeddings(pair_set, embeddings, folds=folds).accuracy
    return found


def _report(
    args: argparse.Namespace,
    request: Request,
    export: Export,
    accuracy: dict[str, dict[str, float]],
    seconds: float,
) -> None:
    about, agreement = request.metadata, export.agreement
    if args.json:
        report: dict[str, Any] = {
            "files": [str(path) for path in export.paths],
            "bytes": export.num_bytes,
            "network": about.architecture.network,
            "embedding_size": about.architecture.embedding_size,
            "image_size": request.side,
            "alignment": about.alignment,
            "model_fingerprint": about.fingerprint,
            "precision": args.precision,
            "opset": args.opset if args.output.suffix == ".onnx" else None,
            "least_cosine": agreement.least_cosine,
            "mean_cosine": agreement.mean_cosine,
            "accuracy": accuracy,
            "seconds": round(seconds, 3),
        }
        print(json.dumps(report, indent=2, allow_nan=False))
        return
    for name, values in accuracy.items():
        change = values["after"] - values["before"]
        print(f"{name}: accuracy {values['before']:.4f} before, {values['after']:.4f} after ({change:+.4f})")
    opset = f", opset {args.opset}" if args.output.suffix == ".onnx" else ""
    print(
        f"exported {about.architecture.network}, {request.side} x {request.side}, {args.precision}{opset}, "
        f"{size(export.num_bytes)} to {args.output} in {duration(seconds)}; {agreement}"
    )
