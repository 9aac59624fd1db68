"""Landmarks that fit no face are told apart from faces, and the likely cause is named."""

from __future__ import annotations

import numpy as np
import pytest

from recognition.detection.alignment import ARCFACE_TEMPLATE, similarity
from recognition.detection.landmark_fit import file_trouble, landmark_trouble, misfit
from tests.helpers.places import LFW, needs_photos

SWAPPED = [1, 0, 2, 4, 3]


def faces(num: int = 40, *, turned: float = 0.3) -> np.ndarray:
    """Return landmarks [num, 5, 2] of faces about 100, 90 in a photo of 200 x 180, turned and bent a little."""
    generator = np.random.default_rng(0)
    points = np.tile((ARCFACE_TEMPLATE - 56) * 0.9, (num, 1, 1)) + generator.normal(0, 2, (num, 5, 2))
    angles = generator.uniform(-turned, turned, num)
    turns = np.stack([[np.cos(angles), -np.sin(angles)], [np.sin(angles), np.cos(angles)]]).transpose(2, 0, 1)
    return points @ turns + (100, 90)


def test_the_misfit_is_what_the_similarity_leaves() -> None:
    """Against the alignment itself: transform, and measure what is left."""
    points = np.concatenate([faces(), faces()[:, SWAPPED], np.random.default_rng(1).normal(50, 20, (40, 5, 2))])
    expected = []
    for landmarks in points:
        matrix = similarity(landmarks, ARCFACE_TEMPLATE)
        aligned = landmarks @ matrix[:, :2].T + matrix[:, 2]
        expected.append(np.sqrt(((aligned - ARCFACE_TEMPLATE) ** 2).sum(1).mean()))
    assert np.allclose(misfit(points)[0], expected, atol=1e-9)
    assert misfit(np.ones((1, 5, 2)))[0][0] == np.inf


WRONG = {
    "they are x1..x5 y1..y5;": lambda p: p.transpose(0, 2, 1).reshape(-1, 5, 2),
    "left and right are exchanged;": lambda p: p[:, SWAPPED],
    "y is before x;": lambda p: p[..., ::-1],
    "y is before x, and left and right are exchanged;": lambda p: p[:, SWAPPED][..., ::-1],
    "in the order eye, eye, mouth, mouth, nose;": lambda p: p[:, [0, 1, 3, 4, 2]],
    "in the order nose, eye, eye, mouth, mouth;": lambda p: p[:, [2, 0, 1, 3, 4]],
    "most landmarks reach outside their photos (in the median 1.": lambda p: p / 0.6,
    "are fractions of the photos' sides": lambda p: p / (200, 180),
    "most landmarks lie beside their photos": lambda p: p - 500,
    "apart in the median: the landmarks are of smaller photos": lambda p: p / 8,
}


@pytest.mark.parametrize("cause", WRONG)
def test_a_wrong_file_is_stopped_with_its_cause(cause: str) -> None:
    found = file_trouble(WRONG[cause](faces()), [(180, 200)] * 30)
    assert found is not None and cause in found


def test_right_files_pass_also_with_some_wrong_rows_and_turned_faces() -> None:
    points = faces(turned=0.8)
    assert file_trouble(points, [(180, 200)] * 40) is None
    points[::3] = points[::3, SWAPPED]
    assert file_trouble(points, [(180, 200)] * 40) is None


def test_a_row_is_told_by_its_status() -> None:
    good = faces(1)[0]
    assert landmark_trouble(good, (180, 200)) is None
    for landmarks, status in (
        (good[SWAPPED], "misfit"),
        (good + (95, 0), "outside"),
        (good - (0, 95), "outside"),
        (good / 6, "too_small"),
    ):
        trouble = landmark_trouble(landmarks, (180, 200))
        assert trouble is not None and trouble[0] == status
    assert landmark_trouble(good[SWAPPED], (180, 200), max_misfit_px=30) is None


@needs_photos(LFW)
def test_lfws_own_landmarks_fit_and_none_of_their_wrong_orders_does() -> None:
    rows = [line.split() for line in (LFW / "landmarks5.txt").read_text().splitlines()]
    points = np.array([row[1:] for row in rows], float).reshape(-1, 5, 2) * 0.6
    sizes = [(150, 150)] * len(points)
    assert file_trouble(points, sizes) is None
    assert sum(landmark_trouble(row, (150, 150)) is not None for row in points) <= 0.005 * len(points)
    for cause in list(WRONG)[:5]:
        found = file_trouble(WRONG[cause](points), sizes)
        assert found is not None and cause in found
    for scaled, cause in ((points / 0.6, "reach outside"), (points / 150, "fractions"), (points - 500, "lie beside")):
        found = file_trouble(scaled, sizes)
        assert found is not None and cause in found
