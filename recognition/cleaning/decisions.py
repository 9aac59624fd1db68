"""What is decided about every picture, as columns; a step returns changes, and these make new columns. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from recognition.work.files import staged

KEEP, DROP, MOVE = 0, 1, 2  # their words are decision_file.KINDS, in this order

STEPS = ("within", "far", "merge", "misplaced", "duplicates", "tests", "small")
"""The steps in the order in which they run by default."""

REASONS = (
    "kept",
    "minority_cluster",
    "far_from_center",
    "merged",
    "other_identity",
    "near_duplicate",
    "in_test_set",
    "small_identity",
)
STEP_OF = dict(zip(REASONS, ("", *STEPS)))
"""The step that gives each reason."""


@dataclass(frozen=True)
class Decisions:
    """Columns [n]: the action, the identity the picture belongs to (or was judged by), why, and how sure it is.

    `identities` names them: those of the input, then those that were split off. `score` is the cosine that decided,
    nan where none did; `doubt` is 1 on the threshold and 0 far from it.
    """

    identities: list[str]
    action: np.ndarray  # uint8
    identity: np.ndarray  # int32
    reason: np.ndarray  # uint8, index into REASONS
    score: np.ndarray  # float32
    doubt: np.ndarray  # float32

    @property
    def kept(self) -> np.ndarray:
        """Bool [n]: which pictures stay in the set."""
        kept: np.ndarray = self.action != DROP
        return kept


@dataclass(frozen=True)
class Changes:
    """What a step changes: rows [m] and their new columns; `new_identities` are added behind those there are."""

    reason: str
    rows: np.ndarray
    score: np.ndarray
    doubt: np.ndarray
    to: np.ndarray | None = None  # the identity each moves to; None: all are dropped; -1: this one is dropped
    new_identities: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)


def all_kept(labels: np.ndarray, identities: list[str]) -> Decisions:
    """Return the decisions before the first step."""
    num = len(labels)
    return Decisions(
        list(identities),
        np.zeros(num, np.uint8),
        labels.copy(),
        np.zeros(num, np.uint8),
        np.full(num, np.nan, np.float32),
        np.zeros(num, np.float32),
    )


def apply_changes(decisions: Decisions, changes: Changes, labels: np.ndarray) -> Decisions:
    """Return the decisions with the changes made; a picture moved back to its own label is kept."""
    columns = {name: getattr(decisions, name).copy() for name in ("action", "identity", "reason", "score", "doubt")}
    rows = changes.rows
    to = np.full(len(rows), -1, np.int32) if changes.to is None else changes.to
    moves = to >= 0
    columns["action"][rows] = np.where(moves, np.where(to == labels[rows], KEEP, MOVE), DROP)
    columns["identity"][rows] = np.where(moves, to, columns["identity"][rows])
    columns["reason"][rows] = REASONS.index(changes.reason)
    columns["score"][rows], columns["doubt"][rows] = changes.score, changes.doubt
    return replace(decisions, identities=[*decisions.identities, *changes.new_identities], **columns)


def no_changes(reason: str) -> Changes:
    """Return the changes of a step that found nothing."""
    return Changes(reason, np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.float32))


def doubt_of(score: np.ndarray, threshold: float, spread: float) -> np.ndarray:
    """Return 1 where a score is on the threshold, falling to 0 at a distance of `spread`; 0 where there is no score."""
    return np.nan_to_num(np.clip(1 - np.abs(score - threshold) / spread, 0, 1)).astype(np.float32)


def save_decisions(path: Path, decisions: Decisions) -> None:
    """Write the columns and names to one .npz, by rename."""
    names = np.frombuffer("\n".join(decisions.identities).encode("utf-8", "surrogateescape"), np.uint8)
    columns = {name: getattr(decisions, name) for name in ("action", "identity", "reason", "score", "doubt")}
    with staged(path) as (temporary,), open(temporary, "wb") as handle:
        np.savez(handle, names=names, **columns)


def load_decisions(path: Path) -> Decisions:
    """Read what `save_decisions` wrote."""
    with np.load(path, allow_pickle=False) as content:
        columns = {name: content[name] for name in ("action", "identity", "reason", "score", "doubt")}
        names = content["names"].tobytes().decode("utf-8", "surrogateescape").split("\n")
    return Decisions(names, **columns)
