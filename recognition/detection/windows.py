"""Windows of a photo: the pyramid on one canvas, and squares cut out at fractions of a pixel. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

_LEVEL_STEP = 0.709  # from one pyramid level to the next: half the area
_SMALLEST_OCTAVE = 48


def level_sizes(photo_size: tuple[int, int], first_scale: float, window: int) -> list[tuple[int, int]]:
    """Return the even sizes (height, width) of a pyramid's levels, the largest first, down to one `window`."""
    sizes: list[tuple[int, int]] = []
    scale = first_scale
    while True:
        height, width = (2 * round(side * scale / 2) for side in photo_size)
        if min(height, width) < window:
            return sizes
        sizes.append((height, width))
        scale *= _LEVEL_STEP


def pack_tiles(sizes: Sequence[tuple[int, int]]) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Lay tiles (height, width), of falling size, out on one canvas; return their (top, left) corners and its size.

    Each goes to the right end of the first shelf with room, or opens a new shelf below. Even sizes give even corners,
    so that the windows of a stride of 2 are those of each tile by itself.
    """
    canvas_width = max(width for _, width in sizes)
    shelves: list[list[int]] = []  # top, height, width used
    corners = []
    for height, width in sizes:
        shelf = next((s for s in shelves if s[1] >= height and s[2] + width <= canvas_width), None)
        if shelf is None:
            top = shelves[-1][0] + shelves[-1][1] if shelves else 0
            shelf = [top, height, 0]
            shelves.append(shelf)
        corners.append((shelf[0], shelf[2]))
        shelf[2] += width
    return corners, (shelves[-1][0] + shelves[-1][1], canvas_width)


def octaves(rgb: np.ndarray) -> list[np.ndarray]:
    """Return the photo at 1, 1/2, 1/4 ... of its size, what `cut_windows` samples from."""
    levels = [rgb]
    while min(levels[-1].shape[:2]) >= 2 * _SMALLEST_OCTAVE:
        height, width = levels[-1].shape[:2]
        levels.append(cv2.resize(levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA))
    return levels


def box_matrices(boxes: np.ndarray, side: int) -> np.ndarray:
    """Return [n, 2, 3]: from the pixel centers of a window of `side` pixels to those of the photo, for each box."""
    scales = (boxes[:, 2:] - boxes[:, :2]) / side
    matrices = np.zeros((len(boxes), 2, 3))
    matrices[:, 0, 0], matrices[:, 1, 1] = scales[:, 0], scales[:, 1]
    matrices[:, :, 2] = boxes[:, :2] + 0.5 * scales - 0.5
    return matrices


def cut_windows(levels: Sequence[np.ndarray], matrices: np.ndarray, side: int, *, cubic: bool = False) -> np.ndarray:
    """Return uint8 [n, side, side, 3]: what each of `matrices` [n, 2, 3] shows, black outside the photo.

    `levels` are the photo's octaves: a window is sampled from the one in which its pixels are less than two apart,
    so that bilinear sampling skips none. `cubic` samples more sharply, in twice the time.
    """
    method = cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR
    windows = np.zeros((len(matrices), side, side, 3), np.uint8)
    height, width = levels[0].shape[:2]
    spacings = np.sqrt(np.abs(np.linalg.det(matrices[:, :, :2])))
    for window, matrix, spacing in zip(windows, matrices, spacings):
        source = levels[min(max(0, int(np.log2(max(spacing, 1.0)))), len(levels) - 1)]
        shrink = np.array([source.shape[1] / width, source.shape[0] / height])
        onto = matrix * shrink[:, None]
        onto[:, 2] += 0.5 * shrink - 0.5  # pixel centers sit at halves, which scaling alone would move
        cv2.warpAffine(source, onto, (side, side), dst=window, flags=method | cv2.WARP_INVERSE_MAP)
    return windows


def squared(boxes: np.ndarray) -> np.ndarray:
    """Grow the shorter side of each box [n, 4] about its center."""
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True) / 2
    return np.concatenate([centers - half, centers + half], 1)


def moved(boxes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Shift the edges of boxes [n, 4] by offsets [n, 4] in units of their sides."""
    shifted: np.ndarray = boxes + offsets * np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    return shifted
