"""A quality a face: measured, stored, passed on by clean, and whether it foretells errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from recognition.cleaning.decision_file import parse_decision
from recognition.cleaning.pictures import Pictures
from recognition.embedding.quality import OnnxQuality, embedding_lengths
from recognition.embedding.quality_column import read_quality, write_quality
from recognition.errors import CheckpointError, DataError
from recognition.verification.quality import area_under, error_versus_reject
from tests.helpers.onnx_bytes import onnx_model
from tests.helpers.people import people, write_set

SIDE = 8


def mean_network(path: Path, outputs: int = 1) -> Path:
    """Write a network that gives the mean of the pixels of each face."""
    weights = np.full((3 * SIDE * SIDE, outputs), 1 / (3 * SIDE * SIDE), np.float32)
    path.write_bytes(
        onnx_model(
            [("Flatten", ["x"], ["flat"]), ("MatMul", ["flat", "w"], ["y"])],
            inputs={"x": ["n", 3, SIDE, SIDE]},
            outputs={"y": ["n", outputs]},
            weights={"w": weights},
        )
    )
    return path


def test_a_network_gives_one_number_a_face(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    images = np.random.default_rng(0).integers(0, 256, (70, SIDE, SIDE, 3), np.uint8)
    scorer = OnnxQuality(mean_network(tmp_path / "mean.onnx"))
    assert scorer.image_size == SIDE
    assert scorer(images) == pytest.approx(images.mean((1, 2, 3)) / 127.5 - 1, abs=1e-5)
    with pytest.raises(CheckpointError, match=r"gives \[64, 2\] for 64 images; expected one finite number each"):
        OnnxQuality(mean_network(tmp_path / "two.onnx", outputs=2))(images)


def test_a_column_lies_beside_the_embeddings_and_reaches_the_decisions(tmp_path: Path) -> None:
    _, embedded = write_set(tmp_path, people({"a": 3, "b": 2}))
    assert Pictures(embedded).quality is None
    write_quality(embedded, np.arange(5) / 4)
    found = Pictures(embedded).quality
    assert found is not None and found.tolist() == [0, 0.25, 0.5, 0.75, 1]
    with pytest.raises(DataError, match=r"quality\.npy: float32 \[5\]; expected float32 \[6\]"):
        read_quality(embedded, 6)
    (embedded / "quality.npy").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"quality\.npy: cannot be read"):
        read_quality(embedded, 5)


def test_a_decision_holds_the_quality_or_leaves_it_out() -> None:
    line = {"picture": "a/1.jpg", "identity": "a", "decision": "keep", "to": None, "reason": "kept", "score": 0.5}
    line |= {"doubt": 0.0, "step": "", "beside": []}
    assert parse_decision("x", json.dumps(line)).quality is None
    assert parse_decision("x", json.dumps(line | {"quality": 12.5})).quality == 12.5
    with pytest.raises(DataError, match="x: quality is 'good'; expected a finite number"):
        parse_decision("x", json.dumps(line | {"quality": "good"}))


def test_lengths_are_those_of_the_rows() -> None:
    assert embedding_lengths(np.array([[3, 4], [0, 0]])).tolist() == [5, 0]


@pytest.mark.parametrize("seed", range(4))
def test_the_curve_is_what_leaving_pairs_out_one_by_one_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num = 80
    is_same = np.arange(num) % 2 == 0
    quality = rng.integers(0, 12, 2 * num).astype(float)
    scores = rng.normal(0.3, 0.2, num) + 0.02 * np.minimum(quality[0::2], quality[1::2])
    curve = error_versus_reject(scores, is_same, quality, 0.4)
    worse = np.minimum(quality[0::2], quality[1::2])[is_same]
    wrong = (scores < 0.4)[is_same]
    for rejected, fnmr, least in zip(curve.rejected, curve.fnmr, np.unique(worse)):
        kept = worse >= least
        assert rejected == pytest.approx(np.mean(~kept))
        assert fnmr == pytest.approx(np.mean(wrong[kept]))
    assert curve.rejected[0] == 0.0 and curve.rejected[-1] <= 0.95


def test_a_quality_that_foretells_errors_has_a_small_area() -> None:
    is_same, scores = np.ones(200, bool), np.linspace(0, 1, 200)
    good, opposite = (error_versus_reject(scores, is_same, np.repeat(each, 2), 0.3) for each in (scores, -scores))
    assert area_under(good) < 0.25 < 1.5 < area_under(opposite)
    assert area_under(error_versus_reject(scores, is_same, np.ones(400), 0.3)) == pytest.approx(1.0)
    assert area_under(error_versus_reject(scores, is_same, np.ones(400), -1.0)) == 1.0
