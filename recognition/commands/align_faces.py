"""Detect the faces of photos and align them onto the ArcFace template.

    python data_tools/align_faces.py photos/ aligned/ --detector mtcnn

PHOTOS is a folder per identity, or flat; beside folders with photos, those in PHOTOS itself are passed over. OUT gets
the same folders with one crop a photo (or more: --faces all), and align.jsonl with a line for every photo: its status,
all faces found, the crops' names. A run that was killed continues when it is started again. `--landmarks
OLD/align.jsonl` takes the faces of an earlier run instead of detecting again. `--choices decisions.json` cuts those
crops of a finished OUT again for which a reviewer chose another face (docs/review.md).
Where photos show bystanders, `--faces center` takes the person in the middle, and not whoever stands nearest.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import count as count_from
from itertools import takewhile
from pathlib import Path
from typing import Any

import cv2

from recognition.cleaning.face_choices import apply_choices
from recognition.cleaning.review import face_choices, read_review
from recognition.cli import current_choice, make_parser, positive_int, run_command
from recognition.console import Stopwatch, count, duration, progress, rate
from recognition.detection.align_records import read_records
from recognition.detection.alignment import ARCFACE_TEMPLATE
from recognition.detection.choice import CERTAINTY, POLICIES, Certainty
from recognition.detection.contact_sheet import draw_sheet
from recognition.detection.crop_folder import CropFolder
from recognition.detection.crop_names import crop_name, crop_names
from recognition.detection.detectors import DETECTORS, build_detector
from recognition.detection.photo_aligner import (
    STATUSES,
    AlignSettings,
    PhotoAligner,
    PhotoTask,
)
from recognition.errors import DataError
from recognition.formats.image_tree import ImageTree
from recognition.formats.sources import find_source
from recognition.images.photos import PHOTO_SUFFIXES
from recognition.work.files import refuse_existing
from recognition.work.processes import process_map
from recognition.work.system import usable_cores

TEMPLATE = {"template": ARCFACE_TEMPLATE.tolist(), "template_size": 112, "transform": "similarity"}
MAX_SIZE = 4096


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, align the photos, and return the exit status."""
    parser = make_parser("align_faces", __doc__)
    add = parser.add_argument
    add("photos", type=Path, metavar="PHOTOS", help="folder of photos, one subfolder per identity or flat, or a photo")
    add("output", type=Path, metavar="OUT", help="folder for the aligned faces and align.jsonl")
    add("--detector", choices=tuple(DETECTORS), default="mtcnn", help="default: mtcnn")
    add("--model", type=Path, help="scrfd: the ONNX file; mtcnn, dlib: folder of their weights")
    add("--min-face", type=float, metavar="PX", help="smallest face the detector looks for (mtcnn 20, dlib 37)")
    add("--max-side", type=positive_int, default=1600, metavar="PX", help="larger photos are scaled to this first")
    add(
        "--faces",
        type=current_choice("--faces"),
        choices=POLICIES,
        default="largest",
        help="which faces of a photo to keep (default: largest)",
    )
    add("--min-size", type=float, default=0.0, metavar="PX", help="refuse faces with a box side below this")
    add("--min-score", type=float, metavar="S", help="refuse faces below this score (mtcnn 0.95, dlib -0.1)")
    add("--size", type=positive_int, default=112, metavar="PX", help="side of the crops (default: 112)")
    add("--quality", type=positive_int, default=95, metavar="Q", help="JPEG quality of the crops (default: 95)")
    add("--landmarks", type=Path, metavar="JSONL", help="align.jsonl of an earlier run: detect only what it lacks")
    add("--choices", type=Path, metavar="JSON", help="decisions of the review page: only cut the faces chosen there")
    add("--workers", type=positive_int, default=usable_cores(), help="processes (default: one per core)")
    add("--sheet", type=Path, metavar="PNG", help="where the contact sheet goes (default: beside OUT, OUT.png)")
    add("--no-sheet", action="store_true", help="draw no contact sheet")
    add("--overwrite", action="store_true", help="begin anew and replace what an earlier run left in OUT")
    add("--json", action="store_true", help="print the counts as one JSON object")
    return run_command(parser, _run, argv)


def _run(args: argparse.Namespace) -> None:
    watch = Stopwatch()
    _check_numbers(args)
    if args.output.resolve().is_relative_to(args.photos.resolve()):
        raise DataError(
            f"{args.output}: lies in the folder of the photos, where its crops would be taken for photos; expected "
            "another folder; choose another OUT"
        )
    folder = CropFolder(args.output, "align")
    if args.choices is not None:
        _cut_chosen(args, folder, watch)
        return
    sheet = args.sheet or args.output.resolve().with_name(f"{args.output.resolve().name}.png")
    crops = crop_names(_photos(args.photos), args.faces)
    root = args.photos.parent if args.photos.is_file() else args.photos
    folder.check(crops.values(), overwrite=args.overwrite)
    if not args.no_sheet and not folder.work.is_under_way:
        refuse_existing(sheet, overwrite=args.overwrite)
    known = _known_faces(args.landmarks, folder, overwrite=args.overwrite)
    settings = AlignSettings(
        args.size,
        args.faces,
        args.min_size,
        args.min_score,
        args.max_side,
        args.quality,
        CERTAINTY.get(args.detector, Certainty()),
    )
    described = {
        "detector": args.detector,
        "model": str(args.model) if args.model else None,
        "min_face_px": args.min_face,
        "landmarks": str(args.landmarks) if args.landmarks else None,
        **asdict(settings),
        "certainty": asdict(settings.certainty) if args.detector in CERTAINTY else None,
    }
    prepare = partial(prepare_aligner, root, folder, settings, args.detector, args.min_face, args.model)
    # What is missing is reported before anything is removed. Otherwise the workers do, and load while this one would.
    aligner = prepare() if args.workers == 1 or args.overwrite else None
    begun = {"photos": str(args.photos.resolve()), **described}
    with folder.journal(begun, _present(args.output, crops), overwrite=args.overwrite) as journal:
        missing = [photo for photo in crops if photo not in journal.done]
        tasks = (PhotoTask(photo, crops[photo], known.get(photo)) for photo in missing)
        tool = prepare if args.workers > 1 else lambda: aligner
        done = process_map(_align, tasks, tool, workers=args.workers, at_once=8)
        for photo, record in progress(done, total=len(missing), unit="photo", label="align", quiet=args.quiet):
            journal.append(photo, record)
        draw = None if args.no_sheet else partial(draw_sheet, photos=root, crops=args.output, path=sheet)
        totals = folder.publish(journal, {**described, **TEMPLATE}, draw=draw)
    _report(args, totals, len(missing), len(crops) - len(missing), watch.seconds)


def _cut_chosen(args: argparse.Namespace, folder: CropFolder, watch: Stopwatch) -> None:
    """Cut the faces that a reviewer chose, out of the crops that are there."""
    choices = face_choices(read_review(args.choices))
    done = apply_choices(args.photos, folder, choices, args.choices, quiet=args.quiet)
    if args.json:
        counts = {"num_cut": done.num_cut, "num_before": done.num_before, "num_lost": len(done.lost)}
        print(json.dumps({"output": str(args.output), **counts, "seconds": round(watch.seconds, 3)}))
        return
    print(
        f"cut {count(done.num_cut, 'crop')} again, {done.num_before:,} as before, {len(done.lost):,} left as they were "
        f"in {duration(watch.seconds)}"
    )
    if done.lost:
        print(f"photos that have vanished or changed: {len(done.lost):,}, such as: {done.lost[0]}")


def _check_numbers(args: argparse.Namespace) -> None:
    if not 1 <= args.quality <= 100:
        raise DataError(f"--quality {args.quality}: expected 1 to 100; choose such a number")
    if args.size > MAX_SIZE:
        raise DataError(f"--size {args.size}: expected at most {MAX_SIZE} pixels; choose such a number")
    if args.min_face is not None and not 1 <= args.min_face < math.inf:
        raise DataError(f"--min-face {args.min_face}: expected at least 1 pixel; choose such a number")


def _photos(folder: Path) -> list[str]:
    """Return the paths of the photos below a folder; what is passed over is named in a line of the log."""
    if folder.is_file():
        return [folder.name]
    find_source(folder, ("identities", "photos"), suffixes=PHOTO_SUFFIXES)
    tree = ImageTree(folder, PHOTO_SUFFIXES, keeps_names=True)
    tree.log_passed_over()
    return tree.names()


def prepare_aligner(
    photos: Path,
    folder: CropFolder,
    settings: AlignSettings,
    detector: str,
    min_face_px: float | None,
    model: Path | None,
) -> PhotoAligner:
    """Load the detector, one thread for each process, and return what aligns a photo."""
    cv2.setNumThreads(1)
    built = build_detector(detector, min_face_px=min_face_px, model=model)
    if "torch" in sys.modules:  # a detector that does without it is spared its long import
        sys.modules["torch"].set_num_threads(1)
    return PhotoAligner(photos, folder.output, folder.staging, settings, built)


def _align(aligner: PhotoAligner, task: PhotoTask) -> tuple[str, dict[str, Any]]:
    return task.photo, aligner(task)


def _present(output: Path, crops: Mapping[str, str]) -> Iterator[str]:
    """Yield those crops of these photos that are there, further faces' among them."""
    for crop in crops.values():
        names = (crop_name(crop, number) for number in count_from())
        yield from takewhile(lambda name: (output / name).is_file(), names)


def _known_faces(path: Path | None, folder: CropFolder, *, overwrite: bool) -> dict[str, dict[str, Any]]:
    """Return photo -> its line in the align.jsonl of an earlier run."""
    if path is None:
        return {}
    if overwrite and path.resolve() == folder.records.resolve():
        raise DataError(f"{path}: --overwrite removes it; expected another file; copy it and give the copy")
    return {line["photo"]: line for line in read_records(path) if "crc32" in line}


def _report(args: argparse.Namespace, totals: Counter[str], num_new: int, num_before: int, seconds: float) -> None:
    if args.json:
        statuses = {f"num_{status}": totals[status] for status in STATUSES}
        counts = {"num_photos": num_new + num_before, "num_crops": totals["crops"], **statuses}
        print(json.dumps({"output": str(args.output), **counts, "seconds": round(seconds, 3)}))
        return
    rest = ", ".join(f"{totals[status]:,} {status.replace('_', ' ')}" for status in STATUSES[1:])
    before = f", {num_before:,} from before" if num_before else ""
    print(
        f"aligned {count(totals['crops'], 'face')} of {count(num_new + num_before, 'photo')}, {rest}{before} "
        f"in {duration(seconds)} ({rate(num_new, seconds)})"
    )
    if troubles := sum(totals[status] for status in STATUSES[1:]):
        print(f"what became of {troubles:,} without a face: {args.output / 'align.jsonl'}")
