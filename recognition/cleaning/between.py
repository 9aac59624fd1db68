"""The steps that compare identities: those that are one person, and pictures that sit in another's identity."""

from __future__ import annotations

import numpy as np

from recognition.cleaning.agreement import BLOCK, Means, identity_means, mean_cosines, nearest_mean
from recognition.cleaning.context import Context
from recognition.cleaning.decisions import DROP, REASONS, Changes, Decisions, doubt_of, no_changes
from recognition.cleaning.pictures import Groups, group_rows
from recognition.clustering.neighbors import nearest_neighbors
from recognition.console import progress

_NEIGHBORS = 16
_DOUBTED = tuple(REASONS.index(reason) for reason in ("minority_cluster", "far_from_center"))


def merge_identities(context: Context, decisions: Decisions) -> Changes:
    """Move the pictures of identities that are one person to the one of them with the most pictures.

    Two are one when the mean cosine between their pictures reaches the threshold. Larger ones come first, and each is
    merged with the nearest of those before it that were not: with that one it agrees itself, so there are no chains.
    An identity of a single picture is not merged: among many identities one that agrees by chance is always found.
    """
    threshold = context.thresholds["merge"]
    groups = group_rows(decisions.identity, len(decisions.identities), decisions.kept)
    means = identity_means(context.pictures, groups)
    heads = _heads(
        means, *agreeing_means(means, threshold, least=2, device=context.machine.device, quiet=context.machine.quiet)
    )
    if not heads:
        return no_changes("merged")
    rows = [groups.of(identity) for identity in heads]
    sizes = [len(part) for part in rows]
    to = np.repeat(np.array([head for head, _ in heads.values()], np.int32), sizes)
    score = np.repeat(np.array([cosine for _, cosine in heads.values()], np.float32), sizes)
    return Changes("merged", np.concatenate(rows), score, doubt_of(score, threshold, context.spread), to)


def move_misplaced(context: Context, decisions: Decisions) -> Changes:
    """Move pictures that agree with another identity, and clearly better than with their own.

    Pictures that were dropped for not agreeing with their identity are asked too, and come back where they belong. The
    other's mean cosine has to reach the threshold and exceed the own one by a fourth of the way from wrong to right.
    An identity of a single picture neither gives nor takes.
    """
    threshold, margin = context.thresholds["misplaced"], context.spread / 2
    groups = group_rows(decisions.identity, len(decisions.identities), decisions.kept)
    means = identity_means(context.pictures, groups)
    doubted = (decisions.action == DROP) & np.isin(decisions.reason, _DOUBTED)
    asked = group_rows(decisions.identity, len(decisions.identities), decisions.kept | doubted)
    blocks = list(asked.blocks(BLOCK))
    shown = progress(blocks, total=len(blocks), unit="block", label="misplaced", quiet=context.machine.quiet)
    found = [_misplaced(context, decisions, means, asked, block) for block in shown]
    rows, to, score, own = (np.concatenate(column) for column in zip(*found))
    moved = (score >= threshold) & ~(score < own + margin)
    doubt = np.maximum(
        doubt_of(score, threshold, context.spread), doubt_of(score - np.nan_to_num(own, nan=-1), margin, context.spread)
    )
    return Changes("other_identity", rows[moved], score[moved], doubt[moved], to[moved])


def agreeing_means(
    means: Means, threshold: float, *, least: int = 1, device: str = "cpu", quiet: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return first, second and mean cosine of identities of `least` pictures or more that agree.

    Of each identity the 16 nearest others are looked at. The graph compares the means as if of length one, and so
    holds every pair wanted and some more.
    """
    filled = np.flatnonzero(means.counts >= least)
    graph = nearest_neighbors(
        means.vectors[filled],
        _NEIGHBORS,
        threshold=min(threshold, 0.9999) - 1e-4,
        device=device,
        progress=not quiet,
    )
    first, second = filled[graph.first], filled[graph.second]
    cosines = np.concatenate(
        [
            np.zeros(0, np.float32),
            *(
                np.einsum("md,md->m", means.vectors[first[i : i + BLOCK]], means.vectors[second[i : i + BLOCK]])
                for i in range(0, len(first), BLOCK)
            ),
        ]
    )
    agree = cosines >= threshold
    return first[agree], second[agree], cosines[agree]


def _heads(means: Means, first: np.ndarray, second: np.ndarray, cosines: np.ndarray) -> dict[int, tuple[int, float]]:
    """Return identity -> the identity it is merged into and their mean cosine."""
    partners: dict[int, list[tuple[float, int]]] = {}
    for a, b, cosine in zip(first.tolist(), second.tolist(), cosines.tolist()):
        partners.setdefault(a, []).append((cosine, b))
        partners.setdefault(b, []).append((cosine, a))
    heads: dict[int, tuple[int, float]] = {}
    seen: set[int] = set()
    for identity in sorted(partners, key=lambda i: (-int(means.counts[i]), i)):
        seen.add(identity)
        larger = [(cosine, -other) for cosine, other in partners[identity] if other in seen and other not in heads]
        if larger:
            cosine, head = max(larger)
            heads[identity] = (-head, cosine)
    return heads


def _misplaced(
    context: Context, decisions: Decisions, means: Means, asked: Groups, block: range
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return rows, the nearest other identity of each, its mean cosine, and that of the picture's own identity."""
    rows = asked.rows[asked.starts[block.start] : asked.starts[block.stop]]
    units = context.pictures.units(rows)
    owner, kept = decisions.identity[rows], decisions.kept[rows]
    score, to = nearest_mean(units, means, excluded=owner, least=2, device=context.machine.device)
    own = np.full(len(rows), np.nan, np.float32)
    for identity in block:
        at = slice(*(asked.starts[identity : identity + 2] - asked.starts[block.start]))
        own[at] = mean_cosines(units[at], kept[at])
    # A picture alone in its identity has no score of its own to compare with.
    score[kept & np.isnan(own)] = -np.inf
    return rows, to, score, own
