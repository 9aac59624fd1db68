"""Which of a picture's faces are kept, by boxes whose areas and distances are round numbers."""

from __future__ import annotations

import numpy as np
import pytest

from recognition.detection.choice import Policy, choose_faces
from recognition.detection.faces import Faces, no_faces

PICTURE = (400, 600)  # its center is (300, 200)


def _faces(*boxes: tuple[float, float, float, float]) -> Faces:
    """Return faces of (center x, center y, width, height)."""
    corners = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in boxes]
    num = len(boxes)
    return Faces(np.array(corners, np.float32), np.zeros((num, 5, 2), np.float32), np.ones(num, np.float32))


@pytest.mark.parametrize(("away_px", "chosen"), [(50, 0), (60, 1)])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_central_face_is_weighed_by_twice_its_squared_distance(away_px: float, chosen: int, axis: int) -> None:
    """10,000 - 2 x 50² = 5,000 and 10,000 - 2 x 60² = 2,800, against 4,000 in the very center.

    With once the square the large face would win both times, with three times neither.
    """
    at = np.array([300.0, 200.0])
    at[axis] += away_px
    faces = _faces((at[0], at[1], 100, 100), (300, 200, 80, 50))
    assert choose_faces(faces, "center", PICTURE).tolist() == [chosen]


@pytest.mark.parametrize(("policy", "chosen"), [("largest", [1]), ("all", [1, 0]), ("refuse", []), ("center", [0])])
def test_each_policy_keeps_its_own(policy: Policy, chosen: list[int]) -> None:
    faces = _faces((300, 200, 60, 60), (100, 100, 100, 100))
    assert choose_faces(faces, policy, PICTURE).tolist() == chosen
    assert choose_faces(no_faces(), policy, PICTURE).tolist() == []
    alone = _faces((100, 100, 20, 20))
    assert choose_faces(alone, policy, PICTURE).tolist() == [0]
