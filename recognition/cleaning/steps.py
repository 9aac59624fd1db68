"""The cleaning steps in order; each is saved when it is done, so that a killed run continues after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from recognition.cleaning.between import merge_identities, move_misplaced
from recognition.cleaning.context import Context
from recognition.cleaning.decisions import (
    Changes,
    Decisions,
    all_kept,
    apply_changes,
    load_decisions,
    save_decisions,
)
from recognition.cleaning.exclusion import drop_small, drop_tested
from recognition.cleaning.within import drop_duplicates, drop_far, drop_minorities

STEP_FUNCTIONS: Mapping[str, Callable[[Context, Decisions], Changes]] = {
    "within": drop_minorities,
    "far": drop_far,
    "merge": merge_identities,
    "misplaced": move_misplaced,
    "duplicates": drop_duplicates,
    "tests": drop_tested,
    "small": drop_small,
}
"""The steps in the order in which they run by default."""


@dataclass(frozen=True)
class StepReport:
    """What a step did, and what is left after it: `pictures` are those before, less `dropped`, and `restored`, which
    an earlier step had dropped. `moved` of them lie in another identity than the one they came from."""

    step: str
    threshold: float | None
    dropped: int
    restored: int
    pictures: int
    moved: int
    identities: int


def run_steps(context: Context, steps: Sequence[str], work: Path | None) -> tuple[Decisions, list[StepReport]]:
    """Return the decisions after the steps and a report of each. With `work`, finished steps are read from there."""
    labels = context.pictures.labels
    decisions = all_kept(labels, context.pictures.identities)
    reports = []
    for number, step in enumerate(steps):
        path = None if work is None else work / f"{number}-{step}.npz"
        if path is not None and path.is_file():
            after = load_decisions(path)
        else:
            after = apply_changes(decisions, STEP_FUNCTIONS[step](context, decisions), labels)
            if path is not None:
                save_decisions(path, after)
        reports.append(_report(step, context.thresholds.get(step), decisions, after, labels))
        decisions = after
    return decisions, reports


def reports_as_json(reports: Sequence[StepReport]) -> list[dict[str, object]]:
    """Return the reports as plain values."""
    return [asdict(report) for report in reports]


def _report(step: str, threshold: float | None, before: Decisions, after: Decisions, labels: np.ndarray) -> StepReport:
    kept = after.kept
    return StepReport(
        step,
        threshold,
        dropped=int((before.kept & ~kept).sum()),
        restored=int((~before.kept & kept).sum()),
        pictures=int(kept.sum()),
        moved=int((kept & (after.identity != labels)).sum()),
        identities=len(np.unique(after.identity[kept])),
    )
