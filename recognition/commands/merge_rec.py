"""Merge packed image sets into one; images keep their bytes.

    python data_tools/merge_rec.py a/train.rec b/train.rec merged/train

The identities of each set are numbered after those of the sets before it. --same-identities keeps the class ids as
they are, for sets that were numbered together. --map FILE gives each person a class id: lines `set TAB class id TAB new
class id`, the set counted from 0 in the order of the command line; a person in two sets has the same new id in both.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from recognition.cli import make_parser, run_command
from recognition.commands.convert_rec import write_set
from recognition.console import Stopwatch, count, duration, progress, rate
from recognition.feed.identity_map import IdentityMap, offset_identities, read_identity_map, same_identities
from recognition.formats.image_streams import RecStream, StreamedImage
from recognition.formats.layouts import LAYOUTS
from recognition.formats.records import ImageRecords
from recognition.formats.set_writer import output_paths


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, merge the sets, and return the exit status."""
    parser = make_parser("merge_rec", __doc__)
    add = parser.add_argument
    add("recs", type=Path, nargs="+", metavar="REC", help="packed sets: .rec, path without suffix, or folder")
    add("prefix", metavar="PREFIX", help="output path without suffix, or a folder")
    identities = parser.add_mutually_exclusive_group()
    identities.add_argument("--same-identities", action="store_true", help="a class id means the same in every set")
    identities.add_argument("--map", type=Path, metavar="FILE", help="lines `set TAB class id TAB new class id`")
    add("--layout", choices=tuple(LAYOUTS), help="default: insightface, or sequential where labels would not rise")
    add("--overwrite", action="store_true", help="replace existing output files")
    add("--json", action="store_true", help="print the counts as one JSON object")
    return run_command(parser, merge, argv)


def merge(args: argparse.Namespace) -> None:
    """Run the command."""
    watch = Stopwatch()
    sets = [ImageRecords(path) for path in args.recs]
    identities = _identities(args, sets)
    rising = not (args.same_identities or args.map)
    layout = args.layout or ("insightface" if rising else "sequential")
    streams = [RecStream(records) for records in sets]
    if LAYOUTS[layout].is_sorted and rising:
        streams = [stream.sorted_by_label() for stream in streams]
    total = sum(map(len, sets))
    images = progress(relabeled(streams, identities), total=total, unit="img", label="merging", quiet=args.quiet)
    num_identities = write_set(images, output_paths(args.prefix), layout, overwrite=args.overwrite)
    if args.json:
        counts = {"num_sets": len(sets), "num_images": total, "num_identities": num_identities}
        sys.stdout.write(json.dumps({**counts, "seconds": round(watch.seconds, 3)}) + "\n")
        return
    sys.stdout.write(
        f"merged {count(len(sets), 'set')}: {count(total, 'image')}, {count(num_identities, 'identity')} in "
        f"{duration(watch.seconds)} ({rate(total, watch.seconds)})\n"
    )


def relabeled(streams: Sequence[RecStream], identities: IdentityMap) -> Iterator[StreamedImage]:
    """Yield the images of all sets with the class ids of the merged one; names begin with the number of their set."""
    for number, stream in enumerate(streams):
        for image in stream:
            label = identities(number, image.label, image.place)
            yield image._replace(label=label, name=f"{number}/{image.name}")


def _identities(args: argparse.Namespace, sets: list[ImageRecords]) -> IdentityMap:
    num_classes = [records.num_classes for records in sets]
    if args.map:
        found = read_identity_map(args.map, num_classes)
        found.check(str(args.map), [records.used_labels() for records in sets], args.recs)
        return found
    return same_identities(num_classes) if args.same_identities else offset_identities(num_classes)
