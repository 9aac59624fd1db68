"""insightface's own loader, ArcFaceONNX, embeds with an exported file as the network does here.

It gets an environment of its own under build/, made once from the `insightface` extra (600 MB). Without CI=true the
test is skipped until that environment is there; where it cannot be installed, the skip says why.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime", reason="make export-tools installs onnxruntime")
pytest.importorskip("onnxscript", reason="make export-tools installs onnxscript")

from recognition.backbones.architecture import Architecture
from recognition.backbones.fresh import set_batch_norms
from recognition.backbones.metadata import ModelMetadata
from recognition.backbones.weights import load_backbone, save_model
from recognition.export.parity import drawn_faces
from recognition.export.writers import Request, write_export
from recognition.images.preprocess import to_network
from tests.helpers.referees import python_of

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def insightface_python() -> Path:
    return python_of("insightface", constrained=True, may_fail=True)


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.99999), ("fp16", 0.9999), ("int8", 0.95)])
def test_arcface_onnx_gives_the_same_embedding(
    precision: Any, least: float, insightface_python: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    architecture = Architecture("tiny", 32)
    module = architecture.build()
    faces = drawn_faces(12, 112)
    set_batch_norms(module, to_network(torch.from_numpy(faces)))
    save_model(module, tmp_path, ModelMetadata(architecture))
    model, target = load_backbone(tmp_path), tmp_path / "out.onnx"
    write_export(Request(model, target, 112, precision, faces=None if precision == "fp32" else faces))
    np.save(tmp_path / "images.npy", faces[..., ::-1])
    command = [insightface_python, Path(__file__).with_name("insightface_referee.py"), target]
    done = subprocess.run(
        [*command, tmp_path / "images.npy", tmp_path / "found.npy"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [127.5, 127.5, [112, 112]], "it does not feed raw pixels"
    found = np.load(tmp_path / "found.npy").astype(np.float64)
    with torch.inference_mode():
        expected = model.module(to_network(torch.from_numpy(faces))).double().numpy()
    cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() >= least
