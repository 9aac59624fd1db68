"""The detectors by name, and detection in pictures of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from recognition.detection.faces import Detector, Faces
from recognition.registry import Registry


class BuildDetector(Protocol):
    """What is registered: it loads a detector, and refuses what that detector cannot use."""

    def __call__(self, *, min_face_px: float | None, model: Path | None) -> Detector:
        """Return the detector; `min_face_px` None is its own default, `model` None the installed weights."""


DETECTORS: Registry[BuildDetector] = Registry("detector")
"""Name on the command line -> its builder. One is imported when it is chosen: torch and onnxruntime take seconds."""

DETECTORS.register_at("mtcnn", "recognition.detection.mtcnn:build")
DETECTORS.register_at("dlib", "recognition.detection.dlib_detector:build")
DETECTORS.register_at("scrfd", "recognition.detection.scrfd:build")


def build_detector(name: str, *, min_face_px: float | None = None, model: Path | None = None) -> Detector:
    """Load the detector of that name.

    `model` is the folder of MTCNN's weights or of dlib's model files instead of the installed ones, and for scrfd the
    ONNX file, which it needs. ConfigError or CheckpointError says what is missing and how to get it.
    """
    return DETECTORS[name](min_face_px=min_face_px, model=model)


def detect_within(detector: Detector, rgb: np.ndarray, max_side_px: int) -> Faces:
    """Detect in `rgb` scaled down to `max_side_px`, which bounds time and memory; return faces in pixels of `rgb`."""
    height, width = rgb.shape[:2]
    scale = max_side_px / max(height, width)
    if scale >= 1:
        return detector.detect(rgb)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    return detector.detect(small).scaled(width / size[0], height / size[1])
