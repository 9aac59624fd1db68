"""Which of a picture's faces are meant."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from recognition.detection.faces import Faces, box_areas

Policy = Literal["largest", "center", "all", "refuse"]
POLICIES: tuple[Policy, ...] = get_args(Policy)


def choose_faces(faces: Faces, policy: Policy, picture: tuple[int, int]) -> np.ndarray:
    """Return the indices of the faces to keep in a picture of (height, width).

    "largest" keeps the largest box; "center" the one with the largest area - 2 * squared distance from the picture's
    center, which is insightface's choice for its .bin files; "all" every face, the largest first; "refuse" the face of
    a picture with one, and none of several.
    """
    areas = box_areas(faces.boxes)
    by_area = np.argsort(-areas, kind="stable")
    if policy == "all" or len(faces) == 0:
        return by_area
    if policy == "refuse":
        return by_area if len(faces) == 1 else by_area[:0]
    if policy == "center":
        centers = (faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2
        away = centers - np.array([picture[1], picture[0]]) / 2
        best: np.ndarray = np.argmax(areas - 2 * (away**2).sum(1), keepdims=True)
        return best
    return by_area[:1]
