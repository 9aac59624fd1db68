"""Make a page on which a person reviews the doubtful decisions of clean_faces.py.

    python data_tools/review_faces.py aligned/ cleaned/ review/

FACES and CLEAN are the two folders of clean_faces.py. OUT/index.html opens in any browser, without a server: the
pictures beside the center of their identity, most doubtful first. What the reviewer sets there is saved as
decisions.json, which the same clean_faces.py with `--review decisions.json` applies. With --photos the original photos
can be seen, and another face in them chosen.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from recognition.cleaning.borderline import Survey, center_faces, survey, undoubted_drops
from recognition.cleaning.decision_file import KINDS
from recognition.cleaning.output_folder import DECISIONS
from recognition.cleaning.review_page import DATA, INDEX, own_identities, page_data, write_page, write_sheets
from recognition.cleaning.review_photos import PagePhotos, size_texts
from recognition.cli import make_parser, non_negative_int, positive_int, run_command
from recognition.console import Stopwatch, count, duration, progress
from recognition.detection.align_records import Origin, find_origins
from recognition.errors import DataError
from recognition.work.files import staged_folder
from recognition.work.system import usable_cores

# A browser's longest element is 17 million pixels (Firefox), a row of the page about 200.
MAX_ROWS = 50_000
DROPPED = "dropped.tsv"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, write the page, and return the exit status."""
    parser = make_parser("review_faces", __doc__)
    add = parser.add_argument
    add("faces", type=Path, metavar="FACES", help="folder of faces that clean_faces.py cleaned")
    add("clean", type=Path, metavar="CLEAN", help=f"what it wrote: a folder with {DECISIONS}")
    add("output", type=Path, metavar="OUT", help="folder for the page")
    add("--limit", type=positive_int, default=5000, metavar="N", help="most pictures to show (default: 5000)")
    add("--min-doubt", type=float, default=0.01, metavar="X", help="least doubt to show, 0 to 1 (default: 0.01)")
    add("--photos", type=Path, metavar="PHOTOS", help="what align_faces.py aligned: the page shows the original photos")
    add(
        "--dropped",
        type=non_negative_int,
        default=1000,
        metavar="N",
        help=f"most pictures dropped without doubt to show after the others (default: 1000); all are in {DROPPED}",
    )
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
    with staged_folder(args.output, replace=args.overwrite) as folder:
        _list_drops(args, folder, found)
        twins = [name for row in found.shown if row.twin is not None for name in (row.picture, row.twin)]
        origins = find_origins(args.faces, {*twins, *(row.picture for row in found.shown)})
        photos = _copy_photos(args, folder, origins, found)
        sizes = size_texts(args.faces, origins, twins)
        data, plan = page_data(found, centers, title=args.faces.resolve().name, sizes=sizes, photos=photos)
        sheets = write_sheets(folder, args.faces, plan, workers=args.workers)
        drawn = progress(sheets, total=len(plan.sheets), unit="sheet", label="draw", quiet=args.quiet)
        num_tiles = sum(drawn)
        write_page(folder, data, found.identities)
    _report(args, found, photos, (len(plan.sheets), num_tiles), watch.seconds)


def _list_drops(args: argparse.Namespace, folder: Path, found: Survey) -> None:
    """List the pictures dropped without doubt in a file of their own, and take the first of them onto the page."""
    with open(folder / DROPPED, "w", encoding="utf-8", errors="surrogateescape") as handle:
        handle.write("picture\tidentity\treason\tscore\n")
        for row in undoubted_drops(args.clean / DECISIONS, min_doubt=args.min_doubt):
            if found.num_dropped < args.dropped:
                found.dropped.append(row)
            found.num_dropped += 1
            score = "" if row.score is None else f"{row.score:.4f}"
            handle.write("\t".join([*map(_printable, (row.picture, row.identity, row.reason)), score]) + "\n")


def _printable(name: str) -> str:
    return name if name.isprintable() else ascii(name)


def _copy_photos(
    args: argparse.Namespace, folder: Path, origins: Mapping[str, Origin], found: Survey
) -> PagePhotos | None:
    if args.photos is None:
        return None
    names = list(dict.fromkeys(origins[row.picture].photo for row in found.shown if row.picture in origins))
    if not names:
        raise DataError(
            f"{args.faces}: no line of an align.jsonl says of which photos its pictures are; expected crops of "
            "align_faces.py; leave --photos out"
        )
    photos = PagePhotos(origins)
    copies = photos.copy(folder, args.photos, names, workers=args.workers)
    for _ in progress(copies, total=len(names), unit="photo", label="photos", quiet=args.quiet):
        pass
    return photos


def _check(args: argparse.Namespace) -> None:
    if max(args.limit, args.dropped) > MAX_ROWS:
        most = max(args.limit, args.dropped)
        raise DataError(f"--limit, --dropped: {most:,} pictures; expected at most {MAX_ROWS:,}; a page holds no more")
    if not 0 <= args.min_doubt <= 1:
        raise DataError(f"--min-doubt: {args.min_doubt}; expected 0 to 1; choose such a number")
    if not args.faces.is_dir():
        raise DataError(f"{args.faces}: is not a folder; expected the faces that were cleaned; check the path")
    if args.photos is not None and not args.photos.is_dir():
        raise DataError(f"{args.photos}: is not a folder; expected the photos that were aligned; check the path")
    if not args.output.exists():
        return
    if not args.overwrite:
        raise DataError(f"{args.output}: exists already; expected a new path; pass --overwrite to replace it")
    # The folder is removed: one that holds anything else than a page was meant for something else.
    if not all((args.output / name).is_file() for name in (INDEX, DATA)):
        raise DataError(f"{args.output}: is no review page; expected one to replace; choose another folder")


def _report(
    args: argparse.Namespace, found: Survey, photos: PagePhotos | None, drawn: tuple[int, int], seconds: float
) -> None:
    kinds = Counter(row.decision for row in found.rows)
    num_sheets, num_tiles = drawn
    lost = [] if photos is None else photos.lost
    left = {number: found.expected_errors(number) for number in _milestones(len(found.rows))}
    if args.json:
        counts = {"num_rows": len(found.rows), "num_pictures": found.kinds.total()}
        counts |= {f"num_{kind}": kinds[kind] for kind in KINDS} | {"num_sheets": num_sheets, "num_tiles": num_tiles}
        counts |= {"num_dropped": found.num_dropped, "num_photos_lost": len(lost)}
        errors = None if found.risk is None else {str(number): round(value or 0, 2) for number, value in left.items()}
        result = {"page": str(args.output / INDEX), **counts, "expected_errors_after": errors}
        print(json.dumps({**result, "seconds": round(seconds, 3)}))
        return
    if found.risk is not None:
        spelled = ", ".join(f"{value:,.1f} after {number:,}" for number, value in left.items() if number)
        print(f"errors to be expected in what is not reviewed: {left[0]:,.1f} at first, {spelled}")
    if found.num_dropped:
        where = f"all in {args.output / DROPPED}"
        print(
            f"dropped without doubt: {count(found.num_dropped, 'picture')}, {len(found.dropped):,} on the page, {where}"
        )
    if lost:
        print(f"photos that have vanished or are none: {len(lost):,}, such as: {lost[0]}")
    doubts = f"doubt {found.rows[0].doubt:.3f} to {found.rows[-1].doubt:.3f}"
    print(
        f"wrote {args.output / INDEX}: {len(found.rows):,} of {count(found.kinds.total(), 'picture')} "
        f"({', '.join(f'{kinds[kind]:,} {kind}' for kind in KINDS)}), {doubts}, "
        f"{count(num_sheets, 'sheet')} in {duration(seconds)}"
    )


def _milestones(num_rows: int) -> list[int]:
    """Return numbers of reviewed pictures after which a reviewer may stop."""
    return [number for number in (0, 50, 100, 200, 500, 1000, 2000) if number < num_rows] + [num_rows]
