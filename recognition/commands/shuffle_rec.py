"""Put the images of a packed set in random order, in bounded memory.

    python data_tools/shuffle_rec.py packed/train.rec shuffled/train

For readers that read a file from its start to its end, and so see people in the order of the file. Takes any
layout and writes the sequential one (keys 0, 1, ...; identity records are dropped); records with a list of labels
keep it. Records are copied byte for byte. While it runs, it needs disk space for the set twice at PREFIX.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from recognition.cli import make_parser, non_negative_int, positive_int, run_command
from recognition.console import Stopwatch, count, duration, rate
from recognition.formats.external_shuffle import shuffle_images
from recognition.formats.records import ImageRecords
from recognition.formats.set_writer import output_paths, staged_image_set


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, shuffle the set, and return the exit status."""
    parser = make_parser("shuffle_rec", __doc__)
    add = parser.add_argument
    add("rec", type=Path, metavar="REC", help="the .rec, its path without suffix, or a folder with train.rec")
    add("prefix", metavar="PREFIX", help="output path without suffix, or a folder")
    add("--seed", type=non_negative_int, default=0, help="of the order (default: 0)")
    add("--memory", type=positive_int, default=768, metavar="MIB", help="limit of the memory (default: 768)")
    add("--overwrite", action="store_true", help="replace existing output files")
    add("--json", action="store_true", help="print the counts as one JSON object")
    return run_command(parser, shuffle, argv)


def shuffle(args: argparse.Namespace) -> None:
    """Run the command."""
    watch = Stopwatch()
    records = ImageRecords(args.rec)
    source_property = records.path.with_name("property")
    content = source_property.read_bytes() if source_property.is_file() else None
    outputs = output_paths(args.prefix)
    with staged_image_set(
        outputs, overwrite=args.overwrite, with_list=False, with_property=content is not None
    ) as files:
        with (
            open(files.paths[0], "wb", buffering=2**20) as rec_file,
            open(files.paths[1], "wb", buffering=2**20) as idx_file,
            tqdm(total=2 * len(records), unit="img", desc="shuffling", disable=args.quiet, delay=1.0) as bar,
        ):
            for done in shuffle_images(
                records, rec_file, idx_file, seed=args.seed, memory_bytes=args.memory * 2**20, scratch=files.scratch
            ):
                bar.update(done)
        if content is not None:
            files.paths[2].write_bytes(content)
    if args.json:
        counts = {"num_images": len(records), "seconds": round(watch.seconds, 3)}
        sys.stdout.write(json.dumps(counts) + "\n")
        return
    seconds = watch.seconds
    sys.stdout.write(
        f"shuffled {count(len(records), 'image')} in {duration(seconds)} ({rate(len(records), seconds)})\n"
    )
