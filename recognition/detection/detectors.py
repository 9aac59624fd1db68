"""The detectors by name, and detection in pictures of any size."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from recognition.detection.dlib_detector import DlibDetector
from recognition.detection.faces import Detector, Faces
from recognition.detection.scrfd import Scrfd
from recognition.detection.weights import find_mtcnn
from recognition.errors import ConfigError

DETECTORS = ("mtcnn", "dlib", "scrfd")


def build_detector(name: str, *, min_face_px: float | None = None, model: Path | None = None) -> Detector:
    """Load a detector. `min_face_px` None: 20 for mtcnn, 37 for dlib.

    `model` is the folder of MTCNN's weights or of dlib's model files instead of the installed ones, and for scrfd the
    ONNX file, which it needs. ConfigError or CheckpointError says what is missing and how to get it.
    """
    if name == "mtcnn":
        from recognition.detection.mtcnn import Mtcnn  # torch, which takes longer to import than dlib a photo

        return Mtcnn(find_mtcnn(model), min_face_px=min_face_px or 20.0)
    if name == "dlib":
        return DlibDetector(models=model, min_face_px=min_face_px or 37.0)
    if name == "scrfd":
        if model is None:
            raise ConfigError("scrfd: needs an ONNX file, such as insightface's det_10g.onnx; give it with --model")
        if min_face_px is not None:
            raise ConfigError("scrfd: its network fixes the least face; leave --min-face out")
        return Scrfd(model)
    raise ConfigError(f"unknown detector {name!r}; expected one of {', '.join(DETECTORS)}")


def detect_within(detector: Detector, rgb: np.ndarray, max_side_px: int) -> Faces:
    """Detect in `rgb` scaled down to `max_side_px`, which bounds time and memory; return faces in pixels of `rgb`."""
    height, width = rgb.shape[:2]
    scale = max_side_px / max(height, width)
    if scale >= 1:
        return detector.detect(rgb)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    return detector.detect(small).scaled(width / size[0], height / size[1])
