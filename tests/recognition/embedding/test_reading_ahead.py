"""Blocks embedded while others are read: those of one process, whatever comes late."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recognition.backbones import build_backbone
from recognition.embedding.embedder import Embedder
from recognition.embedding.models import BlockEmbedder
from recognition.embedding.reading_ahead import embed_ahead
from recognition.embedding.store import BLOCK, Keyed
from recognition.errors import DataError


class Pictures:
    """Seeded noise; `broken` cannot be read."""

    def __init__(self, number: int, broken: int | None = None) -> None:
        self._number, self._broken = number, broken

    def __len__(self) -> int:
        return self._number

    def keyed(self, i: int) -> Keyed:
        return Keyed(str(i), 0)

    def read(self, i: int) -> np.ndarray:
        if i == self._broken:
            raise DataError(f"picture {i}: is torn")
        return np.random.default_rng(i).integers(0, 256, (112, 112, 3), np.uint8)


class Sums:
    """An embedder that is no network of torch."""

    def embed(self, images_rgb: np.ndarray) -> np.ndarray:
        assert isinstance(images_rgb, np.ndarray)
        return images_rgb.reshape(len(images_rgb), -1).sum(1, keepdims=True).astype(np.float32)


@pytest.fixture(scope="module")
def network() -> Embedder:
    torch.manual_seed(0)
    return Embedder(build_backbone("tiny", embedding_size=16))


@pytest.mark.parametrize("kind", ["torch", "other"])
@pytest.mark.parametrize("blocks", [[0], [2, 0], [0, 1, 2]])
def test_blocks_are_those_of_the_tool_alone(kind: str, blocks: list[int], network: Embedder) -> None:
    tool = BlockEmbedder(Pictures(2 * BLOCK + 3), network if kind == "torch" else Sums())  # type: ignore[arg-type]
    found = list(embed_ahead(tool, blocks, num_readers=0))
    assert [block for block, _ in found] == blocks
    for block, vectors in found:
        expected = tool(block)
        assert vectors.dtype == np.float32 and np.array_equal(vectors, expected)


def test_an_error_of_reading_comes_through(network: Embedder) -> None:
    tool = BlockEmbedder(Pictures(BLOCK + 5, broken=BLOCK + 1), network)
    with pytest.raises(DataError, match=f"picture {BLOCK + 1}: is torn"):
        list(embed_ahead(tool, [0, 1], num_readers=0))
