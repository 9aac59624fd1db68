"""Check a packed image set: index and records agree, labels are in range, every image decodes.

    python data_tools/check_rec.py packed/train.rec

Reads every byte of the .rec (and the property file beside it), and prints counts, sizes and a histogram of images per
identity, as text and with --png as a picture. --duplicates also counts near-duplicates, within identities and across
them: the latter are the same image under two names. Exit status 1 when something is wrong; the first problems are
named. A lost .idx is rebuilt in memory, and written beside the .rec with --write-idx. Where pack_rec.py --digests wrote
PREFIX.crc, every record is compared with its checksum.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recognition.cli import make_parser, positive_int, run_command
from recognition.console import Stopwatch, count, duration, progress, size
from recognition.errors import DataError
from recognition.formats.class_use import class_warning
from recognition.formats.digests import Digests, digests_path
from recognition.formats.layouts import LAYOUTS
from recognition.formats.record_index import write_index
from recognition.formats.recordio import is_marker, parse_header
from recognition.formats.records import ImageRecords, read_property
from recognition.images.codec import decode_rgb
from recognition.images.duplicates import image_hash, near_duplicates
from recognition.work.files import staged
from recognition.work.system import usable_cores
from recognition.work.threads import ordered_map

MAX_NAMED = 10
BAR_WIDTH = 40


@dataclass
class Findings:
    """What the check has seen so far."""

    num_problems: int = 0
    named: list[str] = field(default_factory=list)  # the first MAX_NAMED
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # (height, width)

    def add(self, problem: str) -> None:
        self.num_problems += 1
        if len(self.named) < MAX_NAMED:
            self.named.append(problem)


@dataclass(frozen=True)
class Checked:
    """One record: the label and size (height, width) of its image, or -1 and None, and what is wrong with it."""

    slot: int
    label: int = -1
    size: tuple[int, int] | None = None
    problems: tuple[str, ...] = ()
    hash: tuple[int, int] = (0, 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, check the set, and return the exit status."""
    parser = make_parser("check_rec", __doc__)
    add = parser.add_argument
    add("rec", type=Path, metavar="REC", help="the .rec, its path without suffix, or a folder with train.rec")
    add("--workers", type=positive_int, default=usable_cores(), help="threads (default: one per core)")
    add("--duplicates", action="store_true", help="count near-duplicates (24 bytes of memory an image)")
    add("--png", type=Path, metavar="FILE", help="write the histogram of images per identity as a picture")
    add("--write-idx", action="store_true", help="write the .idx when it is missing")
    add("--json", action="store_true", help="print one JSON object")
    return run_command(parser, check, argv)


def check(args: argparse.Namespace) -> None:
    """Run the command."""
    watch = Stopwatch()
    records = ImageRecords(args.rec)
    findings = Findings()
    _check_index_file(records, findings, write=args.write_idx)
    hashes = np.zeros((len(records.index), 2), dtype=np.uint64) if args.duplicates else None
    labels = _check_records(records, findings, hashes, workers=args.workers, quiet=args.quiet)
    _check_identities(records, labels, findings)
    _check_property(records, findings)
    report = _summary(records, findings, labels, watch.seconds)
    if hashes is not None:
        report["near_duplicates"] = count_duplicates(records, labels, hashes)
    if args.png:
        write_histogram(report, args.png)
    sys.stdout.write(json.dumps(report) + "\n" if args.json else _as_text(report))
    if findings.num_problems:
        raise DataError(f"{records.path}: {count(findings.num_problems, 'problem')}; the first: {findings.named[0]}")


def check_record(
    records: ImageRecords, slot: int, *, is_image: bool, with_hash: bool = False, digests: Digests | None = None
) -> Checked:
    """Read record `slot` of the index and look at everything in it."""
    try:
        payload, end = records.read_extent(slot)
    except DataError as err:
        return Checked(slot, problems=(str(err),))
    problems: list[str] = []
    unlisted = int(records.index.bounds[slot + 1]) - end
    if unlisted > 0:
        problems.append(f"{records.path}: {unlisted} bytes from {end} on are in no record of the index")
    if digests is not None and (changed := digests.problem(int(records.index.keys[slot]), payload)) is not None:
        problems.append(f"{records.place_of(slot)}: {changed}")
    if not is_image:
        problem = LAYOUTS[records.layout]().problem_of(payload)
        if problem is not None:
            problems.append(f"{records.place_of(slot)}: {problem}")
        return Checked(slot, problems=tuple(problems))
    try:
        image = records.parse(slot, payload)
        rgb = decode_rgb(image.image, place=records.place_of(slot))
    except DataError as err:
        return Checked(slot, problems=(*problems, str(err)))
    found = image_hash(rgb) if with_hash else (0, 0)
    return Checked(slot, image.label, (rgb.shape[0], rgb.shape[1]), tuple(problems), found)


def histogram(per_identity: npt.NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """Return rows (fewest, most, identities) for 1, 2-3, 4-7, 8-15, ... images per identity."""
    rows = []
    low = 1
    while low <= per_identity.max(initial=0):
        rows.append((low, 2 * low - 1, int(((per_identity >= low) & (per_identity < 2 * low)).sum())))
        low *= 2
    return rows


def count_duplicates(
    records: ImageRecords, labels: npt.NDArray[np.int64], hashes: npt.NDArray[np.uint64]
) -> dict[str, Any]:
    """Return how many pairs of images are nearly the same, and the keys of the first few."""
    slots = np.flatnonzero(labels >= 0)
    pairs = slots[near_duplicates(hashes[slots])]
    within = labels[pairs[:, 0]] == labels[pairs[:, 1]]
    result: dict[str, Any] = {}
    for name, chosen in (("within_identities", pairs[within]), ("across_identities", pairs[~within])):
        result[name] = len(chosen)
        result[f"{name}_keys"] = records.index.keys[chosen[:MAX_NAMED]].tolist()
    return result


def write_histogram(report: dict[str, Any], path: Path) -> None:
    """Draw the images per identity as bars on a logarithmic scale."""
    try:
        import matplotlib
    except ImportError as err:
        raise DataError(f"{path}: matplotlib is not installed; it draws the picture; pip install matplotlib") from err
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = report["images_per_identity"]
    figure, axis = pyplot.subplots(figsize=(6, 3.2), layout="constrained")
    spans = [str(low) if low == high else f"{low}-{high}" for low, high, _ in rows]
    axis.bar_label(axis.bar(spans, [number for *_, number in rows], color="#2a6fbb"), fmt="{:,.0f}")
    axis.set(xlabel="images per identity", ylabel="identities", yscale="log")
    axis.set_title(f"{count(report['num_images'], 'image')}, {count(report['num_identities'], 'identity')}")
    with staged(path) as (temporary,):
        figure.savefig(temporary, dpi=120, format=path.suffix[1:] or "png")
    pyplot.close(figure)


def _check_index_file(records: ImageRecords, findings: Findings, *, write: bool) -> None:
    idx = records.path.with_suffix(".idx")
    if not idx.exists():
        if write:
            write_index(records.index, idx)
        else:
            findings.add(f"{idx}: missing; pass --write-idx to have it written")
    start = int(records.index.bounds[0])
    if start:
        findings.add(f"{records.path}: {start} bytes at its start are in no record of the index")


def _check_records(
    records: ImageRecords, findings: Findings, hashes: npt.NDArray[np.uint64] | None, *, workers: int, quiet: bool
) -> npt.NDArray[np.int64]:
    """Check every record in the order of the file, filling `hashes`; return the label of each, -1 where none is."""
    digests = _read_digests(records, findings)
    is_image = np.zeros(len(records.index), dtype=np.bool_)
    is_image[records.parts.images] = True
    labels = np.full(len(records.index), -1, dtype=np.int64)
    results = ordered_map(
        lambda slot: check_record(
            records, slot, is_image=bool(is_image[slot]), with_hash=hashes is not None, digests=digests
        ),
        range(len(labels)),
        workers=workers,
    )
    size = None
    for checked in progress(results, total=len(labels), unit="rec", label="checking", quiet=quiet):
        labels[checked.slot] = checked.label
        if hashes is not None:
            hashes[checked.slot] = checked.hash
        for problem in checked.problems:
            findings.add(problem)
        if checked.size is None:
            continue
        size = size or checked.size
        findings.sizes[checked.size] += 1
        if checked.size != size:
            findings.add(
                f"{records.place_of(checked.slot)}: {checked.size[1]} x {checked.size[0]} pixels, "
                f"but the first image has {size[1]} x {size[0]}"
            )
    return labels


def _read_digests(records: ImageRecords, findings: Findings) -> Digests | None:
    """Return the checksums beside the set, if there are any."""
    path = digests_path(records.path)
    if not path.exists():
        return None
    digests = Digests(path)
    if len(digests) != len(records.index):
        findings.add(f"{path}: has {len(digests):,} checksums for {len(records.index):,} records")
    return digests


def _check_identities(records: ImageRecords, labels: npt.NDArray[np.int64], findings: Findings) -> None:
    """Check that insightface's identity records cut the images, in the order of their keys, where the labels change."""
    if not LAYOUTS[records.layout].has_identity_records:
        return
    images = np.asarray(records.parts.images)
    images = images[np.argsort(records.index.keys[images], kind="stable")]
    keys, labels = records.index.keys[images], labels[images]
    starts = np.append(0, np.flatnonzero(np.diff(labels)) + 1)
    if (labels < 0).any():
        return  # named already, and their identities cannot be told
    found = keys[starts], np.append(keys[starts[1:]], keys[-1] + 1)
    if len(starts) != len(records.parts.identities):
        num_stated = len(records.parts.identities)
        findings.add(f"{records.path}: {num_stated} identity records for {len(starts)} runs of equal labels")
        return
    for slot, start, stop in zip(records.parts.identities, *found):
        payload = records.read_extent(int(slot))[0]
        if not is_marker(payload):
            continue  # named already
        stated = parse_header(payload).labels
        # float32: above 2^24 the record holds rounded keys.
        if stated != (float(np.float32(start)), float(np.float32(stop))):
            findings.add(
                f"{records.place_of(int(slot))}: says keys [{stated[0]:.0f}, {stated[1]:.0f}) are one identity, "
                f"but the labels say [{start}, {stop})"
            )


def _check_property(records: ImageRecords, findings: Findings) -> None:
    path = records.path.with_name("property")
    if not path.exists():
        return
    num_classes, height, width = read_property(path)
    if num_classes != records.num_classes:
        findings.add(f"{path}: says {num_classes} classes, the labels need {records.num_classes}")
    for found_height, found_width in list(findings.sizes)[:1]:
        if (found_height, found_width) != (height, width):
            findings.add(f"{path}: says {width} x {height} pixels, the first image has {found_width} x {found_height}")


def _summary(
    records: ImageRecords, findings: Findings, labels: npt.NDArray[np.int64], seconds: float
) -> dict[str, Any]:
    per_identity = np.unique(labels[labels >= 0], return_counts=True)[1]
    return {
        "path": str(records.path),
        "layout": records.layout,
        "num_bytes": int(records.index.bounds[-1]),
        "num_records": len(records.index),
        "num_images": len(records),
        "num_classes": records.num_classes,
        "num_identities": len(per_identity),
        "warnings": _warnings(records, len(per_identity)),
        "sizes": [[width, height, number] for (height, width), number in findings.sizes.most_common()],
        "images_per_identity": [list(row) for row in histogram(per_identity)],
        "num_problems": findings.num_problems,
        "problems": findings.named,
        "seconds": round(seconds, 3),
    }


def _warnings(records: ImageRecords, num_used: int) -> list[str]:
    """Return what is no damage and still to be known."""
    found = class_warning(records.num_classes, num_used, source=str(records.path))
    warnings = [] if found is None else [found]
    if records.num_identities > num_used:
        people = count(num_used, "identity")
        warnings.append(
            f"{records.path}: {records.num_identities:,} identity records for {people}: images are not sorted; to sort "
            f"them: python -m recognition convert_rec {records.path} OUT/ --to insightface"
        )
    return warnings


def _as_text(report: dict[str, Any]) -> str:
    lines = [f"{report['path']}: {report['layout']} layout, {size(report['num_bytes'])}"]
    lines += [f"  {count(number, 'image')} of {width} x {height}" for width, height, number in report["sizes"]]
    rows = report["images_per_identity"]
    most = max((number for _, _, number in rows), default=1)
    lines += ["images per identity"] if rows else []
    for low, high, number in rows:
        span = str(low) if low == high else f"{low}-{high}"
        lines.append(f"  {span:>13} {number:>11,} {'#' * -(-BAR_WIDTH * number // most)}")
    for name, words in (("within_identities", "one identity"), ("across_identities", "two identities")):
        found = report.get("near_duplicates")
        if found is not None:
            keys = ", ".join(f"{first} and {second}" for first, second in found[f"{name}_keys"])
            lines.append(f"{count(found[name], 'pair')} of near-duplicates in {words}{': keys ' if keys else ''}{keys}")
    lines += [f"warning: {warning}" for warning in report["warnings"]]
    lines += [f"problem: {problem}" for problem in report["problems"]]
    unnamed = report["num_problems"] - len(report["problems"])
    lines += [f"and {count(unnamed, 'further problem')}"] if unnamed else []
    lines.append(
        f"checked {count(report['num_images'], 'image')}, {count(report['num_identities'], 'identity')}, "
        f"{count(report['num_problems'], 'problem')} in {duration(report['seconds'])}\n"
    )
    return "\n".join(lines)
