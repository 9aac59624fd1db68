"""Apply what a person decided on the review page: exactly those pictures, nothing else. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from recognition.cleaning.decision_file import KINDS, Decision, read_decisions, render_decision
from recognition.errors import DataError
from recognition.work.inputs import require_plain
from recognition.work.strict_json import parse_json

VERSION = 1

_MAX_BYTES = 1 << 25
"""Largest review that is read: of 200,000 pictures, which nobody looks through."""


@dataclass(frozen=True)
class Verdict:
    """What is to become of a picture; `to` is the identity a move ends in."""

    decision: str
    to: str | None


def read_review(path: Path) -> dict[str, Verdict]:
    """Return picture -> verdict from the file that the review page saves; DataError when it is no such file."""
    require_plain(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"over {_MAX_BYTES >> 20} MiB")
        content = parse_json(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as err:
        raise DataError(f"{path}: cannot be read ({err}); expected a review; save it from the review page") from err
    if not isinstance(content, dict) or not isinstance(content.get("decisions"), dict):
        raise DataError(f"{path}: holds no decisions; expected what the review page saves; save it again")
    if content.get("version") != VERSION:
        raise DataError(
            f"{path}: version {content.get('version')!r}; expected {VERSION}; save it from this version's page"
        )
    return {picture: _verdict(path, picture, entry) for picture, entry in content["decisions"].items()}


def apply_review(decisions: Path, handle: TextIO, review: Mapping[str, Verdict], place: Path) -> None:
    """Write the lines of a decisions.jsonl with the verdicts in place of the pictures' own decisions.

    Raises DataError, naming `place`, when a verdict is about a picture or an identity that is not there.
    """
    centers = _check_known(decisions, review, place)
    for line in read_decisions(decisions):
        verdict = review.get(line.picture)
        handle.write(render_decision(line if verdict is None else _reviewed(line, verdict, centers)))


def _verdict(path: Path, picture: str, entry: Any) -> Verdict:
    place = f"{path}: {picture!r}"
    if not isinstance(entry, dict) or entry.get("decision") not in KINDS:
        raise DataError(f"{place}: {str(entry)[:80]}; expected a decision of {', '.join(KINDS)}; fix the entry")
    to = entry.get("to")
    if not (isinstance(to, str) if entry["decision"] == "move" else to is None):
        raise DataError(
            f"{place}: {entry['decision']} to {to!r}; expected an identity for a move, else null; fix the entry"
        )
    return Verdict(entry["decision"], to)


def _check_known(decisions: Path, review: Mapping[str, Verdict], place: Path) -> dict[str, tuple[str, ...]]:
    """Return the pictures at the center of the identities that verdicts move to."""
    unknown, wanted = set(review), {verdict.to for verdict in review.values() if verdict.to is not None}
    identities, centers = set[str](), dict[str, tuple[str, ...]]()
    for line in read_decisions(decisions):
        unknown.discard(line.picture)
        identities |= {line.identity, line.target}
        if line.target in wanted and len(line.beside) > len(centers.get(line.target, ())):
            centers[line.target] = line.beside
    if unknown:
        raise DataError(f"{place}: no picture {min(unknown)!r}; expected pictures of this set; review this cleaning")
    if wanted - identities:
        raise DataError(
            f"{place}: no identity {min(wanted - identities)!r} to move to; expected one of this set; review this set"
        )
    return centers


def _reviewed(line: Decision, verdict: Verdict, centers: Mapping[str, tuple[str, ...]]) -> Decision:
    """Return a line with the verdict; a move to where the picture lies already keeps it."""
    moves = verdict.decision == "move" and verdict.to != line.identity
    return replace(
        line,
        decision=verdict.decision if moves or verdict.decision == "drop" else "keep",
        to=verdict.to if moves else None,
        reason="reviewed",
        step="review",
        doubt=0.0,
        beside=line.beside if verdict.to is None else centers.get(verdict.to, line.beside),
    )
