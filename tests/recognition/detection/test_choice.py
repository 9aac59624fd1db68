"""Which of several faces is meant: a clearly better score comes first, then size or place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recognition.detection.choice import CERTAINTY, Certainty, Policy, choose_faces
from recognition.detection.detectors import build_detector, detect_within
from recognition.detection.faces import Faces
from recognition.images.photos import decode_photo
from tests.helpers.places import GOLDEN, MULTIFACE, needs_photos

SURE = Certainty(unsure=0.5, sure=0.9)


def faces(*found: tuple[float, float, float, float]) -> Faces:
    """Return faces of (center x, center y, side, score)."""
    boxes = np.array([[x - s / 2, y - s / 2, x + s / 2, y + s / 2] for x, y, s, _ in found], np.float32)
    return Faces(boxes, np.zeros((len(found), 5, 2), np.float32), np.array([f[3] for f in found], np.float32))


@pytest.mark.parametrize("policy", ["largest", "center"])
def test_an_unsure_find_is_passed_over_where_there_is_a_sure_face(policy: Policy) -> None:
    mug = faces((50, 50, 60, 0.4), (40, 40, 30, 0.95))
    assert choose_faces(mug, policy, (100, 100), SURE).tolist() == [1]
    assert choose_faces(mug, policy, (100, 100)).tolist() == [0]
    all_unsure = faces((50, 50, 60, 0.4), (40, 40, 30, 0.45))
    assert choose_faces(all_unsure, policy, (100, 100), SURE).tolist() == [0]
    nearly_as_sure = faces((50, 50, 60, 0.6), (40, 40, 30, 0.95))
    assert choose_faces(nearly_as_sure, policy, (100, 100), SURE).tolist() == [0]


def test_the_other_policies_count_every_face() -> None:
    mug = faces((50, 50, 60, 0.4), (40, 40, 30, 0.95))
    assert choose_faces(mug, "all", (100, 100), SURE).tolist() == [0, 1]
    assert choose_faces(mug, "refuse", (100, 100), SURE).tolist() == []


def marks(kind: str) -> list[tuple[str, dict[Policy, list[tuple[float, float]]]]]:
    found = []
    for line in (GOLDEN / "meant_faces.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, of_kind, largest, center = (part.strip() for part in line.split("|"))
            points = [[(float(x), float(y)) for x, y in map(str.split, p.split(","))] for p in (largest, center)]
            if of_kind == kind:
                found.append((name, dict(zip(("largest", "center"), points))))
    return found  # type: ignore[return-value]


def meant(found: Faces, points: list[tuple[float, float]], picture: tuple[int, int]) -> set[int]:
    """Return which faces the marks mean: the nearest to each, unless it is two widths away and so was not found."""
    centers, widths = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2, found.boxes[:, 2] - found.boxes[:, 0]
    chosen = set()
    for x, y in points:
        away = np.linalg.norm(centers - (x * picture[1], y * picture[0]), axis=1)
        if away.min() < 2 * widths[away.argmin()]:
            chosen.add(int(away.argmin()))
    return chosen


@pytest.mark.slow
@needs_photos(MULTIFACE)
@pytest.mark.parametrize("name", ["mtcnn", "dlib"])
def test_the_marked_face_is_chosen_in_nineteen_of_twenty_photos(name: str) -> None:
    pytest.importorskip("dlib" if name == "dlib" else "torch")
    detector = build_detector(name)
    wrong: dict[str, list[str]] = {"largest": [], "center": []}
    right = dict.fromkeys(wrong, 0)
    for photo, points in marks("photo"):
        rgb = decode_photo(Path(MULTIFACE / photo).read_bytes(), place=photo)
        picture = (rgb.shape[0], rgb.shape[1])
        found = detect_within(detector, rgb, 1600)
        found = found.select(np.flatnonzero(found.scores >= CERTAINTY[name].least))
        for policy, wanted in points.items():
            if len(found) < 2 or not (expected := meant(found, wanted, picture)):
                continue
            chosen = int(choose_faces(found, policy, picture, CERTAINTY[name])[0])
            right[policy] += chosen in expected
            wrong[policy] += [] if chosen in expected else [photo]
    for policy, missed in wrong.items():
        assert len(missed) <= max(1, 0.05 * (right[policy] + len(missed))), (policy, missed)
        assert right[policy] >= 15
