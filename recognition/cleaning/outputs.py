"""The files of a cleaning: decisions.jsonl with a line a picture, and the clean.lst that its lines make."""

from __future__ import annotations

import mmap
from array import array
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from recognition.cleaning.agreement import BLOCK, mean_cosines
from recognition.cleaning.context import Context
from recognition.cleaning.decision_file import (
    KINDS,
    MAX_BESIDE,
    Decision,
    parse_decision,
    read_decisions,
    render_decision,
)
from recognition.cleaning.decisions import MOVE, REASONS, STEP_OF, Decisions, doubt_of
from recognition.cleaning.output_folder import LST
from recognition.cleaning.pictures import group_rows
from recognition.cleaning.risk import decision_risks
from recognition.console import progress
from recognition.errors import DataError


def write_decisions(handle: TextIO, context: Context, decisions: Decisions) -> None:
    """Write a JSON object a picture, in their order; see docs/cleaning.md for its fields."""
    scores, beside = _centers(context, decisions)
    kept = decisions.reason == 0
    threshold = context.thresholds.get("far", context.thresholds.get("within"))
    score = np.where(kept, scores, decisions.score)
    doubt = decisions.doubt
    if threshold is not None:
        doubt = np.where(kept, doubt_of(scores, threshold, context.spread), doubt)
    risk = decision_risks(context, decisions, score)
    twins = _twins(context, decisions)
    rows = progress(range(len(kept)), total=len(kept), unit="picture", label="write", quiet=context.machine.quiet)
    for row in rows:
        line = _line(context, decisions, row, beside[decisions.identity[row]])
        handle.write(
            render_decision(
                replace(
                    line,
                    score=None if np.isnan(score[row]) else round(float(score[row]), 4),
                    doubt=round(float(doubt[row]), 3),
                    risk=None if np.isnan(risk[row]) else round(float(risk[row]), 4),
                    twin=context.pictures.name(twins[row]) if row in twins else None,
                )
            )
        )


def write_lst(decisions: Path, handle: TextIO) -> list[str]:
    """Write `index TAB label TAB path` for every picture kept, and return the names by label, which are sorted."""
    place = str(decisions)
    numbers: dict[str, int] = {}
    offsets, owners = array("q"), array("i")
    offset = 0
    with open(decisions, "rb") as lines:
        for text in lines:
            identity = parse_decision(place, text).final_identity
            if identity is not None:
                offsets.append(offset)
                owners.append(numbers.setdefault(identity, len(numbers)))
            offset += len(text)
        if not owners:
            raise DataError(f"{LST}: no picture is left; expected some; give lower thresholds")
        rank = np.empty(len(numbers), np.int64)
        rank[[numbers[identity] for identity in sorted(numbers)]] = np.arange(len(numbers))
        labels = rank[np.frombuffer(owners, np.int32)]
        content = mmap.mmap(lines.fileno(), 0, access=mmap.ACCESS_READ)
        for index, i in enumerate(np.argsort(labels, kind="stable").tolist()):
            start = offsets[i]
            picture = parse_decision(place, content[start : content.find(b"\n", start)]).picture
            handle.write(f"{index}\t{labels[i]}\t{picture}\n")
    return sorted(numbers)


def count_decisions(decisions: Path) -> dict[str, Any]:
    """Return how many pictures and identities there were and are, and how many decisions there are of each reason."""
    kinds: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    before, after = set[str](), set[str]()
    for line in read_decisions(decisions):
        kinds[line.decision] += 1
        reasons[line.reason] += 1
        before.add(line.identity)
        if line.final_identity is not None:
            after.add(line.final_identity)
    return {
        "pictures": {"before": kinds.total(), "after": kinds["keep"] + kinds["move"], "moved": kinds["move"]},
        "identities": {"before": len(before), "after": len(after)},
        "reasons": dict(sorted(reasons.items())),
    }


def _line(context: Context, decisions: Decisions, row: int, beside: np.ndarray) -> Decision:
    """Return the line of a picture, without its numbers."""
    action, reason = int(decisions.action[row]), REASONS[decisions.reason[row]]
    pictures = context.pictures
    return Decision(
        picture=pictures.name(row),
        identity=pictures.identities[pictures.labels[row]],
        decision=KINDS[action],
        to=decisions.identities[decisions.identity[row]] if action == MOVE else None,
        reason=reason,
        score=None,
        doubt=0.0,
        step=STEP_OF[reason],
        beside=tuple(pictures.name(other) for other in beside[beside >= 0]),
        quality=None if pictures.quality is None else round(float(pictures.quality[row]), 4),
    )


def _twins(context: Context, decisions: Decisions) -> dict[int, int]:
    """Return near-duplicate -> the picture that was kept in its place, as rows.

    A later step may have dropped that one too, with its whole identity.
    """
    again = decisions.reason == REASONS.index("near_duplicate")
    judged = ~np.isin(decisions.reason, [REASONS.index(name) for name in ("minority_cluster", "far_from_center")])
    groups = group_rows(decisions.identity, len(decisions.identities), judged)
    twins: dict[int, int] = {}
    for identity in np.unique(decisions.identity[again]).tolist():
        rows = groups.of(identity)
        units, doubled = context.pictures.units(rows), again[rows]
        if not doubled.all():
            nearest = (units[doubled] @ units[~doubled].T).argmax(1)
            twins.update(zip(rows[doubled].tolist(), rows[~doubled][nearest].tolist()))
    return twins


def _centers(context: Context, decisions: Decisions) -> tuple[np.ndarray, np.ndarray]:
    """Return each kept picture's mean cosine to its identity, and the rows [K, 3] nearest each identity's center.

    Of an identity that nothing is left of, the center is that of all the pictures that were dropped from it.
    """
    num = len(decisions.identities)
    is_left = np.bincount(decisions.identity[decisions.kept], minlength=num) > 0
    groups = group_rows(decisions.identity, num, decisions.kept | ~is_left[decisions.identity])
    scores = np.full(len(decisions.kept), np.nan, np.float32)
    beside = np.full((num, MAX_BESIDE), -1, np.int64)
    for block in groups.blocks(BLOCK):
        start = groups.starts[block.start]
        units = context.pictures.units(groups.rows[start : groups.starts[block.stop]])
        for identity in block:
            rows = groups.of(identity)
            own = units[groups.starts[identity] - start : groups.starts[identity + 1] - start]
            scores[rows] = mean_cosines(own, np.ones(len(rows), bool))
            nearest = rows[np.argsort(-np.round(scores[rows], 5), kind="stable")[:MAX_BESIDE]]
            beside[identity, : len(nearest)] = nearest
    return scores, beside
