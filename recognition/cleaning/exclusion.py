"""The steps that drop whole identities: everybody who is in a test set, and identities left with too few pictures."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from recognition.cleaning.agreement import BLOCK, greatest_scores, identity_means
from recognition.cleaning.context import Context
from recognition.cleaning.decisions import REASONS, Changes, Decisions, doubt_of
from recognition.cleaning.pictures import Groups, group_rows
from recognition.clustering.unit_rows import unit_rows
from recognition.console import count, progress
from recognition.errors import DataError
from recognition.formats.name_list import read_names
from recognition.formats.text_lines import same_accents

logger = logging.getLogger(__name__)

_MAX_NAMED = 5  # names that no identity has; the rest are counted


def drop_tested(context: Context, decisions: Decisions) -> Changes:
    """Drop the identities with which a picture of a test set agrees, and those with the name of one in it.

    A picture agrees when its mean cosine to the identity's pictures reaches the threshold.
    """
    threshold = context.thresholds["tests"]
    groups = group_rows(decisions.identity, len(decisions.identities), decisions.kept)
    best = np.full(len(decisions.identities), -np.inf, np.float32)
    if context.settings.against:
        means = identity_means(context.pictures, groups)
        for vectors in _test_blocks(context):
            best = np.maximum(best, greatest_scores(vectors, means, device=context.machine.device))
    named = _named(context.settings.against_names, decisions.identities)
    came_named = named[context.pictures.labels] & decisions.kept
    # Merged into another, a person of a test set takes all of it along; moved images go by themselves.
    merged = came_named & (decisions.reason == REASONS.index("merged"))
    named[np.unique(decisions.identity[merged])] = True
    moved = np.flatnonzero(came_named & ~named[decisions.identity])
    found = (best >= threshold) | named
    rows, owners = _rows_of(groups, np.flatnonzero(found))
    moved = moved[~found[decisions.identity[moved]]]
    rows, owners = np.concatenate([rows, moved]), np.concatenate([owners, context.pictures.labels[moved]])
    score = np.where(np.isfinite(best), best, np.nan)[owners].astype(np.float32)
    doubt = np.where(named[owners], 0, doubt_of(score, threshold, context.spread)).astype(np.float32)
    return Changes("in_test_set", rows, score, doubt)


def drop_small(context: Context, decisions: Decisions) -> Changes:
    """Drop identities that have fewer pictures left than an identity needs."""
    groups = group_rows(decisions.identity, len(decisions.identities), decisions.kept)
    rows, _ = _rows_of(groups, np.flatnonzero(groups.counts < context.settings.least_pictures))
    return Changes("small_identity", rows, np.full(len(rows), np.nan, np.float32), np.zeros(len(rows), np.float32))


def plain_name(name: str) -> str:
    """Return a name without what spellings differ in: case, how its words are joined, and how accents are composed."""
    folded = same_accents(same_accents(name).casefold())
    return " ".join(folded.replace("_", " ").replace("-", " ").split())


def check_names(paths: Iterable[Path], identities: Sequence[str]) -> None:
    """Warn of the names in lists of a test set that no identity has; DataError for a list of which none has any."""
    for path, entries, missed in _matched(paths, identities, np.zeros(len(identities), bool)):
        named = ", ".join(missed[:_MAX_NAMED]) + (", ..." if len(missed) > _MAX_NAMED else "")
        found = f"{len(missed):,} of {count(entries, 'name')} are no identity's: {named}"
        if len(missed) == entries:
            example = f", such as {min(identities)!r}" if identities else ""
            raise DataError(f"{path}: {found}; expected names of the faces' folders{example}; check the list")
        if missed:
            logger.warning("%s: %s", path, found)


def _test_blocks(context: Context) -> Iterator[np.ndarray]:
    """Yield the unit embeddings of the test pictures, block by block."""
    assert context.embed_set is not None, "test sets need a way to embed them"
    for number, path in enumerate(context.settings.against):
        vectors = context.embed_set(path, number)
        if vectors.shape[1] != context.pictures.dimension:
            raise DataError(
                f"{path}: embeds to {vectors.shape[1]} numbers, the faces to {context.pictures.dimension}; expected "
                "the same network; give --model the one that embedded the faces"
            )
        blocks = range(0, len(vectors), BLOCK)
        for start in progress(blocks, total=len(blocks), unit="block", label="tests", quiet=context.machine.quiet):
            yield unit_rows(vectors, range(start, min(len(vectors), start + BLOCK)))


def _named(paths: Iterable[Path], identities: Sequence[str]) -> np.ndarray:
    """Return bool [K]: whether each identity has the name of one in a test set."""
    named = np.zeros(len(identities), bool)
    for _ in _matched(paths, identities, named):
        pass
    return named


def _matched(
    paths: Iterable[Path], identities: Sequence[str], named: np.ndarray
) -> Iterator[tuple[Path, int, list[str]]]:
    """Yield each list with how many names it has and those of no identity; marks the others in `named` [K]."""
    known: dict[str, list[int]] = {}
    for number, identity in enumerate(identities):
        known.setdefault(plain_name(identity), []).append(number)
    for path in paths:
        entries = read_names(path)
        missed = []
        for spellings in entries:
            found = next((known[plain] for name in spellings if (plain := plain_name(name)) in known), None)
            if found is None:
                missed.append(spellings[0])
            else:
                named[found] = True
        yield path, len(entries), missed


def _rows_of(groups: Groups, identities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of some identities, and the identity of each row."""
    parts = [groups.of(identity) for identity in identities]
    rows = np.concatenate([np.zeros(0, np.int64), *parts])
    return rows, np.repeat(identities, [len(part) for part in parts])
