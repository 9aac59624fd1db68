"""dlib's 128-number face network."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from recognition.detection.alignment import similarity, template
from recognition.detection.dlib_detector import import_dlib, model_file
from recognition.formats.model_facts import ModelFacts
from recognition.work.files import file_sha256

_NETWORK_FILE = "dlib_face_recognition_resnet_model_v1.dat"
FACE_PX, FACE_PADDING = 150, 0.25  # what dlib's face network was trained on


class DlibEmbedder:
    """dlib's face network: 128 numbers a face, compared by Euclidean distance (0.6 is dlib's own threshold).

    Takes the aligned faces this project writes: the network's own crop is cut out of them by the template's landmarks.
    """

    def __init__(self, *, models: Path | None = None) -> None:
        dlib = import_dlib()
        path = Path(model_file(_NETWORK_FILE, models))
        self._network = dlib.face_recognition_model_v1(str(path))
        self.facts = ModelFacts(file_sha256(path), network="dlib", embedding_size=128)

    def embed(self, images_rgb: np.ndarray) -> np.ndarray:
        """Return float32 [n, 128] for uint8 RGB images [n, S, S, 3], aligned to the ArcFace template."""
        if len(images_rgb) == 0:
            return np.zeros((0, 128), np.float32)
        chips = [dlib_chip(image) for image in images_rgb]
        return np.asarray(self._network.compute_face_descriptor(chips), np.float32)


# The square that dlib's own 68 points cut out of a face, in pixels of the same face on the 112-pixel ArcFace template:
# the median over 155 photos of LFW. It reaches 10 pixels below the crop, where the last row is repeated.
_CHIP_CENTER, _CHIP_SIDE = (56.67, 71.88), 99.4


def dlib_chip(image: np.ndarray) -> np.ndarray:
    """Return the face as dlib's network expects it, uint8 [150, 150, 3], from one aligned to the ArcFace template."""
    size = image.shape[0]
    onto = similarity(template(112), template(size))
    scale = FACE_PX / (_CHIP_SIDE * onto[0, 0])
    center = onto[:, :2] @ _CHIP_CENTER + onto[:, 2]
    shift = (FACE_PX - 1) / 2 - scale * center
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    return cv2.warpAffine(image, matrix, (FACE_PX, FACE_PX), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
