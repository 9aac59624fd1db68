"""Align a face by five landmarks onto the template that every ArcFace model was trained on. Torch-free."""

from __future__ import annotations

import cv2
import numpy as np

from recognition.errors import DataError

ARCFACE_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Eyes, nose and mouth corners, left and right as in the photo, (x, y) at 112 x 112 pixels."""


def align(image_rgb: np.ndarray, landmarks: np.ndarray, size: int = 112) -> np.ndarray:
    """Return the face as uint8 [size, size, 3], turned, scaled and moved so that its landmarks fit the template best.

    `landmarks` [5, 2] are (x, y) in pixels of the image. A multiple of 128 gets the template's wider margin at the
    sides, as in insightface; what lies outside the photo is black. Raises DataError when the landmarks coincide.
    """
    matrix = similarity(np.asarray(landmarks, dtype=np.float64), template(size))
    return cv2.warpAffine(image_rgb, matrix, (size, size), flags=cv2.INTER_LINEAR, borderValue=(0, 0, 0))


def template(size: int) -> np.ndarray:
    """Return the template [5, 2] for crops of `size` pixels."""
    if size % 128 == 0 and size % 112 != 0:
        ratio = size / 128
        return ARCFACE_TEMPLATE * ratio + (8 * ratio, 0.0)
    return ARCFACE_TEMPLATE * (size / 112)


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the [2, 3] rotation, scale and shift, without mirroring, that takes points [n, 2] nearest to others.

    Least squares after Umeyama, IEEE PAMI 13 (1991), eqs. 40-43.
    """
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 2:
        raise DataError(f"landmarks: shape {source.shape}; expected {target.shape}; give (x, y) for every point")
    if not np.isfinite(source).all():
        raise DataError("landmarks: hold a value that is not finite; expected pixels; remove the face")
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    source_centered, target_centered = source - source_mean, target - target_mean
    spread = (source_centered**2).sum()
    if spread < 1e-6:
        raise DataError("landmarks: coincide in one point; expected five points of a face; remove the face")
    left, singular, right = np.linalg.svd(target_centered.T @ source_centered)
    sign = np.array([1.0, np.sign(np.linalg.det(left) * np.linalg.det(right)) or 1.0])
    rotation = (left * sign) @ right
    scale = (singular * sign).sum() / spread
    return np.column_stack([scale * rotation, target_mean - scale * rotation @ source_mean])


def template_name(points: object) -> str:
    """Return "arcface" for its five points at 112 x 112, as an align.json holds them, and "another" for any other."""
    try:
        found = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError):
        return "another"
    is_arcface = found.shape == ARCFACE_TEMPLATE.shape and np.abs(found - ARCFACE_TEMPLATE).max() < 0.5
    return "arcface" if is_arcface else "another"
