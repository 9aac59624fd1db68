"""The steps that look at one identity at a time: minority clusters, pictures far from the center, near duplicates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recognition.cleaning.agreement import (
    BLOCK,
    agreeing,
    block_clusters,
    main_cluster,
    mean_cosines,
    pairs_within,
)
from recognition.cleaning.context import Context
from recognition.cleaning.decisions import Changes, Decisions, doubt_of, no_changes
from recognition.cleaning.pictures import group_rows
from recognition.console import progress


@dataclass(frozen=True)
class Member:
    """One identity's pictures in a block: its number, their rows [m], their unit embeddings and their clusters."""

    identity: int
    rows: np.ndarray
    units: np.ndarray
    clusters: np.ndarray


def drop_minorities(context: Context, decisions: Decisions) -> Changes:
    """Cluster each identity and drop what is not in its largest cluster; with `split`, large others stand alone.

    A picture outside that agrees with the largest cluster as well as the step `far` asks stays all the same: whispers
    leave single pictures alone that have one weak neighbor.
    """
    threshold = context.thresholds["within"]
    enough = context.thresholds.get("far", threshold)
    rows, scores, to, names = [], [], [], list[str]()
    taken = set(decisions.identities)
    for own in _identities(context, decisions, "within", threshold):
        if own.clusters.max() == own.clusters.min():
            continue
        inside = own.clusters == main_cluster(own.clusters, own.units)
        score = mean_cosines(own.units, inside)
        away = ~inside & ~(score >= enough)
        rows.append(own.rows[away])
        scores.append(score[away])
        target = np.full(len(own.rows), -1, np.int32)
        for cluster in _large_clusters(own.clusters[away], context.settings.split):
            target[away & (own.clusters == cluster)] = len(decisions.identities) + len(names)
            names.append(_free_name(decisions.identities[own.identity], taken))
        to.append(target[away])
    return _changes(context, "minority_cluster", enough, rows, scores, to, names)


def drop_far(context: Context, decisions: Decisions) -> Changes:
    """Drop pictures whose mean cosine to the agreeing pictures of their identity is below the threshold.

    A picture that is alone in its identity stays.
    """
    threshold = context.thresholds["far"]
    rows, scores = [], []
    for own in _identities(context, decisions, "far", None):
        everyone = np.ones(len(own.rows), bool)
        score = mean_cosines(own.units, agreeing(own.units, everyone, threshold))
        away = score < threshold
        rows.append(own.rows[away])
        scores.append(score[away])
    return _changes(context, "far_from_center", threshold, rows, scores)


def drop_duplicates(context: Context, decisions: Decisions) -> Changes:
    """Of pictures that are nearly the same keep the one that agrees best with its identity.

    Pictures are taken in that order; one is dropped when its cosine to one that stays is above the threshold.
    """
    threshold = context.thresholds["duplicates"]
    rows, scores = [], []
    for own in _identities(context, decisions, "duplicates", None):
        first, second, cosines = pairs_within(own.units, threshold)
        if len(first):
            order = np.argsort(-np.round(mean_cosines(own.units, np.ones(len(own.rows), bool)), 5), kind="stable")
            dropped = _shadowed(order, first, second, cosines)
            rows.append(own.rows[list(dropped)])
            scores.append(np.array(list(dropped.values()), np.float32))
    return _changes(context, "near_duplicate", threshold, rows, scores, spread=1 - threshold)


def _identities(context: Context, decisions: Decisions, label: str, threshold: float | None) -> Iterator[Member]:
    """Yield identities of two kept pictures or more; with a `threshold` their rows are clustered at it."""
    groups = group_rows(decisions.identity, len(decisions.identities), decisions.kept)
    blocks = groups.blocks(BLOCK)
    for block in progress(blocks, total=None, unit="block", label=label, quiet=context.machine.quiet):
        starts = groups.starts[block.start : block.stop + 1] - groups.starts[block.start]
        rows = groups.rows[groups.starts[block.start] : groups.starts[block.stop]]
        if len(rows) == 0:
            continue
        units = context.pictures.units(rows)
        clusters = np.zeros(len(rows), np.int32)
        if threshold is not None:
            clusters = block_clusters(units, starts, threshold, seed=context.settings.seed)
        for identity, a, b in zip(block, starts, starts[1:]):
            if b - a > 1:
                yield Member(identity, rows[a:b], units[a:b], clusters[a:b])


def _large_clusters(clusters: np.ndarray, least: int | None) -> np.ndarray:
    if least is None:
        return np.zeros(0, np.int64)
    return np.flatnonzero(np.bincount(clusters, minlength=1) >= least)


def _free_name(identity: str, taken: set[str]) -> str:
    """Return "identity (2)", or the next number that is free, and take it."""
    number = 2
    while f"{identity} ({number})" in taken:
        number += 1
    taken.add(f"{identity} ({number})")
    return f"{identity} ({number})"


def _shadowed(order: np.ndarray, first: np.ndarray, second: np.ndarray, cosines: np.ndarray) -> dict[int, float]:
    """Return the pictures that are nearly the same as one before them in `order` that stays, with that cosine."""
    partners: dict[int, dict[int, float]] = {}
    for a, b, cosine in zip(first.tolist(), second.tolist(), cosines.tolist()):
        partners.setdefault(a, {})[b] = cosine
        partners.setdefault(b, {})[a] = cosine
    staying: set[int] = set()
    dropped: dict[int, float] = {}
    for picture in order.tolist():
        near = [cosine for other, cosine in partners.get(picture, {}).items() if other in staying]
        if near:
            dropped[picture] = max(near)
        else:
            staying.add(picture)
    return dropped


def _changes(
    context: Context,
    reason: str,
    threshold: float,
    rows: list[np.ndarray],
    scores: list[np.ndarray],
    to: list[np.ndarray] | None = None,
    new_identities: list[str] | None = None,
    *,
    spread: float | None = None,
) -> Changes:
    if not rows:
        return no_changes(reason)
    score = np.concatenate(scores)
    doubt = doubt_of(score, threshold, spread or context.spread)
    targets = None if to is None else np.concatenate(to)
    return Changes(reason, np.concatenate(rows), score, doubt, targets, new_identities or [])
