"""Align photos by a file of five landmarks each, onto the ArcFace template.

    python data_tools/align_landmarks.py photos/ landmarks5.txt aligned/

LANDMARKS has lines `path x1 y1 ... x5 y5` (eyes, nose, corners of the mouth; paths below PHOTOS); OUT gets the same
paths with the faces cut out. With --pairs, only people of an LFW pairs.txt are taken, with all their photos: train on
the people of `--folds 1-4`, test on fold 5.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from recognition.cli import make_parser, positive_int, run_command
from recognition.console import Stopwatch, count, duration, progress
from recognition.detection.alignment import align
from recognition.errors import ConfigError, DataError
from recognition.formats.image_tree import identity_of
from recognition.formats.pair_list import parse_folds, read_pair_list
from recognition.images.codec import decode_rgb, encode_jpeg, read_image_file
from recognition.images.photos import MAX_PIXELS
from recognition.work.files import staged_folder
from recognition.work.system import usable_cores
from recognition.work.threads import ordered_map

QUALITY = 95


@dataclass(frozen=True)
class Photo:
    """A photo below the input folder and its landmarks [5, 2] in pixels."""

    path: str
    landmarks: np.ndarray


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, align the photos, and return the exit status."""
    parser = make_parser("align_landmarks", __doc__)
    add = parser.add_argument
    add("photos", type=Path, metavar="PHOTOS", help="folder the landmark file's paths start from")
    add("landmarks", type=Path, metavar="LANDMARKS", help="lines `path x1 y1 ... x5 y5`")
    add("output", type=Path, metavar="OUT", help="folder to make")
    add(
        "--landmark-scale",
        type=float,
        default=1.0,
        metavar="S",
        help="factor from the file's coordinates to the photos' pixels (default: 1)",
    )
    add("--size", type=positive_int, default=112, metavar="PX", help="side of the aligned faces (default: 112)")
    add("--pairs", type=Path, help="an LFW pairs.txt: take the people who occur in it")
    add("--folds", metavar="K|A-B", help="with --pairs: only the people of these folds, counted from 1")
    add("--workers", type=positive_int, default=usable_cores(), help="threads (default: one per core)")
    add("--json", action="store_true", help="print the counts as one JSON object")
    return run_command(parser, _run, argv)


def read_landmarks(path: Path, scale: float = 1.0) -> list[Photo]:
    """Return the photos of a landmark file in its order, coordinates times `scale`; DataError names a bad line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        reason = err.strerror if isinstance(err, OSError) else "not text"
        raise DataError(f"{path}: cannot be read ({reason}); expected lines `path x1 y1 ... x5 y5`") from err
    return [_parse(path, number, line, scale) for number, line in enumerate(lines, 1) if line.strip()]


def people_of_folds(pairs: Path, folds: str | None) -> set[str]:
    """Return the people who occur in the chosen folds of an LFW pairs.txt (None: in all)."""
    listed = read_pair_list(pairs, folds=parse_folds(folds) if folds else None)
    return {name for pair in listed for name in pair.people}


def _run(args: argparse.Namespace) -> None:
    watch = Stopwatch()
    if args.folds and not args.pairs:
        raise ConfigError("--folds: chooses folds of a pair list; expected --pairs beside it; add --pairs")
    if not args.landmark_scale > 0:
        raise ConfigError(f"--landmark-scale {args.landmark_scale}: expected a factor above zero; 1 keeps the pixels")
    listed = read_landmarks(args.landmarks, args.landmark_scale)
    wanted = people_of_folds(args.pairs, args.folds) if args.pairs else None
    photos = [photo for photo in listed if wanted is None or identity_of(photo.path) in wanted]
    if not photos:
        raise DataError(f"{args.landmarks}: lists no photo of these people; check --pairs and --folds")
    with staged_folder(args.output) as folder:
        work = ordered_map(partial(_align_one, args.photos, folder, args.size), photos, workers=args.workers)
        for _ in progress(work, total=len(photos), unit="img", label="align", quiet=args.quiet):
            pass
    _report(args, photos, len(listed) - len(photos), watch.seconds)


def _report(args: argparse.Namespace, photos: Sequence[Photo], num_other: int, seconds: float) -> None:
    num_people = len({identity_of(photo.path) for photo in photos})
    if args.json:
        counts = {"num_images": len(photos), "num_identities": num_people, "num_not_chosen": num_other}
        print(json.dumps({"output": str(args.output), **counts, "seconds": round(seconds, 3)}))
        return
    print(
        f"aligned {count(len(photos), 'image')}, {count(num_people, 'identity')}, {num_other:,} not chosen "
        f"in {duration(seconds)} ({len(photos) / seconds:,.0f}/s)"
    )


def _align_one(photos: Path, folder: Path, size: int, photo: Photo) -> None:
    source, target = photos / photo.path, folder / photo.path
    encoded = read_image_file(source)
    try:
        face = align(decode_rgb(encoded, place=str(source), max_pixels=MAX_PIXELS), photo.landmarks, size)
    except cv2.error as err:
        raise DataError(f"{source}: cannot be aligned ({err.err}); check its landmarks") from err
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(encode_jpeg(face, QUALITY))


def _parse(path: Path, line: int, text: str, scale: float) -> Photo:
    name, *numbers = text.split("\t") if "\t" in text else text.split()
    try:
        landmarks = np.array([float(number) for number in numbers]).reshape(5, 2) * scale
    except ValueError as err:
        raise DataError(f"{path}:{line}: found {text[:100]!r}; expected `path x1 y1 ... x5 y5`; fix the line") from err
    if not np.isfinite(landmarks).all() or np.ptp(landmarks, axis=0).max() <= 0:
        raise DataError(f"{path}:{line}: the landmarks of {name!r} span no face; expected five points; fix the line")
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(f"{path}:{line}: {name!r} leaves the folder of photos; expected a path below it; fix the line")
    return Photo(name, landmarks)
