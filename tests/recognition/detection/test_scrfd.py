"""SCRFD: maps decoded against a loop over places, and a whole ONNX file whose outputs are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recognition.detection.detectors import build_detector
from recognition.detection.scrfd import Scrfd, decode_maps
from recognition.errors import CheckpointError, ConfigError
from tests.helpers.onnx_bytes import onnx_model

STRIDES, ANCHORS, SIDE = (8, 16, 32), 2, 64


def _maps(generator: np.random.Generator) -> list[np.ndarray]:
    sizes = [(SIDE // stride) ** 2 * ANCHORS for stride in STRIDES]
    return [generator.random((size, width)).astype(np.float32) for width in (1, 4, 10) for size in sizes]


def test_maps_decode_as_a_loop_over_places() -> None:
    maps = _maps(np.random.default_rng(0))
    expected = []
    for level, stride in enumerate(STRIDES):
        scores, boxes, points = (maps[level + 3 * kind] for kind in range(3))
        row = 0
        for y in range(SIDE // stride):
            for x in range(SIDE // stride):
                for _ in range(ANCHORS):
                    if scores[row, 0] >= 0.7:
                        left, top, right, bottom = boxes[row] * stride
                        marks = [
                            (x * stride + px * stride, y * stride + py * stride) for px, py in points[row].reshape(5, 2)
                        ]
                        box = [x * stride - left, y * stride - top, x * stride + right, y * stride + bottom]
                        expected.append((box, marks, scores[row, 0]))
                    row += 1
    found = decode_maps(maps, STRIDES, ANCHORS, SIDE, 0.7)
    assert len(found) == len(expected)
    np.testing.assert_allclose(found.boxes, [box for box, _, _ in expected], atol=1e-4)
    np.testing.assert_allclose(found.landmarks, [marks for _, marks, _ in expected], atol=1e-4)
    np.testing.assert_allclose(found.scores, [score for _, _, score in expected])


def test_an_onnx_file_gives_faces_in_pixels_of_the_photo(tmp_path: Path) -> None:
    """One face with two overlapping anchors, in a photo half as high as wide and twice the network's input."""
    pytest.importorskip("onnxruntime")
    maps = [np.zeros_like(m) for m in _maps(np.random.default_rng(1))]
    row = (1 * (SIDE // 16) + 2) * ANCHORS  # the place (x 32, y 16) of stride 16
    for anchor, score in ((0, 0.9), (1, 0.8)):
        maps[1][row + anchor] = score
        maps[4][row + anchor] = 0.5
        maps[7][row + anchor] = 0.25
    names = [f"out{i}" for i in range(9)]
    model = onnx_model(
        [("Identity", [f"w{i}"], [name]) for i, name in enumerate(names)],
        inputs={"x": [1, 3, SIDE, SIDE]},
        outputs={name: m.shape for name, m in zip(names, maps)},
        weights={f"w{i}": m for i, m in enumerate(maps)},
    )
    (tmp_path / "det.onnx").write_bytes(model)
    faces = build_detector("scrfd", model=tmp_path / "det.onnx").detect(np.zeros((64, 128, 3), np.uint8))
    assert faces.scores.tolist() == pytest.approx([0.9])
    assert faces.boxes.tolist() == [[48, 16, 80, 48]]
    assert faces.landmarks[0, 0].tolist() == [36 * 2 + 0.5, 20 * 2 + 0.5]


def test_files_that_are_no_detector_are_named(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = onnx_model(
        [("Identity", ["x"], ["y"])], inputs={"x": [1, 3, 8, 8]}, outputs={"y": [1, 3, 8, 8]}, weights={}
    )
    (tmp_path / "one.onnx").write_bytes(model)
    with pytest.raises(CheckpointError, match=r"one\.onnx: has 1 outputs; expected the 9 or 15 of an SCRFD"):
        Scrfd(tmp_path / "one.onnx")
    with pytest.raises(CheckpointError, match=r"none\.onnx: no such file"):
        Scrfd(tmp_path / "none.onnx")
    with pytest.raises(ConfigError, match=r"scrfd: needs an ONNX file.*--model"):
        build_detector("scrfd")
