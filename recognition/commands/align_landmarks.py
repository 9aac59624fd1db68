"""Align photos by a file of five landmarks each, onto the ArcFace template.

    python data_tools/align_landmarks.py photos/ landmarks5.txt aligned/

LANDMARKS has lines `path x1 y1 ... x5 y5` (eyes, nose, corners of the mouth, the left one in the picture first; paths
below PHOTOS). OUT gets the same paths with the faces cut out, and landmarks.jsonl with a line for every photo: its
status, and why. Where most landmarks fit no face, the command stops and says what is likely wrong with the file. A run
that was killed continues when it is started again. With --pairs, only people of an LFW pairs.txt are taken, with all
their photos: train on the people of `--folds 1-4`, test on fold 5.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from recognition.cli import make_parser, positive_int, run_command
from recognition.console import Stopwatch, count, duration, progress, rate
from recognition.detection.crop_folder import CropFolder
from recognition.detection.crop_names import crop_names
from recognition.detection.landmark_aligner import STATUSES, LandmarkAligner, LandmarkedPhoto
from recognition.detection.landmark_fit import MAX_MISFIT_PX, file_trouble
from recognition.errors import ConfigError, DataError
from recognition.formats.image_tree import identity_of
from recognition.formats.pair_list import parse_folds, read_pair_list
from recognition.formats.text_lines import read_lines
from recognition.images.photos import photo_size, read_photo
from recognition.work.processes import process_map
from recognition.work.system import usable_cores

logger = logging.getLogger("align_landmarks")

MAX_SIZE = 4096
_SAMPLE = 2000  # rows whose landmarks tell whether the file is right
_SAMPLE_PHOTOS = 100  # of these, photos whose size is looked at


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, align the photos, and return the exit status."""
    parser = make_parser("align_landmarks", __doc__)
    add = parser.add_argument
    add("photos", type=Path, metavar="PHOTOS", help="folder the landmark file's paths start from")
    add("landmarks", type=Path, metavar="LANDMARKS", help="lines `path x1 y1 ... x5 y5`")
    add("output", type=Path, metavar="OUT", help="folder for the crops and landmarks.jsonl")
    add(
        "--landmark-scale",
        type=float,
        default=1.0,
        metavar="S",
        help="factor from the file's coordinates to the photos' pixels (default: 1)",
    )
    add(
        "--max-misfit",
        type=float,
        default=MAX_MISFIT_PX,
        metavar="PX",
        help="refuse landmarks this far off the template of 112 pixels, root mean square (default: %(default)s)",
    )
    add("--size", type=positive_int, default=112, metavar="PX", help="side of the crops (default: 112)")
    add("--quality", type=positive_int, default=95, metavar="Q", help="JPEG quality of the crops (default: 95)")
    add("--pairs", type=Path, help="an LFW pairs.txt: take the people who occur in it")
    add("--folds", metavar="K|A-B", help="with --pairs: only the people of these folds, counted from 1")
    add("--with-unpaired", action="store_true", help="with --pairs: also the people who occur in no pair of it")
    add("--workers", type=positive_int, default=usable_cores(), help="processes (default: one per core)")
    add("--overwrite", action="store_true", help="begin anew and replace what an earlier run left in OUT")
    add("--json", action="store_true", help="print the counts as one JSON object")
    return run_command(parser, _run, argv)


def read_landmarks(path: Path, scale: float = 1.0) -> list[LandmarkedPhoto]:
    """Return the photos of a landmark file in its order, coordinates times `scale`; DataError names a bad line."""
    lines = read_lines(path, "lines `path x1 y1 ... x5 y5`")
    return [_parse(path, number, line, scale) for number, line in enumerate(lines, 1) if line.strip()]


def people_of_folds(pairs: Path, folds: str | None) -> set[str]:
    """Return the people who occur in the chosen folds of an LFW pairs.txt (None: in all)."""
    listed = read_pair_list(pairs, folds=parse_folds(folds) if folds else None)
    return {name for pair in listed for name in pair.people}


def _run(args: argparse.Namespace) -> None:
    watch = Stopwatch()
    _check_flags(args)
    listed = read_landmarks(args.landmarks, args.landmark_scale)
    chosen = _choose(args, listed)
    if not chosen:
        raise DataError(f"{args.landmarks}: lists no photo of these people; check --pairs and --folds")
    photos = _named(args.landmarks, chosen)
    folder = CropFolder(args.output, "landmarks")
    crops = [photo.crop for photo in photos]
    folder.check(crops, overwrite=args.overwrite)
    _check_file(args, photos)
    aligner = LandmarkAligner(args.photos, folder, args.size, args.quality, args.max_misfit)
    settings = {"landmarks": str(args.landmarks.resolve()), "photos": str(args.photos.resolve())}
    settings |= {name: str(getattr(args, name)) for name in ("landmark_scale", "max_misfit", "size", "quality")}
    with folder.journal(settings, crops, overwrite=args.overwrite) as journal:
        tasks = [photo for photo in photos if photo.path not in journal.done]
        work = process_map(_align, tasks, partial(_same, aligner), workers=args.workers, at_once=16)
        for name, record in progress(work, total=len(tasks), unit="photo", label="align", quiet=args.quiet):
            journal.append(name, record)
        totals = folder.publish(journal)
    people = {identity_of(photo.path) for photo in photos}
    counts = {"num_images": totals["ok"], "num_identities": len(people), "num_not_chosen": len(listed) - len(photos)}
    _report(args, counts, totals, len(photos) - len(tasks), watch.seconds)


def _check_flags(args: argparse.Namespace) -> None:
    if (args.folds or args.with_unpaired) and not args.pairs:
        flag = "--folds" if args.folds else "--with-unpaired"
        raise ConfigError(f"{flag}: chooses people of a pair list; expected --pairs beside it; add --pairs")
    if not 0 < args.landmark_scale < math.inf:
        raise ConfigError(f"--landmark-scale {args.landmark_scale}: expected a factor above zero; 1 keeps the pixels")
    if not args.max_misfit > 0:
        raise ConfigError(f"--max-misfit {args.max_misfit}: expected pixels above zero; choose such a number")
    if not 1 <= args.quality <= 100:
        raise ConfigError(f"--quality {args.quality}: expected 1 to 100; choose such a number")
    if args.size > MAX_SIZE:
        raise ConfigError(f"--size {args.size}: expected at most {MAX_SIZE} pixels; choose such a number")
    if args.output.resolve() == args.photos.resolve():
        raise DataError(f"{args.output}: is the folder of the photos; expected another; choose another OUT")


def _choose(args: argparse.Namespace, listed: Sequence[LandmarkedPhoto]) -> list[LandmarkedPhoto]:
    """Return the photos of these people; says how many people are in no pair of the list."""
    if args.pairs is None:
        return list(listed)
    everybody = people_of_folds(args.pairs, None)
    wanted = people_of_folds(args.pairs, args.folds)
    unpaired = [photo for photo in listed if identity_of(photo.path) not in everybody]
    if unpaired and not args.with_unpaired:
        people = len({identity_of(photo.path) for photo in unpaired})
        logger.warning(
            "%s: %s with %s are in no pair of any fold, and left out; --with-unpaired takes them",
            args.pairs,
            count(people, "identity"),
            count(len(unpaired), "photo"),
        )
    if args.with_unpaired:
        wanted |= {identity_of(photo.path) for photo in unpaired}
    return [photo for photo in listed if identity_of(photo.path) in wanted]


def _named(path: Path, photos: Sequence[LandmarkedPhoto]) -> list[LandmarkedPhoto]:
    """Return the photos with the names of their crops; DataError when a photo is listed twice."""
    first: dict[str, int] = {}
    for photo in photos:
        if (line := first.setdefault(photo.path, photo.line)) != photo.line:
            raise DataError(
                f"{path}:{photo.line}: {photo.path!r} is also in line {line}; expected one face a photo; remove a line"
            )
    names = crop_names(list(first))
    return [replace(photo, crop=names[photo.path]) for photo in photos]


def _check_file(args: argparse.Namespace, photos: Sequence[LandmarkedPhoto]) -> None:
    """Raise DataError when most landmarks fit no face, or no photo is there: the file or the folder is wrong."""
    sample = photos[:: -(-len(photos) // _SAMPLE)]
    seen = sample[:: -(-len(sample) // _SAMPLE_PHOTOS)]
    if not any((args.photos / photo.path).exists() for photo in seen):
        raise DataError(
            f"{args.photos / seen[0].path}: no such file, nor any other of {count(len(seen), 'photo')} looked for; "
            f"expected the photos that {args.landmarks} lists; check PHOTOS"
        )
    sizes: list[tuple[int, int]] = []
    ordered: list[LandmarkedPhoto] = []
    for photo in seen:
        try:
            sizes.append(photo_size(read_photo(args.photos / photo.path), place=photo.path))
        except DataError:
            continue  # told when it is its turn
        ordered.append(photo)
    known = {photo.line for photo in ordered}
    ordered += [photo for photo in sample if photo.line not in known]
    trouble = file_trouble(np.stack([photo.landmarks for photo in ordered]), sizes, max_misfit_px=args.max_misfit)
    if trouble is not None:
        raise DataError(f"{args.landmarks}: {trouble}; looked at {count(len(ordered), 'photo')}")


def _report(
    args: argparse.Namespace, counts: dict[str, int], totals: Counter[str], num_before: int, seconds: float
) -> None:
    if args.json:
        statuses = {f"num_{status}": totals[status] for status in STATUSES[1:]}
        print(json.dumps({"output": str(args.output), **counts, **statuses, "seconds": round(seconds, 3)}))
        return
    troubles = {status: totals[status] for status in STATUSES[1:] if totals[status]}
    rest = "".join(f", {number:,} {status.replace('_', ' ')}" for status, number in troubles.items())
    before = f", {num_before:,} from before" if num_before else ""
    print(
        f"aligned {count(counts['num_images'], 'image')}, {count(counts['num_identities'], 'identity')}, "
        f"{counts['num_not_chosen']:,} not chosen{rest}{before} in {duration(seconds)} "
        f"({rate(counts['num_images'], seconds)})"
    )
    if troubles:
        print(f"what is wrong with {sum(troubles.values()):,}: {args.output / 'landmarks.jsonl'}")


def _same(aligner: LandmarkAligner) -> LandmarkAligner:
    """Return the tool of a worker process, which needs no preparing."""
    cv2.setNumThreads(1)
    return aligner


def _align(aligner: LandmarkAligner, photo: LandmarkedPhoto) -> tuple[str, dict[str, Any]]:
    return photo.path, aligner(photo)


def _parse(path: Path, line: int, text: str, scale: float) -> LandmarkedPhoto:
    name, *numbers = text.split("\t") if "\t" in text else text.split()
    try:
        landmarks = np.array([float(number) for number in numbers]).reshape(5, 2) * scale
    except ValueError as err:
        raise DataError(f"{path}:{line}: found {text[:100]!r}; expected `path x1 y1 ... x5 y5`; fix the line") from err
    if not np.isfinite(landmarks).all() or np.ptp(landmarks, axis=0).max() <= 0:
        raise DataError(f"{path}:{line}: the landmarks of {name!r} span no face; expected five points; fix the line")
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise DataError(f"{path}:{line}: {name!r} leaves the folder of photos; expected a path below it; fix the line")
    return LandmarkedPhoto(name, landmarks, line)
