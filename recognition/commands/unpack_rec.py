"""Unpack a packed image set into a folder of identities, every image byte for byte.

    python data_tools/unpack_rec.py packed/train.rec faces/

Writes OUT/<class id>/<key>.jpg (or .png) and OUT/images.lst, from which pack_rec.py packs the same labels again. Class
ids are padded with zeros, so that they sort as numbers. --keys takes some records only. A run that was interrupted
continues with --resume.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recognition.cli import make_parser, run_command
from recognition.console import Stopwatch, count, duration, progress
from recognition.errors import DataError
from recognition.formats.image_streams import suffix_of
from recognition.formats.records import ImageRecord, ImageRecords
from recognition.formats.text_lines import read_lines
from recognition.work.files import staged, write_in_place

LIST_NAME = "images.lst"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, unpack the set, and return the exit status."""
    parser = make_parser("unpack_rec", __doc__)
    add = parser.add_argument
    add("rec", type=Path, metavar="REC", help="the .rec, its path without suffix, or a folder with train.rec")
    add("out", type=Path, metavar="OUT", help="folder to write; new or empty")
    add("--keys", metavar="LIST", help="keys to unpack: numbers and ranges such as 5,10-19, or @FILE with one per line")
    add("--resume", action="store_true", help="OUT is of a run that was interrupted: leave complete files in place")
    add("--overwrite", action="store_true", help="write into OUT although it holds files")
    add("--json", action="store_true", help="print the counts as one JSON object")
    return run_command(parser, unpack, argv)


def unpack(args: argparse.Namespace) -> None:
    """Run the command."""
    watch = Stopwatch()
    records = ImageRecords(args.rec)
    chosen: Sequence[int] = range(len(records))
    if args.keys is not None:
        chosen = _positions(records, parse_keys(args.keys, most=len(records.index)))
    if args.out.exists() and any(args.out.iterdir()) and not (args.resume or args.overwrite):
        raise DataError(f"{args.out}: is not empty; expected a new folder; pass --resume to continue or --overwrite")
    width = len(str(records.num_classes - 1))
    num_kept = 0
    identities = set()
    with staged(args.out / LIST_NAME) as (listing,), open(listing, "w", encoding="utf-8") as lines:
        images = (records.read(i) for i in chosen)
        for image in progress(images, total=len(chosen), unit="img", label="unpacking", quiet=args.quiet):
            name = f"{image.label:0{width}d}/{image.key}{suffix_of(image.image)}"
            num_kept += _write(args.out / name, image, reuse=args.resume)
            identities.add(image.label)
            lines.write(f"{image.key}\t{image.label}\t{name}\n")
    _report(args, len(chosen), len(identities), num_kept, watch.seconds)


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
    rate = num_images / max(seconds, 1e-9)
    sys.stdout.write(
        f"unpacked {count(num_images, 'image')}, {count(num_identities, 'identity')}, {num_kept:,} of them there "
        f"already, in {duration(seconds)} ({rate:,.0f}/s)\n"
    )
