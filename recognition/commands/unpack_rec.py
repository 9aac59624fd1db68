"""Unpack a packed image set into a folder of identities, every image byte for byte.

    python data_tools/unpack_rec.py packed/train.rec faces/

Writes OUT/<class id>/<key>.jpg (or .png) and then OUT/images.lst, from which pack_rec.py packs the same labels again.
The names of the people, where the set has them, are in OUT/images.names: line 1 is that of class id 0.
Class ids are padded with zeros, so that they sort as numbers. --keys takes some records only. The same command again
continues a run that was interrupted; until it has ended, every command calls OUT unfinished.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recognition.cli import make_parser, run_command
from recognition.console import Stopwatch, count, duration, progress, rate
from recognition.errors import DataError
from recognition.formats.class_names import names_path, read_class_names, write_class_names
from recognition.formats.image_streams import suffix_of
from recognition.formats.records import ImageRecord, ImageRecords
from recognition.formats.set_folder import begin_folder, num_pictures, remove_set
from recognition.formats.text_lines import read_lines
from recognition.work.files import write_in_place
from recognition.work.work_folder import UNPACKING, WorkFolder

LIST_NAME, NAMES_NAME = "images.lst", "images.names"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, unpack the set, and return the exit status."""
    parser = make_parser("unpack_rec", __doc__)
    add = parser.add_argument
    add("rec", type=Path, metavar="REC", help="the .rec, its path without suffix, or a folder with train.rec")
    add("out", type=Path, metavar="OUT", help="folder to write; new, empty, or of a run that was interrupted")
    add("--keys", metavar="LIST", help="keys to unpack: numbers and ranges such as 5,10-19, or @FILE with one per line")
    add("--resume", action="store_true", help="OUT is there: write what is missing in it or damaged")
    add("--overwrite", action="store_true", help="replace the set in OUT")
    add("--json", action="store_true", help="print the counts as one JSON object")
    return run_command(parser, unpack, argv)


def unpack(args: argparse.Namespace) -> None:
    """Run the command."""
    watch = Stopwatch()
    records = ImageRecords(args.rec)
    chosen: Sequence[int] = range(len(records))
    if args.keys is not None:
        chosen = _positions(records, parse_keys(args.keys, most=len(records.index)))
    num_kept, identities = _unpack_images(args, records, chosen)
    _report(args, len(chosen), identities, num_kept, watch.seconds)


def _unpack_images(args: argparse.Namespace, records: ImageRecords, chosen: Sequence[int]) -> tuple[int, int]:
    """Write the images and then their list; return how many were there already, and the number of identities."""
    work = WorkFolder(args.out, UNPACKING, (NAMES_NAME, LIST_NAME), "an unpacked set")
    if not args.resume:
        begin_folder(work, overwrite=args.overwrite)
    if args.overwrite:
        work.clear(lambda: remove_set(args.out))
    width = len(str(records.num_classes - 1))
    num_kept = 0
    identities = set()
    with work.hold():
        is_continued = args.resume or work.is_under_way
        work.begin(_settings(records, chosen))
        try:
            named = _copy_names(records.path, work.path)  # first: what is wrong with them shows before the long work
            with open(work.path / LIST_NAME, "w", encoding="utf-8") as lines:
                images = (records.read(i) for i in chosen)
                for image in progress(images, total=len(chosen), unit="img", label="unpacking", quiet=args.quiet):
                    name = f"{image.label:0{width}d}/{image.key}{suffix_of(image.image)}"
                    num_kept += _write(args.out / name, image, reuse=is_continued)
                    identities.add(image.label)
                    lines.write(f"{image.key}\t{image.label}\t{name}\n")
            found = num_pictures(args.out)
            if found != len(set(chosen)):
                problem = f"holds {found:,} pictures, but the set has {len(set(chosen)):,}"
                raise DataError(f"{args.out}: {problem}; expected these alone; pass --overwrite to begin anew")
            work.publish([*named, LIST_NAME])
        except DataError:
            if {entry.name for entry in os.scandir(args.out)} == {UNPACKING}:
                work.give_up()
            raise
    return num_kept, len(identities)


def _copy_names(rec: Path, folder: Path) -> list[str]:
    """Write the names of the set's people into `folder`; return the names of the files written, one or none."""
    source = names_path(rec)
    if not source.is_file():
        return []
    names = dict(enumerate(read_class_names(source)))
    return [NAMES_NAME] if write_class_names(folder / NAMES_NAME, names) else []


def _settings(records: ImageRecords, chosen: Sequence[int]) -> dict[str, Any]:
    """Return what has to be the same for a run to continue another."""
    status = records.path.stat()
    keys = hashlib.sha256(np.asarray(chosen, dtype=np.int64).tobytes()).hexdigest()
    return {"rec": str(records.path.resolve()), "bytes": status.st_size, "changed": status.st_mtime_ns, "keys": keys}


def parse_keys(text: str, *, most: int) -> list[int]:
    """Return the keys named by `5,10-19` or by the file after an @, one number or range per line; `most` at most."""
    place, items = "--keys", text.split(",")
    if text.startswith("@"):
        place = text[1:]
        items = " ".join(read_lines(Path(place), "one key or range a line")).split()
    keys: list[int] = []
    for item in items:
        span = _span(item.strip(), place)
        if len(keys) + len(span) > most:
            raise DataError(f"{place}: {item!r} makes over {most:,} keys; expected no more than the set has records")
        keys += span
    return keys


def _span(item: str, place: str) -> range:
    first, dash, last = item.partition("-")
    ends = (first, last) if dash else (first, first)
    if not all(end.isascii() and end.isdigit() and len(end) < 19 for end in ends):
        raise DataError(f"{place}: {item[:60]!r}; expected a key such as 5 or a range such as 10-19; correct it")
    return range(int(ends[0]), int(ends[1]) + 1)


def _positions(records: ImageRecords, keys: list[int]) -> list[int]:
    """Return which images have the `keys`, in the order of `keys`."""
    known = records.index.keys[np.asarray(records.parts.images)]
    order = np.argsort(known, kind="stable")
    places = np.searchsorted(known, keys, sorter=order)
    found = order[np.minimum(places, len(known) - 1)]
    missing = np.flatnonzero(known[found] != np.asarray(keys))
    if len(missing):
        raise DataError(
            f"{records.path}: key {keys[missing[0]]} is not an image; {len(missing)} of the {len(keys)} requested keys "
            f"are not there; images have keys from {known[order[0]]} to {known[order[-1]]}"
        )
    return [int(at) for at in found]


def _write(path: Path, image: ImageRecord, *, reuse: bool) -> bool:
    """Write one image; returns whether it was there already, whole."""
    if reuse and path.exists() and path.stat().st_size == len(image.image) and path.read_bytes() == image.image:
        return True
    write_in_place(path, image.image)
    return False


def _report(args: argparse.Namespace, num_images: int, num_identities: int, num_kept: int, seconds: float) -> None:
    if args.json:
        counts = {"num_images": num_images, "num_identities": num_identities, "num_kept": num_kept}
        sys.stdout.write(json.dumps({**counts, "seconds": round(seconds, 3)}) + "\n")
        return
    sys.stdout.write(
        f"unpacked {count(num_images, 'image')}, {count(num_identities, 'identity')}, {num_kept:,} of them there "
        f"already, in {duration(seconds)} ({rate(num_images, seconds)})\n"
    )
