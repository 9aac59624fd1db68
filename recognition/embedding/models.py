"""What turns aligned faces into vectors: a run, weights, an ONNX file from anywhere, or dlib's network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from recognition.config.schema import Precision
from recognition.embedding.dlib_embedder import DlibEmbedder
from recognition.embedding.embedder import Embedder, try_images
from recognition.embedding.input_scale import AskedScale
from recognition.embedding.onnx_embedder import OnnxEmbedder
from recognition.embedding.store import ImageSource, open_images, read_block
from recognition.errors import ConfigError
from recognition.formats.model_facts import ModelFacts


class FaceEmbedder(Protocol):
    """Embeds aligned faces."""

    @property
    def facts(self) -> ModelFacts:
        """What results say of the model."""
        ...

    def embed(self, images_rgb: np.ndarray) -> np.ndarray:
        """Return float32 [n, D] for uint8 RGB images [n, S, S, 3]."""
        ...


def load_embedder(
    model: str,
    *,
    network: str | None = None,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    asked: AskedScale | None = None,
    precision: Precision = "off",
) -> FaceEmbedder:
    """Load "dlib", an .onnx file, a run folder or a weight file; errors say what is missing.

    What a run or a file says of itself decides; `network` names the network of a bare file, `asked` the pixels of a
    stranger's .onnx file, which runs on as many threads as torch; `precision` is that of a network of torch.
    """
    if precision != "off" and not is_torch(model):
        raise ConfigError(f"{model}: is computed in the precision of its file; --precision {precision}; leave it out")
    if not is_onnx(model) and asked:
        raise ConfigError(f"{model}: is no .onnx file; --mean, --std and --color are for those; leave them out")
    if model == "dlib":
        return DlibEmbedder()
    if is_onnx(model):
        found = OnnxEmbedder(Path(model), batch_size=batch_size, threads=torch.get_num_threads(), asked=asked)
        if network not in (None, found.facts.network):
            raise ConfigError(f"{model}: an .onnx file holds its network; --network {network!r:.60}; leave it out")
        return found
    return Embedder.load(Path(model), network, device=device, batch_size=batch_size, precision=precision)


def is_torch(model: str) -> bool:
    """Tell whether a model's name is that of a network that torch computes."""
    return model != "dlib" and not is_onnx(model)


def is_onnx(model: str) -> bool:
    """Tell whether a model's name is that of an ONNX file."""
    return model.lower().endswith(".onnx")


@dataclass(frozen=True)
class BlockEmbedder:
    """Embeds whole blocks of a set."""

    source: ImageSource
    embedder: FaceEmbedder

    @property
    def facts(self) -> ModelFacts:
        """What results say of the model."""
        return self.embedder.facts

    def __call__(self, block: int) -> np.ndarray:
        """Return float32 [n, D]."""
        return self.embedder.embed(read_block(self.source, block))

    def dimension(self, model: str) -> int:
        """Return D, by one image; errors say that the set is unusable, or that `model` does not take its images."""
        image = read_block(self.source, 0)[:1]
        found = try_images(self.embedder.embed, image, place=f"{model}:", advice="align the faces to that")
        return int(found.shape[1])


def prepare_blocks(
    faces: Path,
    model: str,
    network: str | None,
    batch_size: int,
    device: str,
    asked: AskedScale | None = None,
    *,
    precision: Precision = "off",
) -> BlockEmbedder:
    """Open the set and load the network, with one thread a process on the CPU."""
    if device == "cpu":
        torch.set_num_threads(1)
    embedder = load_embedder(
        model, network=network, device=device, batch_size=batch_size, asked=asked, precision=precision
    )
    return BlockEmbedder(open_images(faces), embedder)
