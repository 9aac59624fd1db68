"""Render images of synthetic people, one folder per person, with the true landmarks of every image.

    python data_tools/make_faces.py faces/ --identities 200 --images 20 --seed 0

A person is a function of (seed, number), an image of (seed, person, image): more people or workers do not change
the others. People for a test come from other numbers, as in --first-identity 100000.
OUT/landmarks5.txt holds `path x1 y1 ... x5 y5`: eyes, nose, corners of the mouth, in pixels.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from recognition.cli import make_parser, non_negative_int, positive_int, run_command
from recognition.console import Stopwatch, count, duration, progress, rate
from recognition.errors import DataError
from recognition.rendering.face_person import make_person
from recognition.rendering.face_renderer import render
from recognition.work.files import staged_folder
from recognition.work.system import usable_cores

LANDMARKS = "landmarks5.txt"
MIN_SIZE, MAX_SIZE = 32, 1024


@dataclass(frozen=True)
class FaceSet:
    """Which people, how many images of each, and how large."""

    first_identity: int
    num_identities: int
    num_images: int
    seed: int = 0
    size: int = 112

    def __len__(self) -> int:
        return self.num_identities * self.num_images


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, render the faces, and return the exit status."""
    parser = make_parser("make_faces", __doc__)
    add = parser.add_argument
    add("output", type=Path, metavar="OUT", help="folder to make")
    add("--identities", type=positive_int, default=200, help="people (default: 200)")
    add("--images", type=positive_int, default=20, help="images of each (default: 20)")
    add("--first-identity", type=non_negative_int, default=0, help="number of the first person (default: 0)")
    add("--seed", type=non_negative_int, default=0, help="chooses the population (default: 0)")
    add("--size", type=positive_int, default=112, metavar="PX", help="side of the pictures (default: 112)")
    add("--workers", type=positive_int, default=usable_cores(), help="processes (default: one per core)")
    add("--overwrite", action="store_true", help=f"replace OUT, if it holds a {LANDMARKS}")
    add("--json", action="store_true", help="print the counts as one JSON object")
    return run_command(parser, _run, argv)


def make_faces(faces: FaceSet, output: Path, *, workers: int = 1, overwrite: bool = False, quiet: bool = True) -> None:
    """Render `faces` into the folder `output`, which appears when it is complete.

    The files are the same for any number of workers. Raises DataError when `output` exists or cannot be written;
    `overwrite` replaces only a folder that holds landmarks, so that a mistyped path costs nothing else.
    """
    _check_output(output, overwrite)
    with staged_folder(output, replace=overwrite) as folder:
        numbers = range(faces.first_identity, faces.first_identity + faces.num_identities)
        people = _render_people(partial(_render_person, faces, folder), numbers, workers)
        shown = progress(people, total=len(numbers), unit="person", label="render", quiet=quiet)
        (folder / LANDMARKS).write_text("".join(shown), encoding="utf-8")


def _run(args: argparse.Namespace) -> None:
    watch = Stopwatch()
    if not MIN_SIZE <= args.size <= MAX_SIZE:
        raise DataError(f"--size {args.size}: expected {MIN_SIZE} to {MAX_SIZE} pixels; choose one of them")
    faces = FaceSet(args.first_identity, args.identities, args.images, args.seed, args.size)
    make_faces(faces, args.output, workers=args.workers, overwrite=args.overwrite, quiet=args.quiet)
    seconds = watch.seconds
    if args.json:
        counts = {"output": str(args.output), "num_images": len(faces), "num_identities": faces.num_identities}
        print(json.dumps({**counts, "seconds": round(seconds, 3)}))
        return
    print(
        f"rendered {count(len(faces), 'image')}, {count(faces.num_identities, 'identity')} in {duration(seconds)} "
        f"({rate(len(faces), seconds)})"
    )


def _check_output(output: Path, overwrite: bool) -> None:
    if not output.exists():
        return
    if not overwrite:
        raise DataError(f"{output}: exists already; expected a new path; pass --overwrite to replace it")
    if not (output / LANDMARKS).is_file():
        raise DataError(f"{output}: holds no {LANDMARKS}, so it is no earlier result; choose another folder")


def _render_people(render_one: partial[str], numbers: Sequence[int], workers: int) -> Iterator[str]:
    if workers == 1:
        yield from map(render_one, numbers)
        return
    # spawn: a fork would inherit locks of threads that the caller may run.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        try:
            yield from pool.map(render_one, numbers)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _render_person(faces: FaceSet, folder: Path, number: int) -> str:
    """Write one person's images and return their lines of landmarks."""
    person, name = make_person(faces.seed, number), f"p{number:06d}"
    (folder / name).mkdir()
    lines = []
    for picture in range(1, faces.num_images + 1):  # from 1: numpy gives (seed, number, 0) the stream of (seed, number)
        encoded, landmarks = render(person, np.random.default_rng((faces.seed, number, picture)), faces.size)
        path = f"{name}/{name}_{picture:04d}.jpg"
        (folder / path).write_bytes(encoded)
        lines.append("\t".join([path, *(f"{value:.2f}" for value in landmarks.reshape(-1))]) + "\n")
    return "".join(lines)
