"""Write a verification report: one HTML page with intervals, curves, hardest pairs, groups and a model card.

    python eval/report.py work_dirs/lfw_tiny lfw.bin --output report.html
    python eval/report.py model.onnx lfw.bin rfw_african.bin --also work_dirs/other --against train.rec
    python eval/report.py --from-scores another_system.tsv --output report.html

The page needs no network and no other file, on a screen and in print. Models and sets are those of eval/verify.py. With
--against TRAIN it says which people and which pictures the training set shares with the test sets; with --quality
(length, or an .onnx file with one number a face) it draws the error-versus-reject curve.
"""

from __future__ import annotations

import argparse
import logging
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recognition.cli import make_parser, run_command
from recognition.commands.verify import (
    add_model_flags,
    add_set_flags,
    check_set,
    open_models,
    set_options,
    warn,
)
from recognition.console import Stopwatch, count, duration
from recognition.distributed.world import World, join_world
from recognition.embedding.quality import LENGTH, OnnxQuality, embedding_lengths
from recognition.errors import ConfigError
from recognition.verification.color_check import blue_warning
from recognition.verification.groups import group_table, read_groups, with_groups
from recognition.verification.judged_models import JudgedModel, ReadyModel
from recognition.verification.overlap import Overlap, find_overlap
from recognition.verification.page import JudgedSet, render_page
from recognition.verification.protocols import (
    PairSet,
    VerificationResult,
    chance_warning,
    decode_images,
    distinct_images,
    order_warning,
    verify_embeddings,
    verify_scores,
)
from recognition.verification.quality import RejectCurve, error_versus_reject
from recognition.verification.run_curves import run_charts
from recognition.verification.scores_file import read_scores
from recognition.verification.sets import open_sets, set_names
from recognition.work.files import refuse_existing, write_text
from recognition.work.revision import find_revision
from recognition.work.system import usable_cores

logger = logging.getLogger(__name__)

_CONFIG_KEYS = ("head.margins", "head.scale", "optim.lr", "train.num_epoch", "train.batch_size", "data.rec")


def main(argv: Sequence[str] | None = None) -> int:
    """Judge, write the page, and return the exit status."""
    parser = make_parser("report", __doc__)
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help="a run folder, a weight or .onnx file, or a folder of embeddings")
    add("sets", type=Path, nargs="*", metavar="SET", help="verification sets: .bin files, or lists with --images")
    add("--output", type=Path, default=Path("report.html"), metavar="FILE", help="the page (report.html)")
    add("--also", action="append", default=[], metavar="MODEL", help="a further model; may be repeated")
    add("--from-scores", type=Path, action="append", default=[], metavar="FILE", help="judge scores instead of a model")
    add("--groups", type=Path, metavar="FILE", help="lines `person TAB group` (or picture): errors by group")
    add(
        "--against",
        type=Path,
        metavar="TRAIN",
        help="folder or packed set that the test sets should share nothing with",
    )
    add("--quality", action="append", default=[], metavar=f"{LENGTH}|FILE.onnx", help="a quality score a face")
    add("--title", help="of the page")
    add_set_flags(parser)
    add_model_flags(parser)
    add("--overwrite", action="store_true", help="replace the page")
    parser.set_defaults(command=list(sys.argv[1:] if argv is None else argv))
    return run_command(parser, _run, argv, intermixed=True)


def _run(args: argparse.Namespace) -> None:
    if bool(args.from_scores) == bool(args.model and args.sets):
        raise ConfigError("expected MODEL and at least one SET, or --from-scores; give one of them")
    refuse_existing(args.output, overwrite=args.overwrite)
    groups = read_groups(args.groups) if args.groups else None
    qualities = {name: None if name == LENGTH else OnnxQuality(Path(name)) for name in args.quality}
    watch = Stopwatch()
    with join_world(args.device) as world:
        models: list[JudgedModel] = []
        if args.from_scores:
            judged = [_of_scores(path, name, args) for path, name in zip(args.from_scores, set_names(args.from_scores))]
        else:
            models = open_models(args, [args.model, *args.also], world)
            side = next((model.image_size for model in models if model.image_size is not None), 112)
            sets = open_sets(args.sets, set_options(args, size=side))
            judged = [_judge(args, model, each, world, qualities, len(models)) for model in models for each in sets]
        if not world.is_main:
            return
        judged = [_with_rest(each, groups, args) for each in judged]
        judged = _with_overlap(judged, args)
        title = args.title or ("Scores" if not models else " and ".join(Path(model.path).name for model in models))
        charts = [chart for model in models for chart in run_charts(Path(model.path))]
        cards = [_card(model, world, args.command) for model in models] or [_environment(world, args.command)]
        page = render_page(title, judged, cards=cards, run_charts=charts)
    write_text(args.output, page)
    size_mib = len(page) / 2**20
    print(f"wrote {args.output}: {count(len(judged), 'result')}, {size_mib:.1f} MiB, in {duration(watch.seconds)}")


def _of_scores(path: Path, name: str, args: argparse.Namespace) -> JudgedSet:
    pair_set, scores = read_scores(path, name=name, folds=args.folds)
    warn(order_warning(pair_set, args.folds))
    return JudgedSet(pair_set, verify_scores(pair_set, scores, method="model", folds=args.folds, with_intervals=True))


def _judge(
    args: argparse.Namespace,
    model: JudgedModel,
    pair_set: PairSet,
    world: World,
    qualities: Mapping[str, OnnxQuality | None],
    num_models: int,
) -> JudgedSet:
    """Embed a set and measure everything that needs the embeddings."""
    warn(order_warning(pair_set, args.folds), world)
    warn(blue_warning(pair_set), world)
    check_set(model, pair_set, world)
    embeddings = model.embed_set(pair_set, label=pair_set.name)
    result = verify_embeddings(pair_set, embeddings, folds=args.folds, with_intervals=world.is_main)
    warn(chance_warning(result), world)
    result = replace(result, model=model.path if num_models > 1 else "")
    rejects = {}
    for name, scorer in qualities.items():
        scores = embedding_lengths(embeddings) if scorer is None else _scored(scorer, pair_set)
        rejects[name] = _reject_curve(result, scores)
    return JudgedSet(pair_set, result, rejects=rejects)


def _scored(scorer: OnnxQuality, pair_set: PairSet) -> np.ndarray:
    """Return the quality of each of the 2n images."""
    firsts, members = distinct_images(pair_set.images)
    images = [pair_set.images[number] for number in firsts]
    pixels = decode_images(images, image_size=scorer.image_size, place=str(pair_set.path), numbers=firsts)
    found: np.ndarray = scorer(pixels)[members]
    return found


def _reject_curve(result: VerificationResult, quality: np.ndarray) -> RejectCurve:
    threshold = float(np.nextafter(result.threshold_cosine, np.inf))
    return error_versus_reject(result.cosines, result.is_same, quality, threshold)


def _with_rest(each: JudgedSet, groups: Mapping[str, str] | None, args: argparse.Namespace) -> JudgedSet:
    pair_set = each.pair_set
    if groups is not None:
        pair_set = replace(pair_set, about=with_groups(pair_set, groups, args.groups))
    return replace(each, pair_set=pair_set, groups=group_table(each.result, pair_set.about))


def _with_overlap(judged: Sequence[JudgedSet], args: argparse.Namespace) -> list[JudgedSet]:
    if args.against is None:
        return list(judged)
    found: dict[Path, Overlap] = {}
    for each in judged:
        if each.pair_set.images and each.pair_set.path not in found:
            found[each.pair_set.path] = find_overlap(
                each.pair_set, args.against, workers=usable_cores(), quiet=args.quiet
            )
    for path, overlap in found.items():
        if overlap.people or overlap.num_duplicates:
            num_people = len(overlap.people or ())
            logger.warning(
                "%s: shares %s and %s with %s; its numbers are too good",
                path,
                count(num_people, "name"),
                count(overlap.num_duplicates, "picture"),
                args.against,
            )
    return [replace(each, overlap=found.get(each.pair_set.path)) for each in judged]


def _card(model: JudgedModel, world: World, command: Sequence[str]) -> dict[str, str]:
    """Return what is known of a model, for people."""
    facts = {name: value for name, value in model.facts.as_json().items() if value is not None}
    card = {"model": model.path, **{name.replace("_", " "): _spell(value) for name, value in facts.items()}}
    card["alignment"] = model.facts.alignment or "not said"
    metadata = model.metadata if isinstance(model, ReadyModel) else None
    if metadata is not None:
        card |= {"color": metadata.color, "scaling": f"(x - {metadata.mean:g}) / {metadata.std:g}"}
        card["trained at revision"] = metadata.revision
        card |= {key: _spell(metadata.config[key]) for key in _CONFIG_KEYS if key in metadata.config}
        card |= {f"reached: {name}": _spell(value) for name, value in metadata.metrics.items()}
    return card | _head_of_config(Path(model.path)) | _environment(world, command)


def _head_of_config(run: Path) -> dict[str, str]:
    """Return the comments at the top of a run's config.yaml: command, revision, versions."""
    path = run / "config.yaml"
    if not path.is_file():
        return {}
    found = {}
    with open(path, encoding="utf-8", errors="replace") as handle:
        for line in handle:
            if not line.startswith("# "):
                break
            name, colon, value = line[2:].strip().partition(": ")
            if colon:
                found[f"training {name}"] = value
    return found


def _environment(world: World, command: Sequence[str]) -> dict[str, str]:
    """Return with what this report was made."""
    device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else platform.processor()
    hardware = f"{device or platform.machine()}, {count(usable_cores(), 'core')}, {count(world.size, 'process')}"
    return {
        "report hardware": hardware.replace("processs", "processes"),
        "report software": f"Python {platform.python_version()}, torch {torch.__version__}, revision {find_revision()}",
        "report command": shlex.join(["eval/report.py", *command]),
    }


def _spell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_spell(each)}" for name, each in value.items())
    return f"{value:.6g}" if isinstance(value, float) else str(value)
