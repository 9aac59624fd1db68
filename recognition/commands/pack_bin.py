"""Pack verification pairs and their images into a .bin, as arcface_torch and insightface read it.

    python data_tools/pack_bin.py pairs.txt faces/ lfw.bin

PAIRS is LFW's pairs.txt (a line `folds pairs`, then `name i j` and `name1 i name2 j`: IMAGES/name/name_0001.jpg), lines
`path path 0|1` with paths below IMAGES, or the list of CALFW, CPLFW, CFP (the folder Protocol/Split/FF or FP), AgeDB
(.mat), RFW, BFW or Kaggle's LFW as it is published; its content tells which. Images are stored byte for byte unless
--size gives another size. OUT.json, beside it, says whom the pictures show and how they were aligned.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2

from recognition.cli import make_parser, positive_int, run_command
from recognition.console import Stopwatch, count, duration, progress
from recognition.errors import DataError
from recognition.formats.pair_layouts import PAIR_LAYOUTS, odd_pairs, read_published
from recognition.formats.pair_list import PicturePair, parse_folds
from recognition.formats.pair_pictures import about_pairs, find_pictures
from recognition.formats.pairs_about import about_path, is_about, render_about
from recognition.formats.pairs_bin import dump_pairs
from recognition.images.codec import decode_rgb, encode_jpeg, read_image_file
from recognition.work.files import file_sha256, refuse_existing, staged

logger = logging.getLogger(__name__)

RESIZED_QUALITY = 95


@dataclass(frozen=True)
class PackedPairs:
    """What went into the .bin."""

    num_pairs: int
    num_same: int
    num_pictures: int


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, pack the pairs, and return the exit status."""
    parser = make_parser("pack_bin", __doc__)
    parser.add_argument("pairs", type=Path, metavar="PAIRS", help="a list in a published layout")
    parser.add_argument("images", type=Path, metavar="IMAGES", help="folder the pairs' paths start from")
    parser.add_argument("output", type=Path, metavar="OUT.bin")
    parser.add_argument("--folds", metavar="K|A-B", help="only these folds of a list that has them, counted from 1")
    parser.add_argument("--layout", choices=["lfw", *PAIR_LAYOUTS], help="of PAIRS, where its content does not tell it")
    parser.add_argument("--size", type=positive_int, metavar="PX", help="resize square images to PX x PX")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT.bin")
    parser.add_argument("--json", action="store_true", help="print the counts as one JSON object")
    return run_command(parser, _run, argv)


def pack_bin(
    pairs: Sequence[PicturePair], images: Path, output: Path, *, size: int | None = None, quiet: bool = True
) -> PackedPairs:
    """Write the pairs' images below `images` to `output`, each decoded once to check it, and beside it the .json.

    Raises DataError when images are missing, naming the first, or when one does not decode.
    """
    paths = find_pictures(pairs, images)
    encoded: dict[Path, bytes] = {}
    for path in progress(dict.fromkeys(paths), total=len(set(paths)), unit="img", label="read", quiet=quiet):
        encoded[path] = _read_picture(path, size)
    # The .json goes first: alone it is nobody's, while a .bin beside the .json of another one is refused.
    with staged(about_path(output), output) as (about, pack):
        dump_pairs(pack, [encoded[path] for path in paths], [pair.is_same for pair in pairs])
        about.write_text(render_about(about_pairs(pairs, images), sha256=file_sha256(pack)), encoding="utf-8")
    return PackedPairs(len(pairs), sum(pair.is_same for pair in pairs), len(encoded))


def _run(args: argparse.Namespace) -> None:
    watch = Stopwatch()
    if args.output.suffix == ".json":
        raise DataError(f"{args.output}: is the name of what is written beside it; expected a .bin; choose another OUT")
    about = about_path(args.output)
    # A .json of ours without its .bin is what a killed run has left.
    others = [] if about.exists() and is_about(about) else [about]
    refuse_existing(args.output, *others, overwrite=args.overwrite)
    folds = parse_folds(args.folds) if args.folds else None
    pairs = read_published(args.pairs, layout=args.layout, folds=folds)
    odd = odd_pairs(pairs)
    if warning := odd.warning(str(args.pairs)):
        logger.warning("%s", warning)
    packed = pack_bin(pairs, args.images, args.output, size=args.size, quiet=args.quiet)
    if args.json:
        print(json.dumps({"output": str(args.output), **vars(packed), **vars(odd), "seconds": round(watch.seconds, 3)}))
        return
    print(
        f"packed {count(packed.num_pairs, 'pair')}, {packed.num_same:,} of them same, "
        f"{count(packed.num_pictures, 'image')} in {duration(watch.seconds)}"
    )


def _read_picture(path: Path, size: int | None) -> bytes:
    encoded = read_image_file(path)
    rgb = decode_rgb(encoded, place=str(path))
    height, width = rgb.shape[:2]
    if height != width and size is not None:
        raise DataError(f"{path}: is {width} x {height} pixels; expected a square image for --size; align it first")
    if size is None or height == size:
        return encoded
    return encode_jpeg(cv2.resize(rgb, (size, size), interpolation=cv2.INTER_AREA), RESIZED_QUALITY)
