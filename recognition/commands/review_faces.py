"""Make a page on which a person reviews the doubtful decisions of clean_faces.py.

    python data_tools/review_faces.py aligned/ cleaned/ review/

FACES and CLEAN are the two folders of clean_faces.py. OUT/index.html opens in any browser, without a server: the
pictures beside the center of their identity, most doubtful first. What the reviewer sets there is saved as
decisions.json, which the same clean_faces.py with `--review decisions.json` applies.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from recognition.cleaning.borderline import Survey, center_faces, survey
from recognition.cleaning.decision_file import KINDS
from recognition.cleaning.output_folder import DECISIONS
from recognition.cleaning.review_page import DATA, INDEX, own_identities, page_data, write_page, write_sheets
from recognition.cli import make_parser, positive_int, run_command
from recognition.console import Stopwatch, count, duration, progress
from recognition.errors import DataError
from recognition.work.files import staged_folder
from recognition.work.system import usable_cores

# A browser's longest element is 17 million pixels (Firefox), a row of the page about 200.
MAX_ROWS = 50_000


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, write the page, and return the exit status."""
    parser = make_parser("review_faces", __doc__)
    add = parser.add_argument
    add("faces", type=Path, metavar="FACES", help="folder of faces that clean_faces.py cleaned")
    add("clean", type=Path, metavar="CLEAN", help=f"what it wrote: a folder with {DECISIONS}")
    add("output", type=Path, metavar="OUT", help="folder for the page")
    add("--limit", type=positive_int, default=5000, metavar="N", help="most pictures to show (default: 5000)")
    add("--min-doubt", type=float, default=0.01, metavar="X", help="least doubt to show, 0 to 1 (default: 0.01)")
    add("--workers", type=positive_int, default=usable_cores(), help="threads (default: one per core)")
    add("--overwrite", action="store_true", help="replace an earlier page in OUT")
    add("--json", action="store_true", help="print the counts as one JSON object")
    return run_command(parser, _run, argv)


def _run(args: argparse.Namespace) -> None:
    watch = Stopwatch()
    _check(args)
    decisions = args.clean / DECISIONS
    found = survey(decisions, limit=args.limit, min_doubt=args.min_doubt)
    centers = center_faces(decisions, own_identities(found))
    data, plan = page_data(found, centers, title=args.faces.resolve().name)
    with staged_folder(args.output, replace=args.overwrite) as folder:
        sheets = write_sheets(folder, args.faces, plan, workers=args.workers)
        shown = progress(sheets, total=len(plan.sheets), unit="sheet", label="draw", quiet=args.quiet)
        num_tiles = sum(shown)
        write_page(folder, data, found.identities)
    _report(args, found, (len(plan.sheets), num_tiles), watch.seconds)


def _check(args: argparse.Namespace) -> None:
    if args.limit > MAX_ROWS:
        raise DataError(f"--limit: {args.limit:,} pictures; expected at most {MAX_ROWS:,}; a page holds no more")
    if not 0 <= args.min_doubt <= 1:
        raise DataError(f"--min-doubt: {args.min_doubt}; expected 0 to 1; choose such a number")
    if not args.faces.is_dir():
        raise DataError(f"{args.faces}: is not a folder; expected the faces that were cleaned; check the path")
    if not args.output.exists():
        return
    if not args.overwrite:
        raise DataError(f"{args.output}: exists already; expected a new path; pass --overwrite to replace it")
    # The folder is removed: one that holds anything else than a page was meant for something else.
    if not all((args.output / name).is_file() for name in (INDEX, DATA)):
        raise DataError(f"{args.output}: is no review page; expected one to replace; choose another folder")


def _report(args: argparse.Namespace, found: Survey, drawn: tuple[int, int], seconds: float) -> None:
    kinds = Counter(row.decision for row in found.rows)
    num_sheets, num_tiles = drawn
    if args.json:
        counts = {"num_rows": len(found.rows), "num_pictures": found.kinds.total()}
        counts |= {f"num_{kind}": kinds[kind] for kind in KINDS} | {"num_sheets": num_sheets, "num_tiles": num_tiles}
        print(json.dumps({"page": str(args.output / INDEX), **counts, "seconds": round(seconds, 3)}))
        return
    print(
        f"wrote {args.output / INDEX}: {len(found.rows):,} of {count(found.kinds.total(), 'picture')} "
        f"({', '.join(f'{kinds[kind]:,} {kind}' for kind in KINDS)}), doubt {found.rows[0].doubt:.3f} to "
        f"{found.rows[-1].doubt:.3f}, {count(num_sheets, 'sheet')} in {duration(seconds)}"
    )
