"""Clean a folder of aligned faces: wrong pictures, identities that are the same person, and near-duplicates.

    python data_tools/clean_faces.py aligned/ cleaned/ --embeddings embedded/ --dry-run
    python data_tools/clean_faces.py aligned/ cleaned/ --embeddings embedded/ --against lfw.bin cfp_fp.bin
    python data_tools/clean_faces.py aligned/ cleaned/ --embeddings embedded/ --review decisions.json

Nothing in FACES is changed. OUT gets clean.lst for pack_rec.py, decisions.jsonl with a line for every picture,
summary.json, and scores.png, which shows the scores that the thresholds come from. The steps, in this order:

  within      Chinese whispers inside each identity; what is not in its largest cluster is dropped
  far         pictures that agree too little with their identity are dropped
  merge       identities that are one person become one
  misplaced   pictures that agree with another identity, and not with their own, are moved there
  duplicates  of nearly equal pictures one is kept
  tests       identities that are in a test set are dropped (--against, --against-names)
  small       identities with fewer than --min-pictures are dropped

Before the steps, pictures of a sample are put with other people, and cleaned: how many of them stay says whether the
embeddings are good enough to clean with. A run that was killed continues when it is started again. docs/cleaning.md
explains the steps and the thresholds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from recognition.cleaning.clean import Review, clean, review_again
from recognition.cleaning.exclusion import check_names
from recognition.cleaning.face_choices import check_choices
from recognition.cleaning.held_back import held_back_line
from recognition.cleaning.output_folder import cleaning_folder, review_folder
from recognition.cleaning.pictures import Pictures, check_faces
from recognition.cleaning.review import face_choices, read_review
from recognition.cleaning.settings import THRESHOLD_STEPS, CleanSettings, Machine, check_given, choose_steps
from recognition.cli import make_parser, non_negative_int, positive_int, run_command
from recognition.console import Stopwatch, count, duration
from recognition.distributed.world import choose_device
from recognition.embedding.input_scale import add_scale_flags, asked_scale
from recognition.errors import ArcShardError, ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, clean the set, and return the exit status."""
    parser = make_parser("clean_faces", __doc__)
    add = parser.add_argument
    add("faces", type=Path, metavar="FACES", help="folder of aligned faces, one subfolder per identity")
    add("output", type=Path, metavar="OUT", help="folder for the list and the decisions")
    add("--embeddings", type=Path, required=True, metavar="EMB", help="what embed_faces.py made of FACES")
    add("--steps", metavar="A,B,...", help="which steps, in which order (default: all)")
    for step in THRESHOLD_STEPS:
        add(f"--{step}", type=float, metavar="COS", help=f"threshold of the step {step} (default: from the data)")
    add("--split", type=positive_int, metavar="N", help="within: minority clusters of N pictures become identities")
    add("--min-pictures", type=positive_int, default=2, metavar="N", help="small: fewest of an identity (default: 2)")
    add(
        "--against",
        type=Path,
        nargs="+",
        default=[],
        metavar="SET",
        help="tests: .bin files, .rec, or folders of faces",
    )
    add(
        "--against-names",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="tests: folders named like identities, or lists of names",
    )
    add("--model", metavar="PATH|dlib", help="embeds --against (default: what embedded FACES)")
    add("--network", help="the network of a bare file whose keys do not tell")
    add_scale_flags(parser)
    add("--review", type=Path, metavar="JSON", help="decisions of the review page, which come before all others")
    add("--dry-run", action="store_true", help="print the numbers and write nothing")
    add("--seed", type=non_negative_int, default=0, help="of the samples and of Chinese whispers (default: 0)")
    add("--batch-size", type=positive_int, default=64, metavar="N", help="images per pass, of --against (default: 64)")
    add("--workers", type=positive_int, default=1, help="processes that embed --against on the CPU (default: 1)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    add("--overwrite", action="store_true", help="start from the beginning and replace what an earlier run left in OUT")
    add("--json", action="store_true", help="print the summary as one JSON object")
    return run_command(parser, _run, argv)


def _run(args: argparse.Namespace) -> None:
    watch = Stopwatch()
    review = Review(args.review, read_review(args.review)) if args.review else None
    if review is not None:
        check_choices(args.faces, face_choices(review.verdicts), review.path)
    settings, pictures = _open(args)
    machine = Machine(str(choose_device(args.device)), args.batch_size, args.workers, args.quiet)
    if args.dry_run:
        with tempfile.TemporaryDirectory(prefix="clean_faces.") as scratch:
            summary, _ = clean(pictures, settings, Path(scratch), machine=machine, review=review)
    elif review is not None and cleaning_folder(args.output).is_finished and not args.overwrite:
        summary = review_again(args.output, settings, review)
    else:
        summary = _clean_into(args, settings, pictures, machine, review)
    _report(args, summary, watch.seconds)


def _clean_into(
    args: argparse.Namespace, settings: CleanSettings, pictures: Pictures, machine: Machine, review: Review | None
) -> dict[str, Any]:
    """Clean into OUT, or continue what a killed run began there; return the summary."""
    folder = cleaning_folder(args.output)
    folder.check(overwrite=args.overwrite)
    if args.overwrite:
        folder.clear(partial(shutil.rmtree, review_folder(args.output).path, ignore_errors=True))
    with folder.hold():
        folder.begin({**settings.as_json(), "review": str(args.review.resolve()) if args.review else None})
        try:
            summary, names = clean(pictures, settings, folder.path, machine=machine, review=review)
        except ArcShardError:
            if folder.is_untouched:
                folder.give_up()
            raise
        folder.publish(names)
    return summary


def _open(args: argparse.Namespace) -> tuple[CleanSettings, Pictures]:
    """Check the flags and the input; return the settings and the pictures."""
    given = {step: value for step in THRESHOLD_STEPS if (value := getattr(args, step)) is not None}
    steps = choose_steps(args.steps, has_tests=bool(args.against or args.against_names))
    check_given(given, steps)
    if args.split is not None and "within" not in steps:
        raise ConfigError(f"--split {args.split}: the step within does not run; expected it in --steps; add it")
    pictures = Pictures(args.embeddings)
    check_names(args.against_names, pictures.identities)  # wrong ones show before the work
    check_faces(pictures, args.faces)
    model, network = args.model or pictures.model["model"], args.network
    if args.model is None and network is None:
        network = pictures.model["network"]
    if args.against and model is None:
        raise ConfigError("--against: the embeddings do not say what made them; expected a network; give --model")
    about = {
        "faces": str(args.faces.resolve()),
        "embeddings": str(args.embeddings.resolve()),
        "fingerprint": pictures.fingerprint,
    }
    settings = CleanSettings(
        steps,
        given,
        split=args.split,
        least_pictures=args.min_pictures,
        against=tuple(args.against),
        against_names=tuple(args.against_names),
        model=model if args.against else None,
        network=network,
        asked=asked_scale(args),
        seed=args.seed,
        about=about,
    )
    return settings, pictures


def _report(args: argparse.Namespace, summary: dict[str, Any], seconds: float) -> None:
    output = None if args.dry_run else str(args.output)
    if args.json:
        print(json.dumps({"output": output, **summary, "seconds": round(seconds, 3)}))
        return
    print(_table(summary))
    if (held_back := summary.get("held_back")) is not None:
        print(held_back_line(held_back["put"], held_back["kept"]))
    pictures, identities = summary["pictures"], summary["identities"]
    reviewed = f", {summary['reasons']['reviewed']:,} as reviewed" if "reviewed" in summary["reasons"] else ""
    print(
        f"kept {pictures['after']:,} of {count(pictures['before'], 'picture')} ({pictures['moved']:,} moved), "
        f"{identities['after']:,} of {count(identities['before'], 'identity')}{reviewed} in {duration(seconds)}"
        + ("; nothing was written" if args.dry_run else "")
    )


def _table(summary: dict[str, Any]) -> str:
    """Return a row a step, and one of the review where there is one: each row's pictures follow from the row before."""
    lines = ["step        threshold              dropped  restored    pictures  of them moved  identities"]
    steps = list(summary["steps"])
    if "reviewed" in summary["reasons"]:
        more = summary["pictures"]["after"] - steps[-1]["pictures"]
        counts = {"pictures": summary["pictures"]["after"], "moved": summary["pictures"]["moved"]}
        counts |= {"dropped": max(0, -more), "restored": max(0, more), "identities": summary["identities"]["after"]}
        steps.append({"step": "review", **counts})
    for step in steps:
        chosen = summary["thresholds"].get(step["step"])
        threshold = "" if chosen is None else f"{chosen['cosine']:.4f} {chosen['from']}"
        lines.append(
            f"{step['step']:<11} {threshold:<19} {step['dropped']:>10,} {step['restored']:>9,} {step['pictures']:>11,} "
            f"{step['moved']:>14,} {step['identities']:>11,}"
        )
    return "\n".join(lines)
