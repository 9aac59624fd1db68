"""Convert an image set between the layouts of a .rec, WebDataset shards and folders; images keep their bytes.

    python data_tools/convert_rec.py packed/train.rec wds/ --to webdataset
    python data_tools/convert_rec.py wds/ packed/train --to insightface
    python data_tools/convert_rec.py sparse/ dense/train --to insightface --renumber

SOURCE is a packed set in any layout, a folder of identity folders, or a folder of .tar shards. TARGET is the prefix of
a packed set, or a new folder. insightface needs rising labels: a packed set is sorted for it (8 bytes per image); the
other sources must have them. Folders are numbered in the order of their names. --renumber closes the gaps between class
ids: each becomes its place among those that have an image, and the .lst keeps the old one of a packed set in its paths.
A folder or shards end with a manifest.json; until it is there, every command calls the folder unfinished.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import logging
import os
import sys
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from recognition.cli import make_parser, positive_int, run_command
from recognition.console import Stopwatch, count, duration, progress, rate
from recognition.errors import DataError
from recognition.formats.class_use import class_warning
from recognition.formats.image_streams import (
    ImageStream,
    RecStream,
    RenumberedStream,
    StreamedImage,
    open_stream,
    suffix_of,
)
from recognition.formats.layouts import LAYOUTS
from recognition.formats.set_folder import MANIFEST, made_anew, write_manifest
from recognition.formats.set_writer import ImageSetWriter, output_paths, property_text, staged_image_set
from recognition.images.codec import image_size
from recognition.work.files import sync_file, write_in_place, writing
from recognition.work.work_folder import CONVERTING, WorkFolder

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, convert the set, and return the exit status."""
    parser = make_parser("convert_rec", __doc__)
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help="packed set, folder of identity folders, or folder of .tar shards")
    add("target", metavar="TARGET", help="output path without suffix, or a folder")
    add("--to", choices=(*LAYOUTS, "webdataset", "folder"), required=True)
    add("--renumber", action="store_true", help="class ids 0, 1, 2, ... without gaps, in the order of the old ones")
    add("--shard-images", type=positive_int, default=10_000, help="images per .tar shard (default: 10000)")
    add("--overwrite", action="store_true", help="replace existing output files")
    add("--json", action="store_true", help="print the counts as one JSON object")
    return run_command(parser, convert, argv)


def convert(args: argparse.Namespace) -> None:
    """Run the command."""
    watch = Stopwatch()
    stream = open_stream(args.source)
    if args.to in LAYOUTS and LAYOUTS[args.to].is_sorted and isinstance(stream, RecStream):
        stream = stream.sorted_by_label()
    if args.renumber:
        stream = RenumberedStream(stream)
    images = progress(stream, total=len(stream), unit="img", label="converting", quiet=args.quiet)
    if args.to in LAYOUTS:
        num_identities = write_set(images, output_paths(args.target), args.to, overwrite=args.overwrite)
    elif args.to == "webdataset":
        num_identities = write_shards(images, Path(args.target), args.shard_images, overwrite=args.overwrite)
    else:
        num_identities = write_folder(images, Path(args.target), stream, overwrite=args.overwrite)
    if args.json:
        counts = {"num_images": len(stream), "num_identities": num_identities, "seconds": round(watch.seconds, 3)}
        sys.stdout.write(json.dumps(counts) + "\n")
        return
    sys.stdout.write(
        f"converted {count(len(stream), 'image')}, {count(num_identities, 'identity')} to {args.to} in "
        f"{duration(watch.seconds)} ({rate(len(stream), watch.seconds)})\n"
    )


def write_set(
    images: Iterable[StreamedImage], targets: tuple[Path, Path, Path, Path], layout: str, *, overwrite: bool
) -> int:
    """Write a packed set and return its number of identities."""
    size: tuple[int, int] | None = None
    with staged_image_set(targets, overwrite=overwrite) as files:
        rec, idx, lst, prop = files.paths
        with open(rec, "wb", buffering=2**20) as rec_file, open(idx, "wb") as idx_file, open(lst, "wb") as lst_file:
            writer = ImageSetWriter(rec_file, idx_file, lst_file, layout=layout)
            for image in images:
                size = size or image_size(image.image, place=image.place)
                writer.add(image.label, image.image, image.name, image.extra)
            writer.finish()
        if size is None:
            raise DataError(f"{targets[0]}: there is no image to write; expected at least one in the source")
        prop.write_text(property_text(writer.num_classes, *size), encoding="ascii")
    warning = class_warning(writer.num_classes, writer.num_identities, source=str(targets[0]))
    if warning is not None:
        logger.warning("%s", warning)
    return writer.num_identities


def write_shards(images: Iterable[StreamedImage], folder: Path, per_shard: int, *, overwrite: bool) -> int:
    """Write shard-000000.tar, ... with `<number>.jpg` and `<number>.cls`, and return the number of identities."""
    work = _work(folder)
    labels = set()
    shards: dict[str, int] = {}
    with made_anew(work, {"to": "webdataset"}, overwrite=overwrite):
        remaining = iter(images)
        while block := [*itertools.islice(remaining, per_shard)]:
            labels |= {image.label for image in block}
            name = f"shard-{len(shards):06d}.tar"
            shards[name] = _write_shard(work.path / name, folder / name, block, len(shards) * per_shard)
        write_manifest(work, identities=len(labels), shards=shards)
    return len(labels)


def write_folder(images: Iterable[StreamedImage], folder: Path, stream: ImageStream, *, overwrite: bool) -> int:
    """Write `<class id>/<number>.jpg`, ids padded so that they sort as numbers; return the number of identities."""
    work = _work(folder)
    width = len(str(stream.records.num_classes - 1)) if isinstance(stream, RecStream) else 8
    labels = set()
    number = -1
    with made_anew(work, {"to": "folder"}, overwrite=overwrite):
        for number, image in enumerate(images):
            labels.add(image.label)
            path = folder / f"{image.label:0{width}d}" / f"{number:09d}{suffix_of(image.image)}"
            write_in_place(path, image.image)
        write_manifest(work, identities=len(labels), images=number + 1)
    return len(labels)


def _work(folder: Path) -> WorkFolder:
    return WorkFolder(folder, CONVERTING, (MANIFEST,), "a converted set")


def _write_shard(temporary: Path, path: Path, images: Sequence[StreamedImage], first: int) -> int:
    """Write one shard by way of a file in the work folder and return its size."""
    with writing(path):
        with open(temporary, "wb") as handle:
            write_tar(handle, images, first)
        sync_file(temporary)
        os.replace(temporary, path)
    return path.stat().st_size


def write_tar(handle: BinaryIO, images: Sequence[StreamedImage], first: int) -> None:
    """Write one shard, the same bytes whoever writes it and when."""
    with tarfile.open(fileobj=handle, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, image in enumerate(images, first):
            for name, content in (
                (f"{number:09d}{suffix_of(image.image)}", image.image),
                (f"{number:09d}.cls", str(image.label).encode()),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
