"""Which of a picture's faces are meant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from recognition.detection.faces import Faces, box_areas

Policy = Literal["largest", "center", "all", "refuse"]
POLICIES: tuple[Policy, ...] = get_args(Policy)


@dataclass(frozen=True)
class Certainty:
    """Scores of a detector: refused below `least`; below `unsure`, passed over where another face has `sure`.

    A mug or a hand is found with a low score and may be larger than the face beside it.
    """

    least: float = -np.inf
    unsure: float = -np.inf
    sure: float = np.inf


# Of LFW's photos, every fourth (docs/results.md): MTCNN's least score of the person named is 0.961, and 16 of 206 other
# finds lie below 0.95; dlib's leaves out 2 of 1,539 persons and 9 of 99 others. SCRFD has its own threshold of 0.5.
CERTAINTY = {
    "mtcnn": Certainty(0.95, unsure=0.99, sure=0.999),
    "dlib": Certainty(-0.1, unsure=0.5, sure=1.0),
}


def choose_faces(
    faces: Faces,
    policy: Policy,
    picture: tuple[int, int],
    certainty: Certainty = Certainty(),
) -> np.ndarray:
    """Return the indices of the faces to keep in a picture of (height, width).

    "largest" keeps the largest box; "center" the one with the largest area - 2 * squared distance from the picture's
    center, which is insightface's choice for its .bin files; "all" every face, the largest first; "refuse" the face of
    a picture with one, and none of several. "largest" and "center" pass over unsure faces where there is a sure one.
    """
    areas = box_areas(faces.boxes)
    by_area = np.argsort(-areas, kind="stable")
    is_clear = np.ones(len(faces), bool)
    if (faces.scores >= certainty.sure).any():
        is_clear = faces.scores >= certainty.unsure
    if policy == "all" or len(faces) == 0:
        return by_area
    if policy == "refuse":
        return by_area if len(faces) == 1 else by_area[:0]
    if policy == "center":
        centers = (faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2
        away = centers - np.array([picture[1], picture[0]]) / 2
        best: np.ndarray = np.argmax(np.where(is_clear, areas - 2 * (away**2).sum(1), -np.inf), keepdims=True)
        return best
    return by_area[is_clear[by_area]][:1]
