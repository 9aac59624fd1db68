"""Verify a model on packed pairs of faces: 10-fold accuracy, thresholds, TAR at FAR, AUC and EER.

    python eval/verify.py work_dirs/ms1mv3_r50 lfw.bin cfp_fp.bin agedb_30.bin
    python eval/verify.py backbone.pth lfw.bin --network r50 --json
    python eval/verify.py work_dirs/demo unseen.bin --baselines --plots plots

The model is a run folder, whether its run has ended or not, a checkpoint, or a weight file under insightface's names:
model.safetensors says what it is, and so does a run's config.yaml; a bare file is known by its keys. An .onnx file may
come from anywhere (docs/export.md). --baselines measures raw pixels, a color histogram and the same network untrained
on the same pairs. What the columns mean: docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from recognition.backbones.architecture import Architecture
from recognition.backbones.fresh import set_batch_norms
from recognition.backbones.weights import load_backbone
from recognition.cli import make_parser, positive_int, run_command
from recognition.config.schema import Precision
from recognition.console import Stopwatch, count, duration, progress
from recognition.distributed.world import choose_device
from recognition.embedding.embedder import Embedder, try_images
from recognition.embedding.input_scale import add_scale_flags, asked_scale
from recognition.embedding.models import FaceEmbedder, is_onnx, load_embedder
from recognition.embedding.onnx_embedder import OnnxEmbedder
from recognition.embedding.strangers import strangers_warning
from recognition.errors import CheckpointError, ConfigError, DataError
from recognition.formats.pairs_bin import Pairs
from recognition.images.preprocess import to_network
from recognition.verification.baselines import color_histogram_scores, raw_pixel_scores
from recognition.verification.metrics import pair_distances
from recognition.verification.protocols import (
    PairSet,
    VerificationResult,
    chance_warning,
    decode_images,
    embed_pair_set,
    open_pair_set,
    order_warning,
    size_warning,
    verify_embeddings,
    verify_scores,
)
from recognition.verification.report import require_matplotlib, result_mapping, result_table, roc_plot, score_plot
from recognition.work.files import refuse_existing, write_bytes

logger = logging.getLogger(__name__)

CALIBRATION_IMAGES = 128
UNTOLD_SIDE = 112
"""Of images for an .onnx file that takes any."""


@dataclass(frozen=True)
class ReadyModel:
    """A network ready to embed images of one size."""

    name: str
    image_size: int
    embedder: FaceEmbedder
    device: torch.device
    precision: str
    batch_size: int
    quiet: bool
    architecture: Architecture | None
    """None of a stranger's .onnx file, of which nobody can build one without training."""

    def embed_set(self, pair_set: PairSet, *, label: str) -> npt.NDArray[np.float32]:
        """Return the embeddings [2n, D] of a set's images."""
        return embed_pair_set(
            self.embedder.embed,
            pair_set,
            image_size=self.image_size,
            batch_size=self.batch_size,
            watch=lambda rows, total: progress(rows, total=total, unit="image", label=label, quiet=self.quiet),
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Verify, print the table or the JSON object, and return the exit status."""
    parser = make_parser("verify", __doc__)
    parser.add_argument(
        "model", type=Path, metavar="RUN_OR_WEIGHTS", help="a run folder, a weight file or an .onnx file"
    )
    parser.add_argument("sets", type=Path, nargs="+", metavar="PAIRS.bin", help="verification sets")
    parser.add_argument("--network", help="the network of a bare file whose keys do not tell")
    add_scale_flags(parser)
    parser.add_argument("--image-size", type=positive_int, help="side of a bare file's input, where keys leave it open")
    parser.add_argument("--folds", type=positive_int, default=10, help="folds of consecutive pairs (10)")
    parser.add_argument("--batch-size", type=positive_int, default=64, help="images embedded at once (64)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--precision", choices=["off", "bf16", "fp16"], default="off", help="autocast (off)")
    parser.add_argument("--baselines", action="store_true", help="measure three methods without training as well")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write ROC and score histograms as PNG files")
    parser.add_argument("--overwrite", action="store_true", help="replace plots that exist")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    return run_command(parser, _run, argv)


def _run(args: argparse.Namespace) -> None:
    # Everything that can be wrong with the request is found before the first image is embedded.
    plots = _plot_paths(args.plots, args.sets)
    if plots:
        require_matplotlib()
        refuse_existing(*plots, overwrite=args.overwrite)
    sets = [open_pair_set(path, name=name, folds=args.folds) for path, name in zip(args.sets, _names(args.sets))]
    for pair_set in sets:
        _warn(order_warning(pair_set, args.folds))
    model = _load(args)
    for pair_set in sets:
        _warn(size_warning(pair_set, model.image_size))
    watch = Stopwatch()
    results = [result for pair_set in sets for result in _verify(model, pair_set, args)]
    seconds = watch.seconds
    _publish_plots(plots, results)
    _report(args, model, results, seconds)


def _load(args: argparse.Namespace) -> ReadyModel:
    model = _load_onnx(args) if is_onnx(str(args.model)) else _load_weights(args)
    blank = np.zeros((1, model.image_size, model.image_size, 3), dtype=np.uint8)
    place = f"{args.model}: {model.name}"
    try_images(model.embedder.embed, blank, place=place, advice="correct --image-size")
    return model


def _load_weights(args: argparse.Namespace) -> ReadyModel:
    if asked_scale(args):
        raise ConfigError(f"{args.model}: is no .onnx file; --mean, --std and --color are for those; leave them out")
    device = choose_device(args.device)
    model = load_backbone(args.model, network=args.network, device=device)
    architecture = model.architecture
    side = _side(args, model.image_size, model.told_by) or architecture.image_size
    embedder = Embedder(model.module, device=device, batch_size=args.batch_size, precision=args.precision, model=model)
    return ReadyModel(
        architecture.network,
        side,
        embedder,
        device,
        args.precision,
        args.batch_size,
        args.quiet,
        replace(architecture, image_size=side),
    )


def _load_onnx(args: argparse.Namespace) -> ReadyModel:
    if args.precision != "off":
        raise ConfigError(f"{args.model}: an .onnx file has its precision inside; --precision; leave it out")
    if args.device == "cuda":
        raise ConfigError(f"{args.model}: .onnx files run on the CPU here; --device cuda; leave it out")
    embedder = load_embedder(str(args.model), network=args.network, batch_size=args.batch_size, asked=asked_scale(args))
    assert isinstance(embedder, OnnxEmbedder), "an .onnx file"
    own = embedder.metadata
    side = _side(args, embedder.image_size, "its input") or UNTOLD_SIDE
    name = own.architecture.network if own else args.model.name
    logger.info("%s: fed %s", args.model, embedder.scale)
    return ReadyModel(
        name,
        side,
        embedder,
        torch.device("cpu"),
        embedder.precision,
        args.batch_size,
        args.quiet,
        own.architecture if own else None,
    )


def _side(args: argparse.Namespace, told: int | None, told_by: str | None) -> int | None:
    """Return the side that the model takes or --image-size asks for; CheckpointError when they contradict."""
    if told is not None and args.image_size not in (None, told):
        raise CheckpointError(
            f"{args.model}: {told_by} says images of {told} pixels; --image-size asks for {args.image_size}; leave it "
            "out"
        )
    return told or args.image_size


def _verify(model: ReadyModel, pair_set: PairSet, args: argparse.Namespace) -> Iterator[VerificationResult]:
    """Yield the model's result on one set, then those of the baselines when asked for."""
    embeddings = model.embed_set(pair_set, label=pair_set.name)
    result = verify_embeddings(pair_set, embeddings, folds=args.folds)
    _warn(chance_warning(result))
    _warn(strangers_warning(result.cosines[~result.is_same], place=result.name))
    yield result
    if not args.baselines:
        return
    sample = pair_set.images[:CALIBRATION_IMAGES]
    pixels = decode_images(sample, image_size=model.image_size, place=str(pair_set.path))
    pairs = Pairs(pair_set.images, pair_set.is_same)
    scores = {"raw pixels": raw_pixel_scores(pairs), "color histogram": color_histogram_scores(pairs)}
    untrained = _untrained(model, pixels)
    if untrained is None:
        logger.warning("%s: nothing says its network; the baseline of an untrained one is left out", args.model)
    else:
        untrained_embeddings = untrained.embed_set(pair_set, label=f"{pair_set.name} untrained")
        scores["untrained network"] = 1.0 - pair_distances(untrained_embeddings) / 2.0
    for method, values in scores.items():
        yield verify_scores(pair_set, values, method=method, folds=args.folds)


def _warn(warning: str | None) -> None:
    if warning is not None:
        logger.warning("%s", warning)


def _untrained(model: ReadyModel, pixels: npt.NDArray[np.uint8]) -> ReadyModel | None:
    """Build the same architecture with fresh weights of seed 0 and the BatchNorm statistics of `pixels`."""
    if model.architecture is None:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = model.architecture.build()
    module = module.to(model.device)
    set_batch_norms(module, to_network(torch.from_numpy(pixels).to(model.device)))
    precision = "off" if isinstance(model.embedder, OnnxEmbedder) else model.precision
    embedder = Embedder(
        module.eval(), device=model.device, batch_size=model.batch_size, precision=cast(Precision, precision)
    )
    return replace(model, embedder=embedder)


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the stems of the files, or the whole paths when two stems are equal."""
    stems = [path.stem for path in paths]
    if len({path.resolve() for path in paths}) != len(paths):
        raise DataError(f"{paths[0]}: a set is named twice; expected distinct files; remove one")
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


def _plot_paths(folder: Path | None, sets: Sequence[Path]) -> list[Path]:
    """Return the files to write: the ROC of all sets, then one histogram a set."""
    if folder is None:
        return []
    names = [name.removesuffix(".bin").strip("./").replace("/", "_") for name in _names(sets)]
    return [folder / "roc.png", *(folder / f"scores_{name}.png" for name in names)]


def _publish_plots(paths: Sequence[Path], results: Sequence[VerificationResult]) -> None:
    if not paths:
        return
    write_bytes(paths[0], roc_plot(results))
    for path, result in zip(paths[1:], (result for result in results if result.method == "model")):
        write_bytes(path, score_plot(result))
    logger.info("wrote %s to %s", count(len(paths), "plot"), paths[0].parent)


def _report(args: argparse.Namespace, model: ReadyModel, results: Sequence[VerificationResult], seconds: float) -> None:
    own = [result for result in results if result.method == "model"]
    num_pairs = sum(result.num_pairs for result in own)
    num_images = 2 * num_pairs * (2 if args.baselines else 1)
    rate = num_images / max(seconds, 1e-9)
    counts = (
        f"verified {count(num_pairs, 'pair')}, {count(num_images, 'image')} of {count(len(own), 'set')} "
        f"with {model.name} in {duration(seconds)} ({rate:,.0f}/s)"
    )
    if not args.json:
        print(result_table(results))
        print(counts)
        return
    report = {
        "model": str(args.model),
        **model.embedder.facts.as_json(),
        "image_size": model.image_size,
        "device": str(model.device),
        "precision": model.precision,
        "folds": args.folds,
        "results": [result_mapping(result) for result in results],
        "num_pairs": num_pairs,
        "num_images": num_images,
        "seconds": round(seconds, 3),
    }
    print(json.dumps(report, indent=2, allow_nan=False))
    logger.info("%s", counts)
