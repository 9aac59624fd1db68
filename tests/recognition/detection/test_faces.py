"""Boxes: overlap and suppression against pixel counting and the textbook loop."""

from __future__ import annotations

import numpy as np
import pytest

from recognition.detection.faces import Faces, iou, suppress


def _random_boxes(generator: np.random.Generator, num: int) -> np.ndarray:
    corners = generator.integers(0, 30, (num, 2))
    return np.concatenate([corners, corners + generator.integers(1, 20, (num, 2))], 1).astype(np.float32)


def _pixels(box: np.ndarray) -> set[tuple[int, int]]:
    x1, y1, x2, y2 = box.astype(int)
    return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}


def test_iou_is_the_share_of_common_pixels() -> None:
    boxes = _random_boxes(np.random.default_rng(0), 40)
    expected = [len(_pixels(boxes[0]) & _pixels(b)) / len(_pixels(boxes[0]) | _pixels(b)) for b in boxes]
    assert iou(boxes[0], boxes) == pytest.approx(expected)


@pytest.mark.parametrize("by_smaller", [False, True])
def test_suppression_equals_the_textbook_loop(by_smaller: bool) -> None:
    generator = np.random.default_rng(1)
    boxes = _random_boxes(generator, 60)
    scores = generator.integers(0, 8, 60) / 8  # with ties
    kept: list[int] = []
    for i in sorted(range(60), key=lambda i: -scores[i]):
        mine = _pixels(boxes[i])
        others = [_pixels(boxes[k]) for k in kept]
        bases = [min(len(mine), len(o)) if by_smaller else len(mine | o) for o in others]
        if all(len(mine & o) <= 0.4 * base for o, base in zip(others, bases)):
            kept.append(i)
    assert suppress(boxes, scores, 0.4, by_smaller=by_smaller).tolist() == kept


def test_suppression_of_nothing_is_nothing() -> None:
    assert suppress(np.zeros((0, 4)), np.zeros(0), 0.5).tolist() == []


def test_scaling_keeps_the_corners_of_the_picture() -> None:
    """A landmark on the last pixel of a picture lies on the last pixels of the doubled one."""
    faces = Faces(np.array([[0, 0, 10, 20.0]]), np.tile(np.array([9.0, 19.0]), (1, 5, 1)), np.ones(1))
    scaled = faces.scaled(2, 3)
    assert scaled.boxes.tolist() == [[0, 0, 20, 60]]
    assert scaled.landmarks[0, 0].tolist() == [18.5, 58]
