"""MTCNN's parts on their own weights, and the whole on real photos where there are some."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recognition.detection.mtcnn import Mtcnn, view_matrices
from recognition.detection.mtcnn_networks import OUTPUT, PROPOSAL, REFINE, Stage, load_stage
from recognition.detection.weights import find_mtcnn, mtcnn_folder
from recognition.errors import CheckpointError
from tests.helpers.places import LFW, needs_photos

MISSING = not all((mtcnn_folder() / name).is_file() for name in ("pnet.pt", "rnet.pt", "onet.pt"))
needs_weights = pytest.mark.skipif(MISSING, reason="MTCNN's weights are absent: python -m recognition fetch_weights")


def _stored(stage: Stage, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Random weights under the names and in the layout of facenet-pytorch's files."""
    tensors, width = {}, 3
    for i, (channels, kernel, _) in enumerate(stage.convolutions, 1):
        tensors[f"conv{i}.weight"] = torch.randn(channels, width, kernel, kernel, generator=generator) * 0.1
        tensors[f"conv{i}.bias"] = torch.randn(channels, generator=generator) * 0.1
        tensors[f"prelu{i}.weight"] = torch.rand(channels, generator=generator)
        width = channels
    top = len(stage.convolutions) + 1
    if stage.hidden:
        tensors[f"dense{top}.weight"] = torch.randn(*reversed(stage.hidden), generator=generator) * 0.1
        tensors[f"dense{top}.bias"] = torch.randn(stage.hidden[1], generator=generator)
        tensors[f"prelu{top}.weight"] = torch.rand(stage.hidden[1], generator=generator)
        top, width = top + 1, stage.hidden[1]
    for i, size in enumerate(stage.outputs, 1):
        name = f"{'dense' if stage.hidden else 'conv'}{top}_{i}"
        shape = (size, width) if stage.hidden else (size, width, 1, 1)
        tensors[f"{name}.weight"] = torch.randn(*shape, generator=generator)
        tensors[f"{name}.bias"] = torch.randn(size, generator=generator)
    return tensors


def _pool(x: np.ndarray, size: int) -> np.ndarray:
    """Stride 2, partial windows kept; [C, H, W]."""
    steps = [range(0, -(-(side - size) // 2) * 2 + 1, 2) for side in x.shape[1:]]
    return np.stack([[x[:, i : i + size, j : j + size].max((1, 2)) for j in steps[1]] for i in steps[0]]).transpose(
        2, 0, 1
    )


@pytest.mark.parametrize("stage", [REFINE, OUTPUT], ids=lambda stage: stage.name)
def test_the_hidden_layer_reads_columns_first(stage: Stage, tmp_path: Path) -> None:
    """Against the layers one by one, flattened as the files have it: over x, then y, then channels."""
    generator = torch.Generator().manual_seed(0)
    tensors = _stored(stage, generator)
    torch.save(tensors, tmp_path / "net.pt")
    window = torch.randn(1, 3, stage.window, stage.window, generator=generator)
    x = window
    for i, (_, _, pool) in enumerate(stage.convolutions, 1):
        x = F.conv2d(x, tensors[f"conv{i}.weight"], tensors[f"conv{i}.bias"])
        x = torch.where(x > 0, x, x * tensors[f"prelu{i}.weight"][None, :, None, None])
        if pool:
            x = torch.from_numpy(_pool(x[0].numpy(), pool))[None]
    width, height = x.shape[3], x.shape[2]
    flat = torch.tensor([x[0, c, j, i] for i in range(width) for j in range(height) for c in range(x.shape[1])])
    top = len(stage.convolutions) + 1
    hidden = tensors[f"dense{top}.weight"] @ flat + tensors[f"dense{top}.bias"]
    hidden = torch.where(hidden > 0, hidden, hidden * tensors[f"prelu{top}.weight"])
    wanted = [
        tensors[f"dense{top + 1}_{i}.weight"] @ hidden + tensors[f"dense{top + 1}_{i}.bias"]
        for i in range(1, len(stage.outputs) + 1)
    ]
    logit, *rest = load_stage(stage, tmp_path / "net.pt")(window)
    torch.testing.assert_close(logit[0], wanted[0][1] - wanted[0][0], rtol=1e-4, atol=1e-4)
    for found, expected in zip(rest, wanted[1:]):
        torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-4)


def test_the_first_network_slides(tmp_path: Path) -> None:
    """Its map at (y, x) is what it says of the window that starts at (2y, 2x) alone."""
    generator = torch.Generator().manual_seed(1)
    torch.save(_stored(PROPOSAL, generator), tmp_path / "net.pt")
    network = load_stage(PROPOSAL, tmp_path / "net.pt")
    picture = torch.randn(1, 3, 30, 36, generator=generator)
    logits, offsets = network(picture)
    alone = network(picture[:, :, 8:20, 14:26])
    torch.testing.assert_close(logits[0, 4, 7], alone[0][0, 0, 0])
    torch.testing.assert_close(offsets[0, :, 4, 7], alone[1][0, :, 0, 0])


def test_a_file_with_other_weights_is_named(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "pnet.pt")
    with pytest.raises(CheckpointError, match=r"pnet\.pt: does not hold the weights of MTCNN's pnet .*fetch_weights"):
        load_stage(PROPOSAL, tmp_path / "pnet.pt")
    (tmp_path / "pnet.pt").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match=r"pnet\.pt: cannot be read as weights"):
        load_stage(PROPOSAL, tmp_path / "pnet.pt")


def test_missing_weights_say_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"pnet\.pt: no such file; .*run: python -m recognition fetch_weights"):
        find_mtcnn(tmp_path)


def test_views_turn_with_the_face() -> None:
    face = np.array([[40.0, 50], [70, 50], [55, 68], [43, 85], [67, 85]])
    angle = 0.4
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    plain, turned = view_matrices(face, 48), view_matrices(face @ turn.T, 48)
    middle = np.array([23.5, 23.5, 1])
    assert (turned @ middle).tolist() == pytest.approx(np.array((plain @ middle) @ turn.T))
    assert turned[:, :, :2] == pytest.approx(turn @ plain[:, :, :2])


@needs_weights
@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (64, 64)])
def test_pictures_without_a_face_have_none(shape: tuple[int, int]) -> None:
    assert len(Mtcnn(find_mtcnn()).detect(np.full((*shape, 3), 90, np.uint8))) == 0


@needs_weights
@needs_photos(LFW)
def test_landmarks_on_lfw_lie_near_the_published_ones() -> None:
    torch.set_num_threads(1)
    detector = Mtcnn(find_mtcnn())
    errors = []
    for line in (LFW / "landmarks5.txt").read_text().splitlines()[::400]:
        name, *numbers = line.split("\t")
        expected = np.array(numbers, float).reshape(5, 2) * 0.6
        faces = detector.detect(cv2.cvtColor(cv2.imread(str(LFW / "images" / name)), cv2.COLOR_BGR2RGB))
        nearest = min(np.linalg.norm(points - expected, axis=1).mean() for points in faces.landmarks)
        errors.append(nearest / np.linalg.norm(expected[0] - expected[1]))
    assert np.median(errors) < 0.035 and max(errors) < 0.12
