"""Pack a folder of identities, or the images of a .lst, into PREFIX.rec, .idx, .lst, .names and a property file.

    python data_tools/pack_rec.py faces/ packed/train

FOLDER holds one folder of images per person, in which more folders may lie; people are numbered in the order of their
sorted names, which PREFIX.names keeps. A .lst has lines `index TAB label TAB path` or `1 TAB path TAB label`; the names
of its people are in the .names beside it, if there is one. Images are decoded to prove them, and stored byte for byte
as they are unless --size or --quality asks for more; the files come out the same for any number of workers. The default
layout is the one arcface_torch's MXFaceDataset reads. When PREFIX is a folder (or ends in a slash), the set is named
train.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import random
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2

from recognition.cli import make_parser, non_negative_int, positive_int, run_command
from recognition.console import Stopwatch, count, duration, progress, rate
from recognition.errors import DataError
from recognition.formats.class_names import NameNotes, write_class_names
from recognition.formats.class_use import class_warning
from recognition.formats.image_list import FolderList, ImageList, ListedImage, LstFile
from recognition.formats.layouts import LAYOUTS
from recognition.formats.set_writer import ImageSetWriter, output_paths, property_text, staged_image_set
from recognition.formats.sources import find_source
from recognition.images.codec import decode_rgb, encode_jpeg, read_image_file
from recognition.work.system import usable_cores
from recognition.work.threads import ordered_map

logger = logging.getLogger("pack_rec")

DEFAULT_QUALITY = 95
MAX_NAMED = 20  # bad images that get a line each; the rest are counted


@dataclass(frozen=True)
class Prepared:
    """An image ready to be stored, or what is wrong with it."""

    listed: ListedImage
    image: bytes = b""
    size: tuple[int, int] = (0, 0)  # height, width
    problem: str | None = None


@dataclass
class Outcome:
    """What became of the images."""

    num_identities: int = 0
    num_classes: int = 0
    num_images: int = 0
    size: tuple[int, int] = (0, 0)
    problems: list[str] = field(default_factory=list)  # the first MAX_NAMED
    num_bad: int = 0


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, pack the set, and return the exit status."""
    parser = make_parser("pack_rec", __doc__)
    add = parser.add_argument
    add("source", type=Path, metavar="FOLDER_OR_LST", help="folder of identity folders, or a .lst")
    add("prefix", metavar="PREFIX", help="output path without suffix, or a folder")
    add("--root", type=Path, help="where the paths of a .lst start (default: the folder of the .lst)")
    add(
        "--layout",
        choices=[name for name in LAYOUTS if not LAYOUTS[name].keeps_lists],
        default="insightface",
        help="insightface: sorted by identity, with identity records; sequential: keys 0..N-1, images only",
    )
    add("--size", type=positive_int, metavar="PX", help="resize square images of another size to PX x PX")
    add(
        "--quality",
        type=positive_int,
        metavar="Q",
        help=f"re-encode every image as JPEG of quality Q (default: resized ones only, {DEFAULT_QUALITY})",
    )
    add("--shuffle", action="store_true", help="random order (sequential layout only; holds the list in memory)")
    add("--seed", type=non_negative_int, default=0, help="seed of --shuffle (default: 0)")
    add("--digests", action="store_true", help="write PREFIX.crc, a checksum of every record, which check_rec compares")
    add("--skip-bad", action="store_true", help="leave bad images and folders without an image out, and say how many")
    add("--workers", type=positive_int, default=usable_cores(), help="threads (default: one per core)")
    add("--overwrite", action="store_true", help="replace existing output files")
    add("--json", action="store_true", help="print the counts as one JSON object")
    return run_command(parser, pack, argv)


def pack(args: argparse.Namespace) -> None:
    """Run the command."""
    watch = Stopwatch()
    _check_flags(args)
    outputs = output_paths(args.prefix)
    _refuse_second_set(outputs)
    with staged_image_set(outputs, overwrite=args.overwrite, with_names=True, with_digests=args.digests) as files:
        images = open_source(args.source, args.root, layout=args.layout, skip_bad=args.skip_bad)
        outcome = _write_set(args, images, files.paths)
        if outcome.num_bad and not args.skip_bad:
            raise DataError(
                f"{outcome.problems[0]}; {count(outcome.num_bad, 'bad image')} in all of {len(images):,}; "
                "repair them, or pass --skip-bad to leave them out"
            )
        if not outcome.num_images:
            raise DataError(f"{args.source}: none of its {count(len(images), 'image')} is good; nothing to pack")
    warning = class_warning(outcome.num_classes, outcome.num_identities, source=str(outputs[0]))
    if warning is not None:
        logger.warning("%s", warning)
    _report(args, outcome, watch.seconds)


def open_source(source: Path, root: Path | None, *, layout: str, skip_bad: bool) -> ImageList:
    """Return the images of a folder or a .lst in the order in which `layout` stores them."""
    if find_source(source, ("identities", "list")).kind == "identities":
        return FolderList(source, allow_empty=skip_bad)
    try:
        return LstFile(source, root or source.parent, by_label=LAYOUTS[layout].is_sorted)
    except OSError as err:
        raise DataError(f"{err.filename}: cannot be read ({err.strerror}); check its permissions") from err


def prepare(listed: ListedImage, *, size: int | None, quality: int | None) -> Prepared:
    """Read and decode one image; its bytes are kept unless it has to be resized or `quality` is given."""
    try:
        content = read_image_file(listed.path)
        rgb = decode_rgb(content, place=listed.place)
    except DataError as err:
        return Prepared(listed, problem=str(err))
    height, width = rgb.shape[:2]
    if size is not None and (height, width) != (size, size):
        if height != width:
            return Prepared(listed, problem=f"{listed.place}: {width} x {height} pixels; --size needs square images")
        rgb = cv2.resize(rgb, (size, size), interpolation=cv2.INTER_AREA if height > size else cv2.INTER_LINEAR)
    elif quality is None:
        return Prepared(listed, content, (height, width))
    return Prepared(listed, encode_jpeg(rgb, quality or DEFAULT_QUALITY), (rgb.shape[0], rgb.shape[1]))


def _refuse_second_set(outputs: tuple[Path, Path, Path, Path]) -> None:
    """A folder has one `property`, the format's own limit: a second set would take the first one's classes over."""
    rec, *_, sizes = outputs
    others = sorted(path.name for path in rec.parent.glob("*.rec"))
    if sizes.exists() and others and not rec.exists():
        raise DataError(f"{sizes}: belongs to {others[0]}; expected one set per folder; choose a folder of its own")


def _check_flags(args: argparse.Namespace) -> None:
    if args.shuffle and LAYOUTS[args.layout].is_sorted:
        raise DataError(f"--shuffle: the {args.layout} layout is sorted; expected the other; add --layout sequential")
    if args.quality is not None and args.quality > 100:
        raise DataError(f"--quality {args.quality}: expected 1 to 100; choose one of them")
    if args.root is not None and args.source.is_dir():
        raise DataError("--root: is for a .lst; a folder is its own root")


def _write_set(args: argparse.Namespace, images: ImageList, targets: Sequence[Path]) -> Outcome:
    """Write the files to `targets` and say what became of the images; stops at nothing but a mixed size."""
    rec, idx, lst, prop, names, *digests = targets
    outcome, notes = Outcome(), NameNotes(images.path if isinstance(images, LstFile) else None)
    with contextlib.ExitStack() as files:
        rec_file = files.enter_context(open(rec, "wb", buffering=2**20))
        idx_file, lst_file, *crc_files = (files.enter_context(open(path, "wb")) for path in (idx, lst, *digests))
        digest_file = crc_files[0] if crc_files else None
        writer = ImageSetWriter(rec_file, idx_file, lst_file, layout=args.layout, digests=digest_file)
        order: Iterable[ListedImage] = _shuffled(images, args.seed) if args.shuffle else images
        results = ordered_map(partial(prepare, size=args.size, quality=args.quality), order, workers=args.workers)
        relabel = _Relabel(isinstance(images, FolderList) and not args.shuffle)
        for result in progress(results, total=len(images), unit="img", label="packing", quiet=args.quiet):
            if result.problem is not None:
                _note_problem(outcome, result.problem, is_fatal=not args.skip_bad)
                continue
            _check_size(outcome, result)
            label = relabel(result.listed.label)
            writer.add(label, result.image, result.listed.name)
            notes.add(label, result.listed.name)
        writer.finish()
    outcome.num_images, outcome.num_identities = writer.num_images, writer.num_identities
    outcome.num_classes = writer.num_classes
    prop.write_text(property_text(writer.num_classes, *outcome.size), encoding="ascii")
    write_class_names(names, notes.names)  # none where a list's folders are not its people
    return outcome


class _Relabel:
    """Number identities in the order in which they come, so that one whose images are all bad leaves no gap."""

    def __init__(self, is_on: bool) -> None:
        self._numbers: dict[int, int] | None = {} if is_on else None

    def __call__(self, label: int) -> int:
        return label if self._numbers is None else self._numbers.setdefault(label, len(self._numbers))


def _shuffled(images: ImageList, seed: int) -> list[ListedImage]:
    order = list(images)
    random.Random(seed).shuffle(order)
    return order


def _note_problem(outcome: Outcome, problem: str, *, is_fatal: bool) -> None:
    outcome.num_bad += 1
    if len(outcome.problems) < MAX_NAMED:
        outcome.problems.append(problem)
        if not is_fatal or outcome.num_bad > 1:  # the first will be in the error
            logger.warning("%s", problem)
    elif outcome.num_bad == MAX_NAMED + 1:
        logger.warning("further bad images are counted, not named")


def _check_size(outcome: Outcome, result: Prepared) -> None:
    if not any(outcome.size):
        outcome.size = result.size
    if result.size != outcome.size:
        (height, width), (rows, columns) = result.size, outcome.size
        raise DataError(
            f"{result.listed.place}: {width} x {height} pixels, but the images before it are {columns} x {rows}; "
            "a set has one size; pass --size to resize"
        )


def _report(args: argparse.Namespace, outcome: Outcome, seconds: float) -> None:
    if args.json:
        counts = {
            "num_images": outcome.num_images,
            "num_identities": outcome.num_identities,
            "num_classes": outcome.num_classes,
            "num_skipped": outcome.num_bad,
            "seconds": round(seconds, 3),
        }
        sys.stdout.write(json.dumps(counts) + "\n")
        return
    sys.stdout.write(
        f"packed {count(outcome.num_images, 'image')}, {count(outcome.num_identities, 'identity')}, "
        f"{outcome.num_bad:,} skipped in {duration(seconds)} ({rate(outcome.num_images + outcome.num_bad, seconds)})\n"
    )
