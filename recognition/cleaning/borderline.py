"""Choose the decisions of clean_faces.py that a person should look at. Torch-free."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path

from recognition.cleaning.decision_file import Decision, read_decisions
from recognition.errors import DataError


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
        if decision.target in identities and len(decision.beside) > len(faces.get(decision.target, ())):
            faces[decision.target] = decision.beside
    return faces


def _counted(path: Path, found: Survey) -> Iterator[Decision]:
    for decision in read_decisions(path):
        found.kinds[decision.decision] += 1
        found.identities.add(decision.identity)
        if decision.to is not None:
            found.identities.add(decision.to)
            found.links.setdefault(decision.identity, Counter())[decision.to] += 1
            found.links.setdefault(decision.to, Counter())[decision.identity] += 1
        yield decision
