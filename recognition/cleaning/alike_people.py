"""Which of a set's people may be one person, by the embeddings of their pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recognition.cleaning.agreement import identity_means
from recognition.cleaning.between import agreeing_means
from recognition.cleaning.calibration import calibrate
from recognition.cleaning.linked_people import Link, People
from recognition.cleaning.pictures import Pictures, group_rows
from recognition.clustering.neighbors import nearest_neighbors
from recognition.errors import DataError

_COPIES = 16  # neighbors of a picture that are looked at


def alike(
    people: People, embeddings: Path, *, seed: int, device: str = "cpu", quiet: bool = True
) -> dict[str, set[Link]]:
    """Return people whose pictures agree, and people of whom two pictures are nearly the same.

    All thresholds come from the set's own scores. People are linked from a lower score on than `clean_faces.py` merges
    them at, which wants to be sure. N² products of pictures. Raises DataError when a picture has no embedding, or
    there are too few to read thresholds off.
    """
    pictures = Pictures(embeddings)
    rows = _rows_of(people, pictures, embeddings)
    try:
        calibration = calibrate(pictures, seed=seed)
    except DataError as err:
        raise DataError(
            f"{embeddings}: of {len(pictures):,} pictures, too few to read off which people are alike; expected 30 "
            "pairs within people and between them; leave --embeddings out"
        ) from err
    owners = np.full(len(pictures), -1, np.int32)
    owners[rows] = people.owners
    means = identity_means(pictures, group_rows(owners, len(people.names), owners >= 0))
    limits = calibration.link_thresholds(num_identities=len(people.names))
    first, second, cosines = agreeing_means(means, min(limits.values()), device=device, quiet=quiet)
    is_single = (means.counts[first] < 2) | (means.counts[second] < 2)
    linked = cosines >= np.where(is_single, limits["single"], limits["several"])
    threshold = calibration.thresholds(num_identities=len(people.names))["duplicates"]
    graph = nearest_neighbors(pictures.units(rows), _COPIES, threshold=threshold, device=device, progress=not quiet)
    near = np.stack([people.owners[graph.first], people.owners[graph.second]], axis=1)
    return {
        "people alike": {(int(a), int(b)) for a, b in zip(first[linked], second[linked])},
        "pictures alike": {(int(a), int(b)) for a, b in near[near[:, 0] != near[:, 1]]},
    }


def _rows_of(people: People, pictures: Pictures, embeddings: Path) -> np.ndarray:
    """Return the row of the embeddings of each listed picture, int64 [n]."""
    row_of = {pictures.name(row): row for row in range(len(pictures))}
    missing = [name for own in people.pictures for name in own if name not in row_of]
    if missing:
        raise DataError(
            f"{embeddings}: no embedding of {missing[0]!r} and {len(missing) - 1:,} more; expected one of every "
            "picture listed; give the embeddings of this set"
        )
    return np.array([row_of[name] for own in people.pictures for name in own], np.int64)
