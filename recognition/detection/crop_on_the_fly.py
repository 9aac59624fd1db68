"""Cut the face out of a photo for a model that is to be judged on photos."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from recognition.detection.alignment import align
from recognition.detection.choice import choose_faces
from recognition.detection.detectors import detect_within
from recognition.detection.faces import Detector
from recognition.images.photos import decode_photo, read_photo

MAX_SIDE_PX = 1600


@dataclass
class PhotoReader:
    """Reads a photo as the encoded crop of its face: the one in the middle, as insightface's .bin files have it."""

    detector: Detector
    size: int
    without_face: list[Path] = field(default_factory=list)
    """Photos in which none was found; of these the middle is taken, which a pair must not lose its picture for."""

    def __call__(self, path: Path) -> bytes:
        """Return a PNG of the crop, which loses nothing; DataError names a photo that cannot be read."""
        rgb = decode_photo(read_photo(path), place=str(path))
        faces = detect_within(self.detector, rgb, MAX_SIDE_PX)
        chosen = choose_faces(faces, "center", (rgb.shape[0], rgb.shape[1]))
        if len(chosen):
            crop = align(rgb, faces.landmarks[chosen[0]], self.size)
        else:
            self.without_face.append(path)
            crop = _middle(rgb, self.size)
        done, buffer = cv2.imencode(".png", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR))
        assert done, "cv2 could not encode a uint8 RGB array"
        return buffer.tobytes()


def _middle(rgb: np.ndarray, size: int) -> np.ndarray:
    height, width = rgb.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return cv2.resize(rgb[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA)
