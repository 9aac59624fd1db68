"""Apply what a person decided on the review page: exactly those pictures, nothing else. Torch-free."""

from __future__ import annotations

import unicodedata
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

_MOST_FACES = 10_000
_LONGEST_NAME = 240


@dataclass(frozen=True)
class Verdict:
    """What is to become of a picture; `to` is the identity a move ends in, which `is_new` may make."""

    decision: str
    to: str | None
    is_new: bool = False
    face: int | None = None
    """Which face of the original photo the crop is to show; None: the one it shows."""


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


def face_choices(review: Mapping[str, Verdict]) -> dict[str, int]:
    """Return picture -> the face of its photo that a reviewer chose, where one was chosen."""
    return {picture: verdict.face for picture, verdict in review.items() if verdict.face is not None}


def _verdict(path: Path, picture: str, entry: Any) -> Verdict:
    place = f"{path}: {picture!r}"
    if not isinstance(entry, dict) or entry.get("decision") not in KINDS:
        raise DataError(f"{place}: {str(entry)[:80]}; expected a decision of {', '.join(KINDS)}; fix the entry")
    to = entry.get("to")
    if not (isinstance(to, str) if entry["decision"] == "move" else to is None):
        raise DataError(
            f"{place}: {entry['decision']} to {to!r}; expected an identity for a move, else null; fix the entry"
        )
    is_new, face = entry.get("new", False), entry.get("face")
    if not isinstance(is_new, bool) or (is_new and to is None):
        raise DataError(f"{place}: new is {is_new!r:.40}; expected true for a move alone; fix the entry")
    if is_new and (problem := name_problem(str(to))) is not None:
        raise DataError(f"{place}: the new identity {to!r:.80} {problem}; expected a folder's name; choose another")
    if face is not None and (type(face) is not int or not 0 <= face < _MOST_FACES or entry["decision"] == "drop"):
        raise DataError(
            f"{place}: face is {face!r:.40}; expected the number of a face of a picture that stays; fix the entry"
        )
    return Verdict(entry["decision"], to, is_new, face)


def name_problem(name: str) -> str | None:
    """Return why a name cannot be that of a new identity; None when it can."""
    if not name or name != name.strip() or name.startswith("."):
        return "is empty, or begins with a dot or a blank, or ends with one"
    if "/" in name or any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        return "has a slash or a control character"
    if len(name.encode()) > _LONGEST_NAME:
        return f"is longer than {_LONGEST_NAME} bytes"
    return None


def _check_known(decisions: Path, review: Mapping[str, Verdict], place: Path) -> dict[str, tuple[str, ...]]:
    """Return the pictures at the center of the identities that verdicts move to."""
    unknown, wanted = set(review), {verdict.to for verdict in review.values() if verdict.to is not None}
    made = {verdict.to for verdict in review.values() if verdict.is_new}
    identities, centers = set[str](), dict[str, tuple[str, ...]]()
    for line in read_decisions(decisions):
        unknown.discard(line.picture)
        identities |= {line.identity, line.target}
        if line.target in wanted and len(line.beside) > len(centers.get(line.target, ())):
            centers[line.target] = line.beside
    if unknown:
        raise DataError(f"{place}: no picture {min(unknown)!r}; expected pictures of this set; review this cleaning")
    if nowhere := wanted - identities - made:
        raise DataError(f"{place}: no identity {min(nowhere)!r} to move to; expected one of this set; review this set")
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
        beside=line.beside if verdict.to is None else centers.get(verdict.to, () if verdict.is_new else line.beside),
        risk=None,
        twin=None,
    )
