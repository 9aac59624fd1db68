"""Detect the faces of photos and align them onto the ArcFace template.

    python data_tools/align_faces.py photos/ aligned/ --detector mtcnn

PHOTOS is a folder per identity, or flat; OUT gets the same folders with one crop a photo (or more: --faces all), and
align.jsonl with a line for every photo: its status, all faces found, the crops' names. A run that was killed continues
when it is started again. `--landmarks OLD/align.jsonl` takes the faces of an earlier run instead of detecting again.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

import cv2

from recognition.cli import make_parser, positive_int, run_command
from recognition.console import Stopwatch, count, duration, progress
from recognition.data.photos import list_photos
from recognition.detection.alignment import ARCFACE_TEMPLATE
from recognition.detection.choice import POLICIES
from recognition.detection.detectors import DETECTORS, build_detector
from recognition.detection.photo_aligner import STATUSES, AlignSettings, PhotoAligner, PhotoTask, faces_of_record
from recognition.errors import DataError
from recognition.files import written
from recognition.journal import Journal
from recognition.processes import process_map

RECORDS, SETTINGS, WORK = "align.jsonl", "align.json", ".align"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, align the photos, and return the exit status."""
    parser = make_parser("align_faces", __doc__)
    add = parser.add_argument
    add("photos", type=Path, metavar="PHOTOS", help="folder of photos, one subfolder per identity or flat")
    add("output", type=Path, metavar="OUT", help="folder for the aligned faces and align.jsonl")
    add("--detector", choices=DETECTORS, default="mtcnn", help="default: mtcnn")
    add("--model", type=Path, help="scrfd: the ONNX file; mtcnn, dlib: folder of their weights")
    add("--min-face", type=float, metavar="PX", help="least face the detector looks for (mtcnn 20, dlib 37)")
    add("--max-side", type=positive_int, default=1600, metavar="PX", help="detect in larger photos scaled to this")
    add("--faces", choices=POLICIES, default="largest", help="which faces of a photo to keep (default: largest)")
    add("--min-size", type=float, default=0.0, metavar="PX", help="refuse faces with a box side below this")
    add("--min-score", type=float, metavar="S", help="refuse faces below this score")
    add("--size", type=positive_int, default=112, metavar="PX", help="side of the crops (default: 112)")
    add("--quality", type=positive_int, default=95, metavar="Q", help="JPEG quality of the crops (default: 95)")
    add("--landmarks", type=Path, metavar="JSONL", help="align.jsonl of an earlier run: detect only what it lacks")
    add("--workers", type=positive_int, default=len(os.sched_getaffinity(0)), help="processes (default: one per core)")
    add("--overwrite", action="store_true", help="begin anew and replace what an earlier run left in OUT")
    add("--json", action="store_true", help="print the counts as one JSON object")
    return run_command(parser, _run, argv)


def _run(args: argparse.Namespace) -> None:
    watch = Stopwatch()
    if not 1 <= args.quality <= 100:
        raise DataError(f"--quality {args.quality}: expected 1 to 100; choose such a number")
    if args.photos.resolve() == args.output.resolve():
        raise DataError(f"{args.output}: holds the photos themselves; expected another folder; choose another OUT")
    photos = list_photos(args.photos)
    _make_room(args.output, overwrite=args.overwrite)
    settings = AlignSettings(args.size, args.faces, args.min_size, args.min_score, args.max_side, args.quality)
    described = {
        "detector": args.detector, "model": str(args.model) if args.model else None, "min_face_px": args.min_face,
        "landmarks": str(args.landmarks) if args.landmarks else None, **asdict(settings),
    }  # fmt: skip
    prepare = partial(
        prepare_aligner, args.photos, args.output, settings, args.detector, args.min_face, args.model
    )
    journal = Journal(args.output / WORK, {"photos": str(args.photos.resolve()), **described})
    num_before = len(journal.done)
    try:
        tasks = _tasks(photos, journal, _known_faces(args.landmarks))
        done = process_map(_align, tasks, prepare, workers=args.workers, at_once=8)
        for photo, record in progress(
            done, total=len(photos) - num_before, unit="photo", label="align", quiet=args.quiet
        ):
            journal.append(photo, record)
        totals = _publish(args.output, journal, described)
    except BaseException:
        journal.give_up()
        raise
    journal.remove()
    _report(args, totals, len(photos) - num_before, num_before, watch.seconds)


def crop_names(photos: Sequence[str]) -> dict[str, str]:
    """Return photo -> crop: the same name when it ends in .jpg or .jpeg, and with .jpg after it otherwise."""
    names = {p: p if os.path.splitext(p)[1].lower() in (".jpg", ".jpeg") else f"{p}.jpg" for p in photos}
    if len(set(names.values())) < len(names):
        twice = next(name for name, times in Counter(names.values()).items() if times > 1)
        raise DataError(f"{twice}: would be the crop of two photos; expected names that differ; rename one photo")
    return names


def prepare_aligner(
    photos: Path, output: Path, settings: AlignSettings, detector: str, min_face_px: float | None, model: Path | None
) -> PhotoAligner:
    """Load the detector, one thread for each process, and return what aligns a photo."""
    cv2.setNumThreads(1)
    built = build_detector(detector, min_face_px=min_face_px, model=model)
    if detector == "mtcnn":
        importlib.import_module("torch").set_num_threads(1)  # here, as the others do without its long import
    return PhotoAligner(photos, output, output / WORK / "staging", settings, built)


def _align(aligner: PhotoAligner, task: PhotoTask) -> tuple[str, dict[str, Any]]:
    return task.photo, aligner(task)


def _make_room(output: Path, *, overwrite: bool) -> None:
    """Refuse a finished output, or with `overwrite` remove what it lists; make the folders."""
    records = output / RECORDS
    if overwrite:
        if records.is_file():
            for line in _read_records(records):
                for face in line["faces"]:
                    if "crop" in face:
                        _below(output, face["crop"]).unlink(missing_ok=True)
            records.unlink()
        shutil.rmtree(output / WORK, ignore_errors=True)
    elif records.exists() and not (output / WORK).is_dir():
        raise DataError(f"{records}: exists already; expected a new OUT; pass --overwrite to begin anew")
    elif output.is_dir() and not (output / WORK).is_dir() and any(output.iterdir()):
        raise DataError(f"{output}: is not empty; expected a new folder, or one this command began; choose another")
    try:
        (output / WORK / "staging").mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise DataError(f"{output}: cannot be written ({err.strerror or err}); choose a writable folder") from err


def _below(folder: Path, name: str) -> Path:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(f"{folder / RECORDS}: {name!r} leaves the folder; expected a path below it; remove the line")
    return folder / name


def _tasks(photos: Sequence[str], journal: Journal, known: dict[str, dict[str, Any]]) -> Iterator[PhotoTask]:
    for photo, crop in crop_names(photos).items():
        if photo not in journal.done:
            yield PhotoTask(photo, crop, known.get(photo))


def _known_faces(path: Path | None) -> dict[str, dict[str, Any]]:
    """Return photo -> its line in the align.jsonl of an earlier run."""
    return {} if path is None else {line["photo"]: line for line in _read_records(path) if "crc32" in line}


def _read_records(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with open(path, encoding="utf-8") as handle:
            for number, line in enumerate(handle, 1):
                yield _parse_record(f"{path}:{number}", line)
    except (OSError, UnicodeDecodeError) as err:
        raise DataError(f"{path}: cannot be read ({err}); expected an align.jsonl; give another file") from err


def _parse_record(place: str, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
        faces_of_record(record)
        if not all(isinstance(record[key], str) for key in ("photo", "status")):
            raise TypeError("photo and status are not text")
        if not all(isinstance(face.get("crop", ""), str) for face in record["faces"]):
            raise TypeError("a crop is not text")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as err:
        raise DataError(
            f"{place}: {line.strip()[:80]!r}; expected a line of an align.jsonl; let align_faces.py write it"
        ) from err
    return record


def _publish(output: Path, journal: Journal, described: dict[str, Any]) -> Counter[str]:
    """Write align.json and align.jsonl from the journal, sorted by photo; return the counts."""
    totals: Counter[str] = Counter()
    template = {"template": ARCFACE_TEMPLATE.tolist(), "template_size": 112, "transform": "similarity"}
    work = output / WORK
    with written(output / SETTINGS, by_way_of=work / SETTINGS) as handle:
        handle.write(json.dumps({**described, **template}, indent=1) + "\n")
    with written(output / RECORDS, by_way_of=work / RECORDS) as handle:
        for record in journal.records():
            totals[record["status"]] += 1
            totals["crops"] += sum("crop" in face for face in record["faces"])
            handle.write(json.dumps({"photo": record.pop("key"), **record}) + "\n")
    return totals


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
        f"in {duration(seconds)} ({num_new / max(seconds, 1e-9):,.0f}/s)"
    )


if __name__ == "__main__":
    sys.exit(main())
