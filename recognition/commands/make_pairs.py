"""Draw verification pairs from a folder of identities, in LFW's fold layout.

    python data_tools/make_pairs.py work_dirs/demo_data/test work_dirs/demo_data/pairs.txt --pairs 3000 --seed 0

Writes lines `path path 1|0` that pack_bin.py reads: the people are dealt to the folds first, so that nobody occurs in
two of them, and every fold holds as many same as different pairs. No pair occurs twice.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

from recognition.cli import make_parser, positive_int, run_command
from recognition.console import Stopwatch, count, duration
from recognition.errors import DataError
from recognition.formats.image_tree import ImageTree
from recognition.formats.sources import find_source
from recognition.formats.text_lines import refuse_unlistable
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


def draw_pairs(
    people: dict[str, list[str]], *, num_pairs: int, num_folds: int, seed: int
) -> list[tuple[str, str, bool]]:
    """Return pairs in fold order, same and different ones alternating.

    `people` maps an identity to its images. Raises DataError when a fold cannot supply enough distinct pairs.
    """
    each, remainder = divmod(num_pairs, 2 * num_folds)
    if remainder:
        raise DataError(
            f"--pairs {num_pairs}: expected a multiple of 2 x {num_folds} folds; choose {each * 2 * num_folds}"
        )
    generator = random.Random(seed)
    names = sorted(people)
    generator.shuffle(names)
    pairs = []
    for fold in range(num_folds):
        members = names[fold::num_folds]
        same = _same_pairs(members, people, each, fold, generator)
        different = _different_pairs(members, people, each, fold, generator)
        # By position too, any tenth of the set then holds both kinds, however many folds were drawn.
        pairs += [pair for both in zip(same, different) for pair in both]
    return pairs


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


def _same_pairs(
    members: list[str], people: dict[str, list[str]], wanted: int, fold: int, generator: random.Random
) -> list[tuple[str, str, bool]]:
    supply = sum(len(people[name]) * (len(people[name]) - 1) // 2 for name in members)
    if supply < wanted:
        raise DataError(
            f"fold {fold + 1}: its {count(len(members), 'identity')} give {supply} same pairs; expected {wanted}; "
            "lower --pairs"
        )
    able = [name for name in members if len(people[name]) > 1]
    chosen: dict[tuple[str, str], None] = {}
    while len(chosen) < wanted:
        first, second = sorted(generator.sample(people[generator.choice(able)], 2))
        chosen[first, second] = None
    return [(a, b, True) for a, b in chosen]


def _different_pairs(
    members: list[str], people: dict[str, list[str]], wanted: int, fold: int, generator: random.Random
) -> list[tuple[str, str, bool]]:
    sizes = [len(people[name]) for name in members]
    supply = (sum(sizes) ** 2 - sum(size * size for size in sizes)) // 2
    if supply < wanted:
        raise DataError(
            f"fold {fold + 1}: its {count(len(members), 'identity')} give {supply} different pairs; expected {wanted}; "
            "lower --pairs"
        )
    chosen: dict[tuple[str, str], None] = {}
    while len(chosen) < wanted:
        one, other = sorted(generator.sample(members, 2))
        chosen[generator.choice(people[one]), generator.choice(people[other])] = None
    return [(a, b, False) for a, b in chosen]
