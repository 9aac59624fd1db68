"""What a case found, and the table of all of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from tests.faults.launch import Ended
from tests.faults.runs import Lab

Wanted = Literal["bit-equal", "refused", "ended"]
"""bit-equal: the run ended as the undisturbed one. refused: what was damaged was not used, and said so by name.
ended: the run stopped as it should, with its line on every rank."""


class Found(NamedTuple):
    """What a case saw: how its job ended, what was wrong ("" for nothing), a note, and how many things it tried."""

    ended: Ended
    fault: str
    note: str = ""
    runs: int = 1


@dataclass(frozen=True)
class Outcome:
    """One run of a case. `fault` is "" when all is as it should be, else what was wrong."""

    group: str
    wanted: Wanted
    fault: str
    hang: bool
    left_behind: int
    seconds: float
    runs: int
    note: str
    waits: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready copy."""
        return asdict(self)


@dataclass(frozen=True)
class Case:
    """Something to inject. `group` is its row of the table, `key` names it among all cases."""

    key: str
    group: str
    wanted: Wanted
    run: Callable[[Lab, Path], Found]
    """Does it in an empty folder."""

    def outcome(self, lab: Lab) -> Outcome:
        """Run it; a hang and a process left behind are wrong whatever else it found."""
        try:
            ended, fault, note, runs = self.run(lab, lab.place(self.key))
        except Exception as err:  # the case's own mistake, or a job that is not there any more: the others go on
            ended, fault, note, runs = Ended(-1, 0.0, ()), f"{type(err).__name__}: {err}", "", 1
        if ended.left_behind:
            fault = f"processes left: {'; '.join(ended.left_behind)}" + (f"; {fault}" if fault else "")
        if ended.status is None and ended.waits:
            fault = f"waited for {', '.join(ended.waits)}; {fault}"
        if ended.status is None:
            fault = f"did not end within its timeout; {fault}"
        is_hang, left = ended.status is None, len(ended.left_behind)
        return Outcome(self.group, self.wanted, fault, is_hang, left, round(ended.seconds, 2), runs, note, ended.waits)


def table(outcomes: Iterable[Mapping[str, Any]]) -> str:
    """Return the outcomes as a Markdown table, one row a group, in order of appearance."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome["group"], []).append(outcome)
    rows = [_row(name, own) for name, own in groups.items()]
    if rows:
        rows.append(_row("**all**", [outcome for own in groups.values() for outcome in own]))
    head = "| what is done | runs | bit-equal | refused | ended in order | wrong | hangs | processes left | median |"
    return "\n".join([head, "|---|---:|---:|---:|---:|---:|---:|---:|---:|", *rows])


def _row(name: str, own: list[Mapping[str, Any]]) -> str:
    good = [outcome for outcome in own if not outcome["fault"]]
    counts = [_runs(outcome for outcome in good if outcome["wanted"] == wanted) or "" for wanted in get_args(Wanted)]
    wrong = len(own) - len(good)
    hangs = sum(outcome["hang"] for outcome in own)
    left = sum(outcome["left_behind"] for outcome in own)
    median = statistics.median(outcome["seconds"] for outcome in own)
    cells = [name, _runs(own), *counts, wrong, hangs, left, f"{median:.1f} s"]
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _runs(outcomes: Iterable[Mapping[str, Any]]) -> int:
    return sum(outcome["runs"] for outcome in outcomes)
