"""Verify a model on pairs of faces: 10-fold accuracy, thresholds, TAR at FAR, AUC and EER, with their intervals.

    python eval/verify.py work_dirs/ms1mv3_r50 lfw.bin cfp_fp.bin agedb_30.bin
    python eval/verify.py backbone.pth lfw.bin --network r50 --json
    python eval/verify.py model.onnx pairs.txt --images photos/ --detector mtcnn
    python eval/verify.py work_dirs/demo unseen.bin --baselines --plots plots --scores scores.tsv
    python eval/verify.py --from-scores another_system.tsv

The model is a run folder, whether its run has ended or not, a checkpoint, a weight file under insightface's names, an
.onnx file, or a folder that embed_faces.py wrote; model.safetensors says what it is, and so does a run's config.yaml; a
bare file is known by its keys. An .onnx file may come from anywhere (docs/export.md). A set is a .bin, or a list of
pairs as it is published, with --images. --also adds further models to the table, --baselines raw pixels, a color
histogram and the same network untrained. Under torchrun the ranks share the pictures. What the columns mean:
docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from recognition.cli import make_parser, positive_int, run_command
from recognition.console import Stopwatch, count, duration, rate
from recognition.detection.alignment import template_name
from recognition.detection.crop_on_the_fly import PhotoReader
from recognition.detection.detectors import DETECTORS, build_detector
from recognition.distributed.world import World, join_world
from recognition.embedding.input_scale import add_scale_flags, asked_scale
from recognition.embedding.strangers import strangers_warning
from recognition.errors import ConfigError
from recognition.formats.pair_layouts import PAIR_LAYOUTS
from recognition.images.codec import read_image_file
from recognition.verification.baselines import baseline_results
from recognition.verification.color_check import blue_warning, both_orders, order_line
from recognition.verification.groups import group_table, read_groups, with_groups
from recognition.verification.judged_models import JudgedModel, ReadyModel, check_same_model, open_model
from recognition.verification.protocols import (
    PairSet,
    VerificationResult,
    chance_warning,
    distinct_images,
    order_warning,
    size_warning,
    verify_embeddings,
    verify_scores,
)
from recognition.verification.report import (
    group_lines,
    interval_table,
    require_matplotlib,
    result_mapping,
    result_table,
    roc_plot,
    score_plot,
)
from recognition.verification.scores_file import read_scores, write_scores
from recognition.verification.sets import SetOptions, open_sets, set_names
from recognition.work.files import refuse_existing, write_bytes

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Verify, print the tables or the JSON object, and return the exit status."""
    parser = make_parser("verify", __doc__)
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help="a run folder, a weight or .onnx file, or a folder of embeddings")
    add("sets", type=Path, nargs="*", metavar="SET", help="verification sets: .bin files, or lists with --images")
    add("--also", action="append", default=[], metavar="MODEL", help="a further model for the table; may be repeated")
    add("--embeddings", type=Path, metavar="DIR", help="what embed_faces.py made with MODEL, to spare embedding again")
    add("--from-scores", type=Path, action="append", default=[], metavar="FILE", help="judge scores instead of a model")
    add("--scores", type=Path, metavar="FILE", help="write one line a pair: score, same, and what is known of it")
    add("--groups", type=Path, metavar="FILE", help="lines `person TAB group` (or picture): errors by group")
    add_set_flags(parser)
    add_model_flags(parser)
    add("--check-color", action="store_true", help="embed some pairs with red and blue exchanged as well")
    add("--baselines", action="store_true", help="measure three methods without training as well")
    add("--plots", type=Path, metavar="DIR", help="write ROC and score histograms as PNG files")
    add("--overwrite", action="store_true", help="replace plots and scores that exist")
    add("--json", action="store_true", help="print one JSON object instead of the table")
    return run_command(parser, _run, argv, intermixed=True)


def add_set_flags(parser: argparse.ArgumentParser) -> None:
    """Add what says how sets are read."""
    add = parser.add_argument
    add("--images", type=Path, metavar="DIR", help="pictures of the sets that are lists of pairs")
    add("--layout", choices=["lfw", *PAIR_LAYOUTS], help="of the lists, where their content does not tell it")
    add("--detector", choices=list(DETECTORS), help="find and align the faces of --images first")
    add("--detector-model", type=Path, metavar="PATH", help="weights of the detector (scrfd needs it)")
    add("--folds", type=positive_int, help="folds of consecutive pairs (the list's own, or else 10)")


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Add what says how models are loaded."""
    add = parser.add_argument
    add_scale_flags(parser)
    add("--network", help="the network of a bare file whose keys do not tell")
    add("--image-size", type=positive_int, help="side of a bare file's input, where keys leave it open")
    add("--batch-size", type=positive_int, default=64, help="images embedded at once (64)")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto")
    add("--precision", choices=["off", "bf16", "fp16"], default="off", help="autocast (off)")


def set_options(args: argparse.Namespace, *, size: int) -> SetOptions:
    """Return how the flags want sets to be opened; faces are cut out at `size` pixels."""
    reader: Any = read_image_file
    if args.detector is not None:
        if args.images is None:
            raise ConfigError("--detector: is for the photos of --images; expected both; name the folder, or leave it")
        reader = PhotoReader(build_detector(args.detector, model=args.detector_model), size)
    return SetOptions(args.images, args.layout, args.folds, reader)


def open_models(args: argparse.Namespace, paths: Sequence[str], world: World) -> list[JudgedModel]:
    """Load the models as the flags say."""
    return [
        open_model(
            path,
            world,
            network=args.network,
            image_size=args.image_size,
            batch_size=args.batch_size,
            precision=args.precision,
            quiet=args.quiet or not world.is_main,
            asked=asked_scale(args),
        )
        for path in paths
    ]


def _run(args: argparse.Namespace) -> None:
    if bool(args.from_scores) == bool(args.model and args.sets):
        raise ConfigError("expected MODEL and at least one SET, or --from-scores; give one of them")
    # Everything that can be wrong with the request is found before the first image is embedded.
    names = args.from_scores or args.sets
    plots = _plot_paths(args.plots, names)
    if plots:
        require_matplotlib()
    refuse_existing(*plots, *([args.scores] if args.scores else []), overwrite=args.overwrite)
    if args.scores and (len(names) > 1 or args.also):
        raise ConfigError(
            f"--scores {args.scores}: holds one model's scores of one set; expected one SET and no --also"
        )
    groups = read_groups(args.groups) if args.groups else None
    watch = Stopwatch()
    with join_world(args.device) as world:
        if args.from_scores:
            models: list[JudgedModel] = []
            sets, results = _judge_scores(args)
        else:
            models, sets, results = _judge_models(args, world)
        if not world.is_main:
            return
        if groups is not None:
            sets = [replace(each, about=with_groups(each, groups, args.groups)) for each in sets]
        if args.scores:
            write_scores(args.scores, sets[0], results[0].cosines)
        _publish_plots(plots, results)
        _report(args, world, models, sets, results, watch.seconds)


def _judge_scores(args: argparse.Namespace) -> tuple[list[PairSet], list[VerificationResult]]:
    found = [
        read_scores(path, name=name, folds=args.folds)
        for path, name in zip(args.from_scores, set_names(args.from_scores))
    ]
    for pair_set, _ in found:
        warn(order_warning(pair_set, args.folds))
    results = [
        verify_scores(pair_set, scores, method="model", folds=args.folds, with_intervals=True)
        for pair_set, scores in found
    ]
    return [pair_set for pair_set, _ in found], results


def _judge_models(
    args: argparse.Namespace, world: World
) -> tuple[list[JudgedModel], list[PairSet], list[VerificationResult]]:
    paths = [args.model, *args.also]
    cropping = args.detector is not None
    # The size of crops is the model's; without them, a set that cannot be read is found before a model is loaded.
    models = open_models(args, paths, world) if cropping else []
    sizes = {model.image_size for model in models if model.image_size is not None}
    if len(sizes) > 1:
        raise ConfigError(f"--detector: the models take {sorted(sizes)} pixels; expected one size; judge apart")
    options = set_options(args, size=next(iter(sizes), 112))
    sets = open_sets(args.sets, options)
    if isinstance(options.read_picture, PhotoReader) and options.read_picture.without_face:
        photos = options.read_picture.without_face
        warn(f"no face was found in {count(len(photos), 'photo')} ({photos[0]}, ...); the middle was taken", world)
    for pair_set in sets:
        warn(order_warning(pair_set, args.folds), world)
        warn(blue_warning(pair_set), world)
    models = models or open_models(args, paths, world)
    if args.embeddings is not None:
        stored = open_model(str(args.embeddings), world)
        check_same_model(stored, models[0])
        models = [stored, *models[1:]]
    results: list[VerificationResult] = []
    for model in models:
        for pair_set in sets:
            check_set(model, pair_set, world)
            for result in _verify(args, model, pair_set, world):
                results.append(replace(result, model=model.path if len(models) > 1 else ""))
    return models, sets, results


def check_set(model: JudgedModel, pair_set: PairSet, world: World) -> None:
    """Warn of pictures of another size or alignment than the model's."""
    if model.image_size is not None:
        warn(size_warning(pair_set, model.image_size), world)
    aligned, wanted = pair_set.about.alignment, model.facts.alignment
    if aligned is not None and wanted is not None and template_name(aligned.get("template")) != wanted:
        warn(
            f"{pair_set.name}: its faces were aligned to {template_name(aligned.get('template'))!r} points, the "
            f"model's to {wanted!r}; align them alike for the model's own accuracy",
            world,
        )


def _verify(
    args: argparse.Namespace, model: JudgedModel, pair_set: PairSet, world: World
) -> Iterator[VerificationResult]:
    """Yield the model's result on one set, then those of the baselines when asked for."""
    embeddings = model.embed_set(pair_set, label=pair_set.name)
    result = verify_embeddings(pair_set, embeddings, folds=args.folds, with_intervals=world.is_main)
    warn(chance_warning(result), world)
    warn(strangers_warning(result.cosines[~result.is_same], place=result.name), world)
    yield result
    if not isinstance(model, ReadyModel):
        return
    if args.check_color and world.is_main:
        orders = both_orders(model.embed, pair_set, image_size=model.image_size)
        logger.log(logging.INFO if orders[0] >= orders[1] else logging.WARNING, order_line(pair_set.name, *orders))
    if args.baselines:
        yield from baseline_results(model, pair_set, folds=args.folds)


def warn(warning: str | None, world: World | None = None) -> None:
    """Log a warning, if there is one, on the first rank."""
    if warning is not None and (world is None or world.is_main):
        logger.warning("%s", warning)


def _plot_paths(folder: Path | None, sets: Sequence[Path]) -> list[Path]:
    """Return the files to write: the ROC of all sets, then one histogram a set."""
    if folder is None:
        return []
    names = [name.removesuffix(".bin").strip("./").replace("/", "_") for name in set_names(sets)]
    return [folder / "roc.png", *(folder / f"scores_{name}.png" for name in names)]


def _publish_plots(paths: Sequence[Path], results: Sequence[VerificationResult]) -> None:
    if not paths:
        return
    write_bytes(paths[0], roc_plot(results))
    for path, result in zip(paths[1:], (result for result in results if result.method == "model")):
        write_bytes(path, score_plot(result))
    logger.info("wrote %s to %s", count(len(paths), "plot"), paths[0].parent)


def _report(
    args: argparse.Namespace,
    world: World,
    models: Sequence[JudgedModel],
    sets: Sequence[PairSet],
    results: Sequence[VerificationResult],
    seconds: float,
) -> None:
    own = [result for result in results if result.method == "model"]
    num_pairs = sum(result.num_pairs for result in own)
    num_images = _num_embedded(args, models, sets)
    by_set = list(zip([each for _ in range(max(1, len(models))) for each in sets], own))
    tables = [group_table(result, pair_set.about) for pair_set, result in by_set]
    with_what = " and ".join(dict.fromkeys(model.network for model in models)) or "their scores"
    counts = (
        f"verified {count(num_pairs, 'pair')} of {count(len(own), 'set')} with {with_what}, "
        f"{count(num_images, 'image')} embedded in {duration(seconds)} ({rate(num_images, seconds)})"
    )
    if not args.json:
        print(result_table(results))
        print(interval_table(own))
        for (_, result), table in zip(by_set, tables):
            if table is not None:
                print(group_lines(result, table))
        print(counts)
        return
    entries = [result_mapping(result) for result in results]
    for entry, table in zip((each for each in entries if each["method"] == "model"), tables):
        entry["groups"] = None if table is None else [vars(row) | _spelled(row) for row in table.rows]
    facts = [{"model": model.path, **model.facts.as_json(), "image_size": model.image_size} for model in models]
    report = {
        **(facts[0] if facts else {"model": None}),
        **({"models": facts} if len(facts) > 1 else {}),
        "device": str(world.device),
        "precision": models[0].precision if models and isinstance(models[0], ReadyModel) else args.precision,
        "folds": args.folds or 10,
        "results": entries,
        "num_pairs": num_pairs,
        "num_images": num_images,
        "seconds": round(seconds, 3),
    }
    print(json.dumps(report, indent=2, allow_nan=False))
    logger.info("%s", counts)


def _num_embedded(args: argparse.Namespace, models: Sequence[JudgedModel], sets: Sequence[PairSet]) -> int:
    """Return how many images passed a network: each distinct one once, and once more through an untrained one."""
    distinct = sum(len(distinct_images(pair_set.images)[0]) for pair_set in sets)
    networks = [model for model in models if isinstance(model, ReadyModel)]
    untrained = [model for model in networks if args.baselines and model.architecture is not None]
    return distinct * (len(networks) + len(untrained))


def _spelled(row: Any) -> dict[str, Any]:
    """Return the intervals of a group as lists."""
    names = ("fnmr_interval", "fmr_interval")
    return {name: None if getattr(row, name) is None else list(vars(getattr(row, name)).values()) for name in names}
