"""Set people aside for a test: who is trained on, who is not, and verification pairs of those who are not.

    python data_tools/hold_out.py cleaned/clean.lst split/ --root aligned/ --embeddings embedded/ --people 40
    python data_tools/hold_out.py aligned/ split/ --people 40
    python data_tools/pack_rec.py split/train.lst packed/train --root aligned/
    python data_tools/pack_bin.py split/pairs.txt aligned/ packed/unseen.bin

OUT gets train.lst and train.names (all others), pairs.txt (of those set aside), held_out.txt (their names) and
hold_out.json. Names that share a picture or nearly one, and with --embeddings names that may be one person, stay on one
side together; so do those between which clean_faces.py moved pictures, where its decisions.jsonl lies beside the .lst.
People of a single picture give no pair of one person and stay in training.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recognition.cleaning.alike_people import alike
from recognition.cleaning.linked_people import (
    MOST_NAMES,
    Links,
    People,
    Sides,
    choose_sides,
    copies,
    hash_pictures,
    list_people,
    moves,
    pictures_for_pairs,
)
from recognition.cleaning.output_folder import DECISIONS
from recognition.cli import make_parser, non_negative_int, positive_int, run_command
from recognition.commands.pack_rec import open_source
from recognition.console import Stopwatch, count, duration
from recognition.distributed.world import choose_device
from recognition.errors import DataError
from recognition.formats.class_names import names_path, write_class_names
from recognition.verification.drawn_pairs import Pair, draw_pairs, most_pairs
from recognition.work.files import staged_folder
from recognition.work.system import usable_cores

TRAIN, PAIRS, ASIDE, ABOUT = "train.lst", "pairs.txt", "held_out.txt", "hold_out.json"
MOST_PAIRS = 6000
MOST_FOLDS = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, set people aside, and return the exit status."""
    parser = make_parser("hold_out", __doc__)
    add = parser.add_argument
    add("source", type=Path, metavar="FACES_OR_LST", help="folder of aligned faces, or the .lst of what is kept of it")
    add("output", type=Path, metavar="OUT", help="folder for the lists; new, or of an earlier run with --overwrite")
    add("--people", type=positive_int, required=True, metavar="N", help="how many to set aside")
    add("--root", type=Path, help="where the paths of a .lst start (default: the folder of the .lst)")
    add("--embeddings", type=Path, metavar="EMB", help="what embed_faces.py made of the faces: links names by them")
    add(
        "--pairs",
        type=positive_int,
        metavar="N",
        help=f"pairs to draw, half of them same (default: up to {MOST_PAIRS:,})",
    )
    add("--folds", type=positive_int, metavar="N", help=f"of the pairs; nobody is in two (default: {MOST_FOLDS})")
    add("--seed", type=non_negative_int, default=0, help="who is set aside, and which pairs (default: 0)")
    add("--workers", type=positive_int, default=usable_cores(), help="threads (default: one per core)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="for the embeddings (default: auto)")
    add("--overwrite", action="store_true", help="replace what an earlier run left in OUT")
    add("--json", action="store_true", help="print the counts as one JSON object")
    return run_command(parser, _run, argv)


def _run(args: argparse.Namespace) -> None:
    watch = Stopwatch()
    _check(args)
    images = open_source(args.source, args.root, layout="insightface", skip_bad=True)
    people = list_people(images)
    links, again = _links(args, people, images.root)
    sides = _sides(args, people, links, again)
    shown = pictures_for_pairs(people, sides, again)
    pairs = _pairs(args, shown)
    counts = _counts(args, people, links, sides, pairs)
    with staged_folder(args.output, replace=args.overwrite) as folder:
        _write(folder, people, sides, pairs, counts)
    _report(args, counts, watch.seconds)


def _check(args: argparse.Namespace) -> None:
    if args.root is not None and args.source.is_dir():
        raise DataError("--root: is for a .lst; a folder is its own root; leave it out")
    if args.output.exists() and not args.overwrite:
        raise DataError(f"{args.output}: exists already; expected a new path; pass --overwrite to replace it")
    if args.output.exists() and not (args.output / ABOUT).is_file():
        raise DataError(f"{args.output}: holds no {ABOUT}, so it is no earlier result; choose another folder")


def _links(args: argparse.Namespace, people: People, root: Path) -> tuple[Links, set[str]]:
    """Return which people stay together, and the pictures that repeat another of the same person."""
    links = Links()
    if args.embeddings is not None:  # first: what is wrong with them shows before the long work
        found = alike(people, args.embeddings, seed=args.seed, device=str(choose_device(args.device)), quiet=args.quiet)
        for source, pairs in found.items():
            links.add(source, pairs)
    decisions = args.source.parent / DECISIONS
    if args.source.is_file() and decisions.is_file():
        links.add("moved by cleaning", moves(people, decisions))
    shared, again = copies(people, hash_pictures(people, root, workers=args.workers, quiet=args.quiet))
    links.add("same picture", shared)
    return links, again


def _sides(args: argparse.Namespace, people: People, links: Links, again: set[str]) -> Sides:
    groups = links.groups(len(people.names))

    def usable(person: int) -> int:
        return sum(picture not in again for picture in people.own_pictures(person))

    sides = choose_sides(people, groups, num=args.people, seed=args.seed, usable=usable)
    left = len(people.names) - sum(map(len, sides.aside))
    if len(sides.aside) < args.people or left < 2:
        able = len(sides.aside) if left > 1 else "all"
        raise DataError(
            f"{args.source}: {able} of {count(len(groups), 'group')} of names that belong together can be set aside "
            f"({sides.num_single:,} give no pair of pictures, {sides.num_chained:,} have over {MOST_NAMES} names); "
            f"expected {args.people:,} and two to train on; lower --people"
        )
    return sides


def _pairs(args: argparse.Namespace, shown: Mapping[str, list[str]]) -> list[Pair]:
    folds = args.folds or max(1, min(MOST_FOLDS, len(shown) // 2))
    number = args.pairs
    if number is None:
        # Half of what there is: a draw of all would take a person's every two pictures as often as they come.
        most = most_pairs(shown, num_folds=folds, seed=args.seed) // (2 * folds)
        if not most:
            raise DataError(
                f"--folds {folds}: {_people(len(shown))} are too few for pairs in each; expected two people a fold; "
                "lower --folds, or raise --people"
            )
        number = min(MOST_PAIRS // (2 * folds), max(1, most // 2)) * 2 * folds
    return draw_pairs(shown, num_pairs=number, num_folds=folds, seed=args.seed)


def _counts(
    args: argparse.Namespace, people: People, links: Links, sides: Sides, pairs: Sequence[Pair]
) -> dict[str, Any]:
    aside = [i for group in sides.aside for i in group]
    num_aside = sum(len(people.pictures[i]) for i in aside)
    return {
        "num_people_aside": len(sides.aside),
        "num_names_aside": len(aside),
        "num_images_aside": num_aside,
        "num_identities": len(people.names) - len(aside),
        "num_images": sum(map(len, people.pictures)) - num_aside,
        "num_single": sides.num_single,
        "num_chained": sides.num_chained,
        "links": {source: len(found) for source, found in links.by_source.items()},
        "num_pairs": len(pairs),
        "num_pictures": len({path for a, b, _ in pairs for path in (a, b)}),
        "seed": args.seed,
    }


def _write(folder: Path, people: People, sides: Sides, pairs: Sequence[Pair], counts: Mapping[str, Any]) -> None:
    aside = {i for group in sides.aside for i in group}
    staying = [i for i in range(len(people.names)) if i not in aside]
    listed = ((label, picture) for label, i in enumerate(staying) for picture in people.pictures[i])
    _write_lines(folder / TRAIN, (f"{index}\t{label}\t{name}" for index, (label, name) in enumerate(listed)))
    write_class_names(names_path(folder / TRAIN), {label: people.names[i] for label, i in enumerate(staying)})
    _write_lines(folder / PAIRS, (f"{a}\t{b}\t{int(same)}" for a, b, same in pairs))
    _write_lines(folder / ASIDE, (people.names[i] for i in sorted(aside)))
    (folder / ABOUT).write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")


def _write_lines(path: Path, lines: Any) -> None:
    # Names of files may be other bytes than UTF-8.
    path.write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))


def _report(args: argparse.Namespace, counts: Mapping[str, Any], seconds: float) -> None:
    if args.json:
        print(json.dumps({"output": str(args.output), **counts, "seconds": round(seconds, 3)}))
        return
    linked = ", ".join(f"{number:,} {source}" for source, number in counts["links"].items())
    print(f"names that belong together, in pairs: {linked}")
    if args.embeddings is None:
        print("(without --embeddings a person under two names is seen only where the two share a picture)")
    if counts["num_single"] or counts["num_chained"]:
        print(
            f"not to be set aside: {counts['num_single']:,} with fewer than two pictures that differ, "
            f"{counts['num_chained']:,} in chains of over {MOST_NAMES} names"
        )
    print(
        f"set {_people(counts['num_people_aside'])} aside ({count(counts['num_names_aside'], 'name')}, "
        f"{count(counts['num_images_aside'], 'image')}); {count(counts['num_images'], 'image')}, "
        f"{count(counts['num_identities'], 'identity')} stay; drew {count(counts['num_pairs'], 'pair')} of "
        f"{count(counts['num_pictures'], 'image')} in {duration(seconds)}"
    )


def _people(number: int) -> str:
    return f"{number:,} {'person' if number == 1 else 'people'}"
