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
    risk: float | None = None
    """The errors that are to be expected among all decisions; None where no decision says its risk."""
    dropped: list[Decision] = field(default_factory=list)
    """Pictures dropped with less doubt than is shown, as many as the page has room for."""
    num_dropped: int = 0
    """How many such pictures there are."""

    @property
    def shown(self) -> list[Decision]:
        """All that the page shows: the borderline decisions, then what was dropped without doubt."""
        return [*self.rows, *self.dropped]

    def expected_errors(self, num_reviewed: int) -> float | None:
        """Return how many errors are to be expected outside of the first `num_reviewed` borderline decisions."""
        if self.risk is None:
            return None
        return max(0.0, self.risk - sum(row.risk or 0 for row in self.rows[:num_reviewed]))


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


def undoubted_drops(path: Path, *, min_doubt: float) -> Iterator[Decision]:
    """Yield the pictures of a decisions.jsonl that are dropped with a doubt below `min_doubt`, in its order."""
    return (line for line in read_decisions(path) if line.decision == "drop" and line.doubt < min_doubt)


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
        if decision.risk is not None:
            found.risk = (found.risk or 0.0) + decision.risk
        found.identities.add(decision.identity)
        if decision.to is not None:
            found.identities.add(decision.to)
            found.links.setdefault(decision.identity, Counter())[decision.to] += 1
            found.links.setdefault(decision.to, Counter())[decision.identity] += 1
        yield decision
