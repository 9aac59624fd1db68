"""Score pairs without a network: what a task asks beyond this is what a model has to learn. Torch-free."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from recognition.formats.pairs_bin import Pairs
from recognition.images.codec import decode_rgb

PIXEL_SIDE = 112
HISTOGRAM_BINS = 8


def raw_pixel_scores(pairs: Pairs) -> np.ndarray:
    """Return the cosine of each pair's pixels, each picture's mean removed: float64 [n].

    Without the mean two bright pictures would resemble each other more than two of one person.
    """
    return _cosines(pairs, _pixels)


def color_histogram_scores(pairs: Pairs) -> np.ndarray:
    """Return the cosine of each pair's 8 x 8 x 8 RGB histograms: float64 [n]."""
    return _cosines(pairs, _histogram)


def _cosines(pairs: Pairs, describe: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    scores = np.empty(len(pairs))
    for index in range(len(pairs)):
        first, second = (
            describe(decode_rgb(pairs.images[image], place=f"image {image} of the pairs"))
            for image in (2 * index, 2 * index + 1)
        )
        # A picture of one color has no direction; it resembles nothing.
        length = np.linalg.norm(first) * np.linalg.norm(second)
        scores[index] = float(first @ second) / length if length > 0 else 0.0
    return scores


def _pixels(rgb: np.ndarray) -> np.ndarray:
    if rgb.shape[:2] != (PIXEL_SIDE, PIXEL_SIDE):
        rgb = cv2.resize(rgb, (PIXEL_SIDE, PIXEL_SIDE), interpolation=cv2.INTER_AREA)
    pixels = rgb.reshape(-1).astype(np.float64)
    centered: np.ndarray = pixels - pixels.mean()
    return centered


def _histogram(rgb: np.ndarray) -> np.ndarray:
    counts = cv2.calcHist([rgb], [0, 1, 2], None, [HISTOGRAM_BINS] * 3, [0, 256] * 3)
    return counts.reshape(-1).astype(np.float64)
