"""Embeddings: flip sum, any number of images, modes and precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recognition.backbones import build_backbone
from recognition.backbones.weights import save_backbone
from recognition.distributed.replicate import convert_sync_bn
from recognition.embedding.embedder import Embedder


@pytest.fixture(scope="module")
def backbone() -> torch.nn.Module:
    torch.manual_seed(0)
    module = build_backbone("tiny", embedding_size=16)
    module(torch.randn(8, 3, 112, 112))
    return module


def make_images(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 112, 112, 3), dtype=np.uint8)


def slow(module: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    module.eval()
    rows = []
    for image in images:
        views = [image, image[:, ::-1]]
        pixels = [torch.tensor(view.transpose(2, 0, 1) / 127.5 - 1.0, dtype=torch.float32)[None] for view in views]
        with torch.no_grad():
            rows.append(sum(module(view) for view in pixels)[0].numpy())
    module.train()
    return np.stack(rows)


@pytest.mark.parametrize("count", [1, 4, 7])
def test_embedding_is_the_sum_over_image_and_mirror_image(backbone: torch.nn.Module, count: int) -> None:
    images = make_images(count)
    found = Embedder(backbone, batch_size=4).embed(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, slow(backbone, images), rtol=0, atol=1e-5)


def test_no_images_give_no_rows(backbone: torch.nn.Module) -> None:
    assert Embedder(backbone).embed(make_images(0)).shape == (0, 16)
    assert Embedder(convert_sync_bn(build_backbone("mbf", embedding_size=8))).embed(make_images(0)).shape == (0, 8)


def test_every_part_keeps_its_mode_and_its_statistics(backbone: torch.nn.Module) -> None:
    backbone.train()
    backbone.layer1.eval()
    before = {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
    Embedder(backbone).embed(make_images(2))
    assert backbone.training
    assert backbone.layer2[0].bn1.training
    assert not backbone.layer1[0].bn1.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in backbone.state_dict().items())
    backbone.train()


def test_the_mode_comes_back_after_an_error(backbone: torch.nn.Module) -> None:
    backbone.train()
    with pytest.raises(RuntimeError):
        Embedder(backbone).embed(np.zeros((1, 8, 8, 3), np.uint8))
    assert backbone.training


def test_bf16_is_close_and_comes_out_as_float32(backbone: torch.nn.Module) -> None:
    images = make_images(3)
    exact = Embedder(backbone).embed(images)
    rough = Embedder(backbone, precision="bf16").embed(images)
    assert rough.dtype == np.float32
    cosines = (exact * rough).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rough, axis=1)
    assert not np.array_equal(exact, rough)
    assert cosines.min() > 0.999


def test_loaded_from_a_file_it_is_the_same(backbone: torch.nn.Module, tmp_path: Path) -> None:
    save_backbone(backbone, tmp_path / "model.pt")
    images = make_images(2)
    np.testing.assert_allclose(
        Embedder.load(tmp_path, batch_size=2).embed(images), Embedder(backbone).embed(images), rtol=0, atol=1e-5
    )


def test_wrong_input_is_named(backbone: torch.nn.Module) -> None:
    with pytest.raises(ValueError, match=r"images are float64 \[1, 4, 4, 3\]; expected uint8 \[n, S, S, 3\] in RGB"):
        Embedder(backbone).embed(np.zeros((1, 4, 4, 3)))
    with pytest.raises(ValueError, match="batch_size is 0; expected at least 1"):
        Embedder(backbone, batch_size=0)
