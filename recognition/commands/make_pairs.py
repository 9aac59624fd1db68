"""Draw verification pairs from a folder of identities, in LFW's fold layout.

    python data_tools/make_pairs.py work_dirs/demo_data/test work_dirs/demo_data/pairs.txt --pairs 3000 --seed 0

Writes lines `path path 1|0` that pack_bin.py reads: the people are dealt to the folds first, so that nobody occurs in
two of them, and every fold holds as many same as different pairs. No pair occurs twice.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from recognition.cli import make_parser, positive_int, run_command
from recognition.console import Stopwatch, count, duration
from recognition.errors import DataError
from recognition.formats.image_tree import ImageTree
from recognition.formats.sources import find_source
from recognition.formats.text_lines import refuse_unlistable
from recognition.verification.drawn_pairs import draw_pairs
from recognition.work.files import refuse_existing, write_bytes


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, write the pairs, and return the exit status."""
    parser = make_parser("make_pairs", __doc__)
    parser.add_argument("folder", type=Path, help="one folder per identity")
    parser.add_argument("pairs_file", type=Path, metavar="PAIRS")
    parser.add_argument(
        "--pairs", type=positive_int, default=6000, help="pairs in all, half of them same (default 6000)"
    )
    parser.add_argument("--folds", type=positive_int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true")
    return run_command(parser, _run, argv)


def _run(args: argparse.Namespace) -> None:
    watch = Stopwatch()
    refuse_existing(args.pairs_file, overwrite=args.overwrite)
    people = _list_people(args.folder)
    pairs = draw_pairs(people, num_pairs=args.pairs, num_folds=args.folds, seed=args.seed)
    lines = "".join(f"{a}\t{b}\t{int(same)}\n" for a, b, same in pairs)
    write_bytes(args.pairs_file, lines.encode("utf-8", "surrogateescape"))  # names of files may be other bytes
    pictures = len({path for a, b, _ in pairs for path in (a, b)})
    print(
        f"drew {count(len(pairs), 'pair')} in {count(args.folds, 'fold')} from {count(len(people), 'identity')}, "
        f"{count(pictures, 'image')} in {duration(watch.seconds)}"
    )


def _list_people(folder: Path) -> dict[str, list[str]]:
    find_source(folder, ["identities"])
    tree = ImageTree(folder)
    tree.log_passed_over()
    if len(tree.identities) < 2:
        raise DataError(f"{folder}: {count(len(tree.identities), 'identity')} with images; expected at least 2")
    people = {person: [f"{person}/{name}" for name in tree.images_of(person)] for person in tree.identities}
    for images in people.values():
        for image in images:
            refuse_unlistable(image)
    return people
