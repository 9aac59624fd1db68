"""The pyramid's canvas and the windows cut out of a picture."""

from __future__ import annotations

import numpy as np
import pytest

from recognition.detection.windows import box_matrices, cut_windows, level_sizes, moved, octaves, pack_tiles, squared


@pytest.mark.parametrize("picture", [(150, 150), (90, 400), (401, 33), (12, 12)])
def test_tiles_lie_on_the_canvas_without_touching_a_neighbor(picture: tuple[int, int]) -> None:
    sizes = level_sizes(picture, 1.0, 12)
    corners, (height, width) = pack_tiles(sizes)
    taken = np.zeros((height, width), int)
    for (rows, columns), (top, left) in zip(sizes, corners):
        assert (rows % 2, columns % 2, top % 2, left % 2) == (0, 0, 0, 0)
        taken[top : top + rows, left : left + columns] += 1
        assert top + rows <= height and left + columns <= width
    assert taken.max() == 1


def test_a_picture_smaller_than_the_window_has_no_levels() -> None:
    assert level_sizes((10, 200), 1.0, 12) == []


def test_a_window_of_whole_pixels_is_a_slice() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (60, 70, 3), np.uint8)
    box = np.array([[10.0, 20.0, 34.0, 44.0]])
    (window,) = cut_windows([rgb], box_matrices(box, 24), 24)
    assert (window == rgb[20:44, 10:34]).all()


def test_what_lies_outside_the_picture_is_black() -> None:
    rgb = np.full((40, 40, 3), 200, np.uint8)
    (window,) = cut_windows([rgb], box_matrices(np.array([[-12.0, -12.0, 12.0, 12.0]]), 24), 24)
    assert (window[:11] == 0).all() and (window[13:, 13:] == 200).all()


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_large_boxes_are_averaged_not_skipped_through(factor: int) -> None:
    """Fine noise averages out to gray; sampling every n-th pixel would keep its spread."""
    rgb = np.random.default_rng(1).integers(0, 256, (400, 400, 3), np.uint8)
    side = 24 * factor
    (window,) = cut_windows(octaves(rgb), box_matrices(np.array([[8.0, 16.0, 8 + side, 16 + side]]), 24), 24)
    expected = rgb[16 : 16 + side, 8 : 8 + side].reshape(24, factor, 24, factor, 3).mean((1, 3))
    assert np.abs(window[2:-2, 2:-2] - expected[2:-2, 2:-2]).max() < 2.5 * factor


def test_squares_keep_the_center_and_offsets_are_in_sides() -> None:
    assert squared(np.array([[0.0, 0.0, 10.0, 20.0]])).tolist() == [[-5, 0, 15, 20]]
    assert moved(np.array([[0.0, 0.0, 10.0, 20.0]]), np.array([[0.1, 0.1, -0.1, -0.5]])).tolist() == [[1, 2, 9, 10]]
