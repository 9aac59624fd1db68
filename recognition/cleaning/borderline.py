"""Read the decisions of clean_faces.py and choose those a person should look at. Torch-free."""

from __future__ import annotations

import heapq
import json
import math
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recognition.errors import DataError

DECISIONS = "decisions.jsonl"
KINDS = ("keep", "drop", "move")
MAX_BESIDE = 3

_FIELDS: dict[str, type | tuple[type, ...]] = {
    "picture": str,
    "identity": str,
    "decision": str,
    "to": (str, type(None)),
    "reason": str,
    "score": (int, float, type(None)),
    "doubt": (int, float),
    "step": str,
    "beside": list,
}


@dataclass(frozen=True)
class Decision:
    """What clean_faces.py decided about a picture; `beside` are faces at the center of `to`, or else of `identity`."""

    picture: str
    identity: str
    decision: str
    to: str | None
    reason: str
    score: float | None
    doubt: float
    step: str
    beside: tuple[str, ...]


@dataclass
class Survey:
    """The borderline decisions, most doubtful first, and what all the others say about them."""

    rows: list[Decision] = field(default_factory=list)
    identities: set[str] = field(default_factory=set)
    kinds: Counter[str] = field(default_factory=Counter)
    links: dict[str, Counter[str]] = field(default_factory=dict)
    """identity -> the identities that pictures move to from it, or come from, with their number."""


def survey(path: Path, *, limit: int, min_doubt: float) -> Survey:
    """Return the `limit` most doubtful decisions of a decisions.jsonl with at least `min_doubt`.

    Ties go to the first name. The file is streamed; held are these rows, the names of identities and the moves between
    them. Raises DataError naming the line that is wrong, and when nothing is left to show.
    """
    found = Survey()
    doubtful = (decision for decision in _counted(path, found) if decision.doubt >= min_doubt)
    found.rows = heapq.nsmallest(limit, doubtful, key=lambda decision: (-decision.doubt, decision.picture))
    if not found.rows:
        total = found.kinds.total()
        raise DataError(
            f"{path}: none of its {total:,} decisions has a doubt of at least {min_doubt:g}; expected pictures to "
            "review; " + ("lower --min-doubt" if total else "let clean_faces.py write it again")
        )
    twice = [picture for picture, times in Counter(row.picture for row in found.rows).items() if times > 1]
    if twice:
        raise DataError(f"{path}: decides about {twice[0]!r} twice; expected one line per picture; remove one")
    return found


def center_faces(path: Path, identities: Set[str]) -> dict[str, tuple[str, ...]]:
    """Return the faces at the center of those of `identities` that occur in some line of decisions.jsonl."""
    faces: dict[str, tuple[str, ...]] = {}
    for decision in read_decisions(path):
        center_of = decision.identity if decision.to is None else decision.to
        if center_of in identities and len(decision.beside) > len(faces.get(center_of, ())):
            faces[center_of] = decision.beside
    return faces


def read_decisions(path: Path) -> Iterator[Decision]:
    """Yield the decisions of a decisions.jsonl in its order. Raises DataError naming the line that is wrong."""
    try:
        with open(path, encoding="utf-8") as handle:
            for number, line in enumerate(handle, 1):
                yield _parse(f"{path}:{number}", line)
    except (OSError, UnicodeDecodeError) as err:
        raise DataError(
            f"{path}: cannot be read ({err}); expected the decisions of clean_faces.py; check the folder"
        ) from err


def _counted(path: Path, found: Survey) -> Iterator[Decision]:
    for decision in read_decisions(path):
        found.kinds[decision.decision] += 1
        found.identities.add(decision.identity)
        if decision.to is not None:
            found.identities.add(decision.to)
            found.links.setdefault(decision.identity, Counter())[decision.to] += 1
            found.links.setdefault(decision.to, Counter())[decision.identity] += 1
        yield decision


def _parse(place: str, line: str) -> Decision:
    try:
        content: Any = json.loads(line)
    except (ValueError, RecursionError) as err:
        raise DataError(
            f"{place}: is not JSON ({err}); expected one object per line; let clean_faces.py write it"
        ) from err
    if not isinstance(content, dict) or not _FIELDS.keys() <= content.keys():
        raise DataError(f"{place}: {line.strip()[:80]!r}; expected an object with {', '.join(_FIELDS)}; fix the line")
    for name, types in _FIELDS.items():
        if not isinstance(content[name], types) or isinstance(content[name], bool):
            raise DataError(f"{place}: {name} is {content[name]!r}; expected {_spelled(types)}; fix the line")
    _check(place, content)
    return Decision(**{name: content[name] for name in _FIELDS if name != "beside"}, beside=tuple(content["beside"]))


def _spelled(types: type | tuple[type, ...]) -> str:
    words = {str: "text", int: "a number", float: "a number", list: "a list", type(None): "null"}
    return " or ".join(dict.fromkeys(words[kind] for kind in (types if isinstance(types, tuple) else (types,))))


def _check(place: str, content: dict[str, Any]) -> None:
    """Raise DataError where the values of a line, right in type, contradict the format."""
    if content["decision"] not in KINDS:
        raise DataError(f"{place}: decision is {content['decision']!r}; expected {', '.join(KINDS)}; fix the line")
    if (content["decision"] == "move") != (content["to"] is not None):
        raise DataError(
            f"{place}: decision is {content['decision']} and to is {content['to']!r}; expected an identity for a move "
            "and null otherwise; fix the line"
        )
    if not 0 <= content["doubt"] <= 1:
        raise DataError(f"{place}: doubt is {content['doubt']}; expected 0 to 1; fix the line")
    if content["score"] is not None and not math.isfinite(content["score"]):
        raise DataError(f"{place}: score is {content['score']}; expected a finite number or null; fix the line")
    if len(content["beside"]) > MAX_BESIDE or not all(isinstance(name, str) for name in content["beside"]):
        raise DataError(f"{place}: beside is not a list of at most {MAX_BESIDE} pictures; fix the line")
    for name in (content["picture"], *content["beside"]):
        if not name or name.startswith("/") or ".." in name.split("/") or "\0" in name:
            raise DataError(f"{place}: {name!r} leaves the folder of faces; expected a path below it; fix the line")
