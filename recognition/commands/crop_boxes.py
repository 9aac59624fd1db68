"""Cut faces out of photos by a table of boxes or landmarks, such as VGGFace2's.

    python data_tools/crop_boxes.py vggface2/train loose_bb_train.csv crops/ --size 112
    python data_tools/crop_boxes.py vggface2/train loose_landmark_train.csv aligned/ --size 112

A table with the columns NAME_ID, X, Y, W, H gives squares around the boxes; one with NAME_ID, P1X, P1Y ... P5X, P5Y
gives faces aligned to the ArcFace template. NAME_ID is a path below PHOTOS, with or without .jpg. A square that
leaves the photo is moved back inside, and shrunk only when it is larger than the photo. OUT gets the same paths and
crops.jsonl, a line for every row of the table. A run that was killed continues when it is started again.
"""

from __future__ import annotations

import argparse
import csv
import json
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from recognition.cli import make_parser, positive_int, run_command
from recognition.console import Stopwatch, count, duration, progress, rate
from recognition.detection.alignment import align
from recognition.detection.crop_folder import CropFolder
from recognition.detection.landmark_fit import file_trouble, landmark_trouble
from recognition.errors import DataError
from recognition.images.codec import encode_jpeg
from recognition.images.photos import decode_photo, read_photo
from recognition.work.files import write_by_way_of
from recognition.work.inputs import require_plain
from recognition.work.processes import process_map
from recognition.work.system import usable_cores

MAX_SIZE, MAX_MARGIN = 4096, 100
_MAX_LINE = 1 << 20  # characters
_FARTHEST_PX = 1e6  # where no photo reaches
BOX_COLUMNS = ("X", "Y", "W", "H")
LANDMARK_COLUMNS = tuple(f"P{point}{axis}" for point in range(1, 6) for axis in "XY")
STATUSES = ("ok", "too_small", "unreadable", "misfit", "outside")
_SAMPLE = 2000  # rows whose landmarks tell whether the table is right


@dataclass(frozen=True)
class Row:
    """A row of the table: where it stands, the photo's name, and a box [4] or landmarks [10]."""

    line: int
    name: str
    numbers: tuple[float, ...]

    @property
    def crop(self) -> str:
        """The crop's path below OUT."""
        return f"{self.name.removesuffix('.jpg')}.jpg"


@dataclass(frozen=True)
class BoxCropper:
    """Cuts the face of a row out of its photo."""

    photos: Path
    folder: CropFolder
    size: int
    margin: float
    min_size_px: float
    quality: int

    def __call__(self, row: Row) -> dict[str, Any]:
        """Write one crop and return its line of crops.jsonl. Bad photos are recorded, not raised."""
        if len(row.numbers) == 4 and min(row.numbers[2:]) < self.min_size_px:
            return {"status": "too_small"}
        try:
            path = _photo_path(self.photos, row.name)
            rgb = decode_photo(read_photo(path), place=str(path))
            if len(row.numbers) == 10 and (trouble := self._landmark_trouble(row, rgb)) is not None:
                return trouble
            _check_inside(row, path, rgb)
            face = self._cut(rgb, row.numbers)
        except OSError as err:
            place = f"{self.photos / row.name}"
            return {"status": "unreadable", "reason": f"{place}: cannot be read ({err.strerror or err})"}
        except DataError as err:
            return {"status": "unreadable", "reason": str(err)}
        if face is None:
            return {"status": "too_small"}
        temporary = self.folder.staging / f"{row.line}.part"
        write_by_way_of(temporary, self.folder.output / row.crop, encode_jpeg(face, self.quality))
        return {"status": "ok", "crop": row.crop}

    def _landmark_trouble(self, row: Row, rgb: np.ndarray) -> dict[str, Any] | None:
        trouble = landmark_trouble(np.array(row.numbers).reshape(5, 2), (rgb.shape[0], rgb.shape[1]))
        if trouble is None:
            return None
        return {"status": trouble[0], "reason": f"{row.name}: {trouble[1]} (line {row.line})"}

    def _cut(self, rgb: np.ndarray, numbers: tuple[float, ...]) -> np.ndarray | None:
        """Return the face; None when the photo itself is too small for it."""
        if len(numbers) == 10:
            return align(rgb, np.array(numbers).reshape(5, 2), self.size)
        left, top, side = square_inside(numbers, self.margin, (rgb.shape[0], rgb.shape[1]))
        if side < self.min_size_px:
            return None
        square = rgb[top : top + side, left : left + side]
        shrinks = side > self.size
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return cv2.resize(square, (self.size, self.size), interpolation=method)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, cut the faces, and return the exit status."""
    parser = make_parser("crop_boxes", __doc__)
    add = parser.add_argument
    add("photos", type=Path, metavar="PHOTOS", help="folder the table's names start from")
    add("table", type=Path, metavar="CSV", help="NAME_ID,X,Y,W,H or NAME_ID,P1X,P1Y,...,P5X,P5Y")
    add("output", type=Path, metavar="OUT", help="folder for the crops and crops.jsonl")
    add("--size", type=positive_int, default=112, metavar="PX", help="side of the crops (default: 112)")
    add("--margin", type=float, default=0.0, metavar="M", help="widen boxes by this share of their longer side")
    add("--min-size", type=float, default=0.0, metavar="PX", help="refuse boxes with a side below this")
    add("--people", type=positive_int, metavar="N", help="only the first N people of the table")
    add("--quality", type=positive_int, default=95, metavar="Q", help="JPEG quality of the crops (default: 95)")
    add("--workers", type=positive_int, default=usable_cores(), help="processes (default: one per core)")
    add("--overwrite", action="store_true", help="begin anew and replace what an earlier run left in OUT")
    add("--json", action="store_true", help="print the counts as one JSON object")
    return run_command(parser, _run, argv)


def square_inside(box: Sequence[float], margin: float, photo_size: tuple[int, int]) -> tuple[int, int, int]:
    """Return (left, top, side) of the square about a box X, Y, W, H, within a photo of (height, width).

    Its side is the box's longer one and `margin` of it at either end; it is moved, not cut, where it would reach over
    the edge, and shrunk about its center to the photo's shorter side when it is larger.
    """
    x, y, width, height = box
    side = min(max(1, round(max(width, height) * (1 + 2 * margin))), *photo_size)
    corners = (x + width / 2 - side / 2, y + height / 2 - side / 2)
    left, top = (min(max(0, round(c)), room - side) for c, room in zip(corners, (photo_size[1], photo_size[0])))
    return left, top, side


def read_rows(path: Path, num_people: int | None = None) -> Iterator[Row]:
    """Yield the rows of a table; DataError names the line and what was expected."""
    people: set[str] = set()
    require_plain(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            lines = csv.reader(iter(lambda: handle.readline(_MAX_LINE), ""), skipinitialspace=True)
            wanted = _wanted_columns(path, [column.strip() for column in next(lines, [])])
            for fields in lines:
                if not fields:
                    continue
                row = _parse_row(f"{path}:{lines.line_num}", lines.line_num, fields, wanted)
                people.add(row.name.split("/")[0])
                if num_people is not None and len(people) > num_people:
                    return
                yield row
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        reason = err.strerror if isinstance(err, OSError) else err
        raise DataError(
            f"{path}: cannot be read as CSV ({reason}); expected a table of boxes or landmarks; check that it is one"
        ) from err


def _wanted_columns(path: Path, header: list[str]) -> list[int]:
    """Return the places of NAME_ID and of the numbers in the header."""
    for columns in (BOX_COLUMNS, LANDMARK_COLUMNS):
        if {"NAME_ID", *columns} <= set(header):
            return [header.index(column) for column in ("NAME_ID", *columns)]
    raise DataError(
        f"{path}:1: has the columns {', '.join(header)[:200] or 'of an empty file'}; expected NAME_ID with X, Y, W, H "
        "or with P1X, P1Y to P5X, P5Y; write them in the first line"
    )


def _parse_row(place: str, line: int, fields: list[str], wanted: list[int]) -> Row:
    try:
        name, *numbers = (fields[i] for i in wanted)
        row = Row(line, name.strip(), tuple(float(number) for number in numbers))
    except (IndexError, ValueError) as err:
        raise DataError(f"{place}: {','.join(fields)[:100]!r}; expected a name and numbers; fix the line") from err
    if not np.abs(row.numbers).max() <= _FARTHEST_PX or (len(row.numbers) == 4 and min(row.numbers[2:]) <= 0):
        raise DataError(f"{place}: {row.numbers}; expected numbers of pixels and sides above zero; fix the line")
    if not row.name or row.name.startswith("/") or ".." in row.name.split("/") or "\0" in row.name:
        raise DataError(f"{place}: {row.name!r} leaves the folder of photos; expected a path below it; fix the line")
    return row


def _photo_path(photos: Path, name: str) -> Path:
    path = photos / name
    return path if path.suffix and path.is_file() else photos / f"{name.removesuffix('.jpg')}.jpg"


def _check_inside(row: Row, path: Path, rgb: np.ndarray) -> None:
    """Raise DataError when the box, or the landmarks' own, lies beside the photo: it belongs to another."""
    height, width = rgb.shape[:2]
    if len(row.numbers) == 4:
        left, top, right, bottom = *row.numbers[:2], row.numbers[0] + row.numbers[2], row.numbers[1] + row.numbers[3]
    else:
        xs, ys = row.numbers[0::2], row.numbers[1::2]
        left, top, right, bottom = min(xs), min(ys), max(xs), max(ys)
    if left >= width or top >= height or right <= 0 or bottom <= 0:
        raise DataError(
            f"{path}: {width} x {height} pixels, and the face at {left:g}, {top:g} is outside them; expected it "
            f"inside; check the table's line {row.line}"
        )


def _run(args: argparse.Namespace) -> None:
    watch = Stopwatch()
    _check_numbers(args)
    if not args.photos.is_dir() or args.photos.resolve() == args.output.resolve():
        raise DataError(f"{args.photos}: is none, or OUT; expected a folder of photos; check the paths")
    if not any(args.photos.iterdir()):
        raise DataError(f"{args.photos}: holds nothing; expected the photos of the table; check the path")
    rows = list(read_rows(args.table, args.people))
    if not rows:
        raise DataError(f"{args.table}: has no rows; expected one for each face; check the file")
    crops = _crops(args.table, rows)
    _check_landmarks(args.table, rows)
    folder = CropFolder(args.output, "crops")
    folder.check(crops, overwrite=args.overwrite)
    cropper = BoxCropper(args.photos, folder, args.size, args.margin, args.min_size, args.quality)
    settings = {"table": str(args.table.resolve()), "photos": str(args.photos.resolve())}
    settings |= {name: str(getattr(args, name)) for name in ("size", "margin", "min_size", "quality")}
    with folder.journal(settings, crops, overwrite=args.overwrite) as journal:
        tasks = [row for row in rows if row.name not in journal.done]
        work = process_map(_crop, tasks, partial(_same, cropper), workers=args.workers)
        for name, record in progress(work, total=len(tasks), unit="face", label="crop", quiet=args.quiet):
            journal.append(name, record)
        totals = folder.publish(journal)
    _report(args, totals, len(rows), watch.seconds)


def _check_numbers(args: argparse.Namespace) -> None:
    if not 1 <= args.quality <= 100:
        raise DataError(f"--quality {args.quality}: expected 1 to 100; choose such a number")
    if not 0 <= args.margin <= MAX_MARGIN:
        raise DataError(f"--margin {args.margin}: expected 0 to {MAX_MARGIN}; choose such a number")
    if args.size > MAX_SIZE:
        raise DataError(f"--size {args.size}: expected at most {MAX_SIZE} pixels; choose such a number")


def _check_landmarks(table: Path, rows: Sequence[Row]) -> None:
    """Raise DataError when most landmarks of a table fit no face."""
    if len(rows[0].numbers) == 10:
        sample = rows[:: -(-len(rows) // _SAMPLE)]
        trouble = file_trouble(np.array([row.numbers for row in sample]).reshape(-1, 5, 2), [])
        if trouble is not None:
            raise DataError(f"{table}: {trouble}; looked at {count(len(sample), 'row')}")


def _crops(table: Path, rows: Sequence[Row]) -> list[str]:
    """Return the crop of each row; DataError when two rows would give one."""
    owners: dict[str, Row] = {}
    for row in rows:
        first = owners.setdefault(posixpath.normpath(row.crop), row)
        if first is not row:
            raise DataError(
                f"{table}:{row.line}: {row.name!r} gives the crop of {first.name!r} in line {first.line}; expected one "
                "face a photo; remove a line"
            )
    return list(owners)


def _same(cropper: BoxCropper) -> BoxCropper:
    """Return the tool of a worker process, which needs no preparing."""
    cv2.setNumThreads(1)
    return cropper


def _crop(cropper: BoxCropper, row: Row) -> tuple[str, dict[str, Any]]:
    return row.name, cropper(row)


def _report(args: argparse.Namespace, totals: Counter[str], num_rows: int, seconds: float) -> None:
    if args.json:
        counts = {"num_rows": num_rows, **{f"num_{status}": totals[status] for status in STATUSES}}
        print(json.dumps({"output": str(args.output), **counts, "seconds": round(seconds, 3)}))
        return
    misfit = "".join(f", {totals[status]:,} {status}" for status in STATUSES[3:] if totals[status])
    print(
        f"cropped {count(totals['ok'], 'face')} of {count(num_rows, 'row')}, {totals['too_small']:,} too small, "
        f"{totals['unreadable']:,} unreadable{misfit} in {duration(seconds)} ({rate(num_rows, seconds)})"
    )
