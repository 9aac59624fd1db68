"""Any SCRFD (arXiv:2105.04714) or RetinaFace network exported to ONNX with a map of outputs per stride."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from recognition.detection.faces import Faces, no_faces, suppress
from recognition.errors import CheckpointError, ConfigError
from recognition.work.onnx_session import open_onnx

# Scores, boxes and landmarks for each stride; their number tells the strides, and the anchors a place.
_LAYOUTS = {9: ((8, 16, 32), 2), 15: ((8, 16, 32, 64, 128), 1)}
_OVERLAP = 0.4


def build(*, min_face_px: float | None, model: Path | None) -> Scrfd:
    """Load the network in the ONNX file `model`; ConfigError without one, or with a least face."""
    if model is None:
        raise ConfigError("scrfd: needs an ONNX file, such as insightface's det_10g.onnx; give it with --model")
    if min_face_px is not None:
        raise ConfigError("scrfd: its network fixes the least face; leave --min-face out")
    return Scrfd(model)


class Scrfd:
    """The detector. The picture is fitted into the network's square of `input_px`, its top left corner kept.

    Scores are probabilities. Raises ConfigError without onnxruntime, CheckpointError for a file of another kind.
    """

    def __init__(self, path: Path, *, threshold: float = 0.5, input_px: int = 640, threads: int = 1) -> None:
        self._session = open_onnx(path, threads=threads)
        outputs = self._session.get_outputs()
        if len(outputs) not in _LAYOUTS:
            raise CheckpointError(
                f"{path}: has {len(outputs)} outputs; expected the 9 or 15 of an SCRFD with landmarks "
                "(scores, boxes and landmarks per stride), such as det_10g.onnx"
            )
        self._strides, self._anchors = _LAYOUTS[len(outputs)]
        given = self._session.get_inputs()[0]
        side = given.shape[2] if len(given.shape) == 4 else None
        self._input, self._side = given.name, side if isinstance(side, int) else input_px
        self._threshold = threshold

    def detect(self, rgb: np.ndarray) -> Faces:
        """Return the faces of uint8 [H, W, 3] RGB, the surest first."""
        scale = self._side / max(rgb.shape[:2])
        height, width = (max(1, round(side * scale)) for side in rgb.shape[:2])
        canvas = np.zeros((self._side, self._side, 3), np.uint8)
        canvas[:height, :width] = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_LINEAR)
        blob = ((canvas.astype(np.float32) - 127.5) / 128).transpose(2, 0, 1)[None]
        outputs = self._session.run(None, {self._input: blob})
        faces = decode_maps(outputs, self._strides, self._anchors, self._side, self._threshold)
        faces = faces.select(suppress(faces.boxes, faces.scores, _OVERLAP))
        return faces.scaled(rgb.shape[1] / width, rgb.shape[0] / height)


def decode_maps(
    outputs: Sequence[np.ndarray], strides: Sequence[int], anchors: int, side: int, threshold: float
) -> Faces:
    """Turn the network's outputs into faces before suppression, in pixels of its input.

    `outputs` are the scores of every stride, then the boxes, then the landmarks; per place on a stride's grid they lie
    row by row, `anchors` after another, boxes as distances to left, top, right and bottom in units of the stride.
    """
    parts = []
    for level, stride in enumerate(strides):
        scores, distances, points = (
            outputs[level + kind * len(strides)].reshape(-1, size) for kind, size in ((0, 1), (1, 4), (2, 10))
        )
        chosen = np.flatnonzero(scores[:, 0] >= threshold)
        place = chosen // anchors
        cells = side // stride
        center = np.stack([place % cells, place // cells], 1) * stride
        distance = distances[chosen] * stride
        boxes = np.concatenate([center - distance[:, :2], center + distance[:, 2:]], 1)
        landmarks = center[:, None] + points[chosen].reshape(-1, 5, 2) * stride
        parts.append(Faces(boxes.astype(np.float32), landmarks.astype(np.float32), scores[chosen, 0]))
    if not any(len(part) for part in parts):
        return no_faces()
    return Faces(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.landmarks for part in parts]),
        np.concatenate([part.scores for part in parts]).astype(np.float32),
    )
