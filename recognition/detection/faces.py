"""What every face detector returns, and what is asked of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Faces:
    """The faces of one photo, the surest first, in pixels of that photo.

    boxes [n, 4] float32 are the edges x1, y1, x2, y2 and may reach outside the photo; landmarks [n, 5, 2] float32 are
    x, y of the eye, eye, nose, mouth corner and mouth corner, the left one in the photo first; scores [n] float32
    rise with certainty, on a scale of the detector's own.
    """

    boxes: np.ndarray
    landmarks: np.ndarray
    scores: np.ndarray

    def __post_init__(self) -> None:
        num = len(self.scores)
        assert self.boxes.shape == (num, 4) and self.landmarks.shape == (num, 5, 2), "faces of unequal length"

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, chosen: np.ndarray) -> Faces:
        """Return the faces that an index array or mask picks, in its order."""
        return Faces(self.boxes[chosen], self.landmarks[chosen], self.scores[chosen])

    def scaled(self, factor_x: float, factor_y: float) -> Faces:
        """Return the same faces in a photo whose sides are `factor_x` and `factor_y` times as long.

        Box edges lie between pixels and are multiplied; landmarks are pixel centers, of which the first sits at half.
        """
        factors = np.array([factor_x, factor_y], np.float32)
        boxes = self.boxes * np.tile(factors, 2)
        return Faces(boxes, (self.landmarks + 0.5) * factors - 0.5, self.scores)


class Detector(Protocol):
    """Finds faces. One per process or thread; pickling is not promised."""

    def detect(self, rgb: np.ndarray) -> Faces:
        """Return the faces of uint8 [H, W, 3] RGB."""
        ...


def no_faces() -> Faces:
    """Return an empty result."""
    return Faces(np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, np.float32))


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """Return the areas [n] of boxes [n, 4]; a box turned inside out has none."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    areas: np.ndarray = sides[:, 0] * sides[:, 1]
    return areas


def iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the intersection over union [n] of one box [4] with boxes [n, 4]."""
    shared = _intersections(box, boxes)
    union = box_areas(box[None]) + box_areas(boxes) - shared
    ratios: np.ndarray = shared / np.maximum(union, 1e-9)
    return ratios


def suppress(boxes: np.ndarray, scores: np.ndarray, threshold: float, *, by_smaller: bool = False) -> np.ndarray:
    """Return the indices of the boxes that survive greedy non-maximum suppression, the surest first.

    A box falls when its overlap with a surer survivor exceeds `threshold`: intersection over union, or over the
    smaller of the two boxes with `by_smaller`. Equal scores keep their order.
    """
    order = np.argsort(-scores, kind="stable")
    boxes = boxes[order].astype(np.float64)
    areas = box_areas(boxes)
    alive = np.ones(len(boxes), bool)
    for i in range(len(boxes)):
        if not alive[i]:
            continue
        rest = slice(i + 1, None)
        shared = _intersections(boxes[i], boxes[rest])
        base = np.minimum(areas[i], areas[rest]) if by_smaller else areas[i] + areas[rest] - shared
        alive[rest] &= shared <= threshold * np.maximum(base, 1e-9)
    return order[alive]


def _intersections(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    sides = np.maximum(sides, 0)
    areas: np.ndarray = sides[:, 0] * sides[:, 1]
    return areas
