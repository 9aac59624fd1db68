"""Embed aligned faces by a run, weights or ONNX file, or by dlib's network before any model exists.

    python data_tools/embed_faces.py aligned/ embedded/ --model work_dirs/ms1mv3_r50
    torchrun --nproc_per_node=8 data_tools/embed_faces.py train.rec embedded/ --model work_dirs/ms1mv3_r50

OUT gets embeddings.npy (float32 [n, D], not normalized, to be memory-mapped), keys.jsonl (path or key and identity of
each row) and embeddings.json; with --quality also quality.npy, a number for each face that clean_faces.py passes on.
Blocks go to the processes of torchrun, or to --workers on the CPU; --readers read and decode ahead of the network, as
in training. A run that was killed continues when it is started again. Images whose embedding is not finite are named,
and --skip-bad leaves them out.
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from recognition.cli import make_parser, non_negative_int, positive_int, run_command
from recognition.config.schema import Precision
from recognition.console import Stopwatch, count, duration, progress, rate
from recognition.distributed.collectives import barrier
from recognition.distributed.world import World, declared_local_size, declared_size, join_world, report_to_launcher
from recognition.embedding.input_scale import add_scale_flags, asked_scale
from recognition.embedding.models import BlockEmbedder, is_torch, prepare_blocks
from recognition.embedding.quality import LENGTH, OnnxQuality, embedding_lengths
from recognition.embedding.quality_column import write_quality
from recognition.embedding.reading_ahead import embed_ahead
from recognition.embedding.store import (
    BLOCK,
    EmbeddingStore,
    ImageSource,
    all_keys,
    block_range,
    embedding_folder,
    open_images,
    open_vectors,
    read_block,
    sample_thumbnails,
)
from recognition.embedding.strangers import different_people, pair_cosines, strangers_warning
from recognition.errors import ArcShardError, CheckpointError, ConfigError, DataError
from recognition.feed.loader_size import choose_workers
from recognition.work.processes import process_map
from recognition.work.system import usable_cores

logger = logging.getLogger("embed_faces")

_PRECISIONS: dict[str, Precision] = {"float32": "off", "bf16": "bf16"}
_SHOWN, _MAX_NAMED = 3, 20  # images that an error names; that get a line each


class _Counts(NamedTuple):
    """What became of the images."""

    num_images: int
    num_from_before: int
    num_left_out: int


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, embed the faces, and return the exit status."""
    parser = make_parser("embed_faces", __doc__)
    add = parser.add_argument
    add("faces", type=Path, metavar="FACES_OR_REC", help="folder of aligned faces, a packed set, or a .bin of pairs")
    add("output", type=Path, metavar="OUT", help="folder for the embeddings")
    add("--model", required=True, metavar="PATH|dlib", help="run folder, weight file, .onnx file, or the word dlib")
    add("--network", help="the network of a bare file whose keys do not tell")
    add_scale_flags(parser)
    add("--batch-size", type=positive_int, default=64, metavar="N", help="images a pass (default: 64)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    add("--workers", type=positive_int, default=1, help="processes on the CPU, without torchrun (default: 1)")
    add(
        "--readers",
        type=non_negative_int,
        metavar="N",
        help="processes that read ahead (on a GPU: by its cores, else 0)",
    )
    add("--precision", choices=_PRECISIONS, default="float32", help="of the network's products (default: float32)")
    add("--skip-bad", action="store_true", help="leave images out whose embedding is not finite, and say how many")
    add("--quality", metavar="length|FILE.onnx", help="write quality.npy too: a number a face")
    add("--overwrite", action="store_true", help="start from the beginning and replace what an earlier run left in OUT")
    add("--json", action="store_true", help="print the counts as one JSON object")
    return run_command(parser, _run, argv, report=_tell_launcher)


def _tell_launcher(line: str, err: Exception) -> None:
    report_to_launcher(line, is_final=isinstance(err, ConfigError))


def _run(args: argparse.Namespace) -> None:
    watch = Stopwatch()
    if args.workers > 1 and declared_size() > 1:
        raise ConfigError(f"--workers {args.workers}: torchrun gives {declared_size()} processes; leave --workers out")
    if args.workers > 1 and args.readers:
        raise ConfigError(f"--readers {args.readers}: each of {args.workers} --workers reads for itself; leave one out")
    scorer = None if args.quality in (None, LENGTH) else OnnxQuality(Path(args.quality))
    with join_world("cpu" if args.workers > 1 else args.device) as world, contextlib.ExitStack() as held:
        source = open_images(args.faces, logs=world.is_main)
        settings = (args.model, args.network, args.batch_size, str(world.device), asked_scale(args))
        prepare = partial(prepare_blocks, args.faces, *settings, precision=_PRECISIONS[args.precision])
        about: dict[str, Any] = {}
        if world.is_main:
            about, lock = _begin(args, source, prepare)
            held.enter_context(lock)
        barrier(world)
        store = EmbeddingStore(args.output)
        missing = store.missing
        barrier(world)  # every rank has read what is missing before one writes
        mine = missing[world.rank :: world.size]
        try:
            _fill(args, world, store, mine, prepare)
        except ArcShardError:
            if world.is_main:
                store.give_up()
            raise
        barrier(world)
        if world.is_main:
            left_out = _not_finite(args, store, source)
            store.publish(all_keys(source), {**about, "thumbnails": sample_thumbnails(source)}, left_out)
            if args.quality is not None:
                write_quality(args.output, _quality(args, source, scorer, left_out))
            _warn_if_alike(args, source, left_out)
            num_new = sum(len(block_range(len(source), block)) for block in missing)
            _report(args, about, _Counts(len(source), len(source) - num_new, len(left_out)), watch.seconds)


def _not_finite(args: argparse.Namespace, store: EmbeddingStore, source: ImageSource) -> set[int]:
    """Return the images to leave out, each named in a warning; DataError for any without --skip-bad."""
    found = store.not_finite()
    names = [source.keyed(number).key for number in found[:_MAX_NAMED]]
    if found and not args.skip_bad:
        more = ", ..." if len(found) > _SHOWN else ""
        raise DataError(
            f"{args.faces}: the embeddings of {count(len(found), 'image')} of {len(source):,} are not finite "
            f"({', '.join(names[:_SHOWN])}{more}); expected numbers; look at the images and at {args.model}, or pass "
            "--skip-bad to leave them out: the others are not embedded again"
        )
    for name in names:
        logger.warning("%s: its embedding is not finite; left out", name)
    if len(found) > len(names):
        logger.warning("and %s more", count(len(found) - len(names), "image"))
    return set(found)


def _quality(
    args: argparse.Namespace, source: ImageSource, scorer: OnnxQuality | None, left_out: set[int]
) -> np.ndarray:
    """Return the quality of each face that was published: of its embedding, or by the network."""
    if scorer is None:
        return embedding_lengths(open_vectors(args.output)[0])
    blocks = range(-(-len(source) // BLOCK))
    shown = progress(blocks, total=len(blocks), unit="block", label="quality", quiet=args.quiet)
    scores = np.concatenate([scorer(read_block(source, block)) for block in shown])
    return np.delete(scores, sorted(left_out))


def _fill(
    args: argparse.Namespace,
    world: World,
    store: EmbeddingStore,
    blocks: Sequence[int],
    prepare: Callable[[], BlockEmbedder],
) -> None:
    """Embed this rank's blocks."""
    num_readers = _num_readers(args, world)
    if num_readers and blocks:
        work = embed_ahead(prepare(), blocks, num_readers=num_readers)
    else:
        work = process_map(_embed, blocks, prepare, workers=args.workers)
    quiet = args.quiet or not world.is_main
    is_first = True
    for block, vectors in progress(work, total=len(blocks), unit="block", label="embed", quiet=quiet):
        if is_first and not np.isfinite(vectors).all(axis=1).any():
            raise CheckpointError(
                f"{args.model}: none of the first {count(len(vectors), 'embedding')} is finite; expected numbers; take "
                "another model, or an earlier checkpoint"
            )
        is_first = False
        store.write(block, vectors)


def _num_readers(args: argparse.Namespace, world: World) -> int:
    """Return how many processes read for this rank: those asked for, else what training takes beside a GPU."""
    if args.readers is not None or world.device.type != "cuda":
        return args.readers or 0
    return choose_workers(None, cores=usable_cores(), ranks_here=declared_local_size(), on_gpu=True)


def _begin(
    args: argparse.Namespace, source: ImageSource, prepare: Callable[[], BlockEmbedder]
) -> tuple[dict[str, Any], BinaryIO]:
    """Make or continue the store; return what it says of the set and the model, and its lock.

    What is wrong with either is found before the folder is touched.
    """
    folder = embedding_folder(args.output)
    folder.check(overwrite=args.overwrite)
    embedder = prepare()
    dimension = embedder.dimension(args.model)
    about = {"faces": str(args.faces.resolve()), "model": _name_of(args.model), **embedder.facts.as_json()}
    if is_torch(args.model):
        about["precision"] = args.precision
    if args.quality is not None:
        about["quality"] = args.quality
    if args.overwrite:
        folder.clear()
    lock = folder.hold()
    EmbeddingStore.begin(args.output, len(source), dimension, about)
    return about, lock


def _embed(embedder: BlockEmbedder, block: int) -> tuple[int, np.ndarray]:
    return block, embedder(block)


def _warn_if_alike(args: argparse.Namespace, source: ImageSource, left_out: set[int]) -> None:
    vectors, missing = open_vectors(args.output)[0], sorted(left_out)
    rows = [i - bisect.bisect(missing, i) for i in different_people(source) if i not in left_out]
    warning = strangers_warning(pair_cosines(vectors[rows]), place=args.model)
    if warning:
        logger.warning("%s", warning)


def _name_of(model: str) -> str:
    return model if model == "dlib" else str(Path(model).resolve())


def _report(args: argparse.Namespace, about: Mapping[str, Any], counts: _Counts, seconds: float) -> None:
    if args.json:
        numbers = {**counts._asdict(), "seconds": round(seconds, 3)}
        print(json.dumps({"output": str(args.output), **about, **numbers}))
        return
    before = f", {counts.num_from_before:,} from before" if counts.num_from_before else ""
    before += f", {counts.num_left_out:,} left out" if counts.num_left_out else ""
    each = rate(counts.num_images - counts.num_from_before, seconds)
    print(f"embedded {count(counts.num_images, 'image')}{before} in {duration(seconds)} ({each})")
