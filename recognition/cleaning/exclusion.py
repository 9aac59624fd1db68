"""The steps that drop whole identities: everybody who is in a test set, and identities left with too few pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from recognition.cleaning.agreement import BLOCK, greatest_scores, identity_means
from recognition.cleaning.context import Context
from recognition.cleaning.decisions import Changes, Decisions, doubt_of
from recognition.cleaning.pictures import Groups, group_rows
from recognition.clustering.unit_rows import unit_rows
from recognition.console import progress
from recognition.errors import DataError
from recognition.formats.image_tree import identity_folders


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
    named = _named(context, decisions.identities)
    found = (best >= threshold) | named
    rows, owners = _rows_of(groups, np.flatnonzero(found))
    score = np.where(np.isfinite(best), best, np.nan)[owners].astype(np.float32)
    doubt = np.where(named[owners], 0, doubt_of(score, threshold, context.spread)).astype(np.float32)
    return Changes("in_test_set", rows, score, doubt)


def drop_small(context: Context, decisions: Decisions) -> Changes:
    """Drop identities that have fewer pictures left than an identity needs."""
    groups = group_rows(decisions.identity, len(decisions.identities), decisions.kept)
    rows, _ = _rows_of(groups, np.flatnonzero(groups.counts < context.settings.least_pictures))
    return Changes("small_identity", rows, np.full(len(rows), np.nan, np.float32), np.zeros(len(rows), np.float32))


def read_names(path: Path) -> list[str]:
    """Return the names of the folders in `path`, or the lines of a text file; DataError when there are none."""
    try:
        if path.is_dir():
            names = identity_folders(path)
        else:
            names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as err:
        raise DataError(f"{path}: cannot be read ({err}); expected a folder of identities or a list of names") from err
    if not names:
        raise DataError(
            f"{path}: holds no names; expected a folder for each identity, or a name a line; check the path"
        )
    return names


def plain_name(name: str) -> str:
    """Return a name without what spellings differ in: case, and how its words are joined."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


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


def _named(context: Context, identities: list[str]) -> np.ndarray:
    """Return bool [K]: whether each identity has the name of one in a test set."""
    names = {plain_name(name) for path in context.settings.against_names for name in read_names(path)}
    return np.array([bool(names) and plain_name(identity) in names for identity in identities], bool)


def _rows_of(groups: Groups, identities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of some identities, and the identity of each row."""
    parts = [groups.of(identity) for identity in identities]
    rows = np.concatenate([np.zeros(0, np.int64), *parts])
    return rows, np.repeat(identities, [len(part) for part in parts])
