"""Take the pictures out of a verification .bin, with the list of its pairs.

    python data_tools/unpack_bin.py lfw.bin lfw/

OUT gets pictures/ (each picture once, byte for byte as it was packed) and pairs.txt, lines `path TAB path TAB 0|1` that
pack_bin.py reads. Where a .json beside the .bin names the pictures they keep their names; otherwise they are numbered.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

from recognition.cli import make_parser, run_command
from recognition.console import Stopwatch, count, duration, progress
from recognition.errors import DataError
from recognition.formats.image_list import Folder
from recognition.formats.pairs_about import read_about
from recognition.formats.pairs_bin import read_pairs
from recognition.formats.text_lines import refuse_unlistable
from recognition.images.codec import IMAGE_SUFFIXES, image_size
from recognition.work.files import file_sha256, staged_folder

PICTURES, PAIRS = "pictures", "pairs.txt"
_PNG = b"\x89PNG"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, write the pictures, and return the exit status."""
    parser = make_parser("unpack_bin", __doc__)
    parser.add_argument("pack", type=Path, metavar="IN.bin")
    parser.add_argument("output", type=Path, metavar="OUT", help="folder to make")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT")
    parser.add_argument("--json", action="store_true", help="print the counts as one JSON object")
    return run_command(parser, _run, argv)


def _run(args: argparse.Namespace) -> None:
    watch = Stopwatch()
    pairs = read_pairs(args.pack)
    about = read_about(args.pack, sha256=file_sha256(args.pack), num_pairs=len(pairs))
    with staged_folder(args.output, replace=args.overwrite) as folder:
        names = _names(args.pack, pairs.images, about.names, folder / PICTURES)
        distinct = dict(zip(names, pairs.images))
        for name in progress(distinct, total=len(distinct), unit="img", label="write", quiet=args.quiet):
            path = folder / PICTURES / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(distinct[name])
        lines = (
            f"{names[2 * i]}\t{names[2 * i + 1]}\t{int(is_same)}\n" for i, is_same in enumerate(pairs.is_same.tolist())
        )
        (folder / PAIRS).write_bytes("".join(lines).encode("utf-8", "surrogateescape"))
    if args.json:
        counts = {"num_pairs": len(pairs), "num_pictures": len(distinct), "seconds": round(watch.seconds, 3)}
        print(json.dumps({"output": str(args.output), **counts}))
        return
    print(f"took {count(len(distinct), 'image')} of {count(len(pairs), 'pair')} out in {duration(watch.seconds)}")


def _names(pack: Path, images: Sequence[bytes], known: Sequence[str] | None, folder: Path) -> list[str]:
    """Return the path of each of the 2n images below the folder of pictures, with the suffix that its bytes have."""
    inside, named, numbers = Folder(folder), dict[str, bytes](), dict[bytes, int]()
    found = []
    for i, image in enumerate(images):
        image_size(image, place=f"{pack}: image {i}")
        suffix = ".png" if image.startswith(_PNG) else ".jpg"
        number = numbers.setdefault(image, len(numbers))
        name = f"{number:06d}{suffix}" if known is None else known[i]
        if os.path.splitext(name)[1].lower() not in IMAGE_SUFFIXES:
            name += suffix
        refuse_unlistable(name)
        if inside.path(name) is None or named.setdefault(name, image) != image:
            raise DataError(
                f"{pack}: the name {name!r} of image {i} leads out of the folder or is that of two pictures; expected "
                "paths that differ; remove the .json beside it"
            )
        found.append(name)
    return found
