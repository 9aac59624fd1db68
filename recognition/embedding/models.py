"""What turns aligned faces into vectors: a run, weights, an ONNX file of this project, or dlib's network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from recognition.embedding.dlib_embedder import DlibEmbedder
from recognition.embedding.embedder import Embedder, try_images
from recognition.embedding.store import ImageSource, open_images, read_block
from recognition.errors import CheckpointError
from recognition.formats.model_facts import ModelFacts
from recognition.images.preprocess import to_network
from recognition.work.files import file_sha256
from recognition.work.onnx_session import open_onnx


class FaceEmbedder(Protocol):
    """Embeds aligned faces."""

    @property
    def facts(self) -> ModelFacts:
        """What results say of the model."""
        ...

    def embed(self, images_rgb: np.ndarray) -> np.ndarray:
        """Return float32 [n, D] for uint8 RGB images [n, S, S, 3]."""
        ...


class OnnxEmbedder:
    """An exported backbone: images [n, 3, S, S] in [-1, 1] -> embeddings [n, D]; with and without mirroring, summed."""

    def __init__(self, path: Path, *, batch_size: int = 64, threads: int = 1) -> None:
        self._session = open_onnx(path, threads=threads)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shape = inputs[0].shape
        if len(inputs) != 1 or len(shape) != 4 or len(outputs) != 1:
            raise CheckpointError(
                f"{path}: has {len(inputs)} inputs and {len(outputs)} outputs, the first of shape {shape}; "
                "expected images [n, 3, S, S] -> embeddings [n, D]; export a backbone"
            )
        self._path, self._input = path, inputs[0].name
        self._side = shape[2] if isinstance(shape[2], int) else None
        self._batch_size = shape[0] if isinstance(shape[0], int) else batch_size
        self.facts = ModelFacts(file_sha256(path), image_size=self._side)

    def embed(self, images_rgb: np.ndarray) -> np.ndarray:
        """Return float32 [n, D]: f(image) + f(mirror image), not normalized."""
        if self._side is not None and images_rgb.shape[1] != self._side:
            raise CheckpointError(
                f"{self._path}: takes images of {self._side} pixels; found {images_rgb.shape[1]}; align to its size"
            )
        starts = range(0, len(images_rgb), self._batch_size)
        return np.concatenate([self._flip_sum(images_rgb[start : start + self._batch_size]) for start in starts])

    def _flip_sum(self, images_rgb: np.ndarray) -> np.ndarray:
        images = torch.from_numpy(np.ascontiguousarray(images_rgb))
        mirrored = torch.ones(len(images), dtype=torch.bool)
        plain, other = (self._run(to_network(images, flip).numpy()) for flip in (None, mirrored))
        summed: np.ndarray = (plain + other).astype(np.float32)
        return summed

    def _run(self, images: np.ndarray) -> np.ndarray:
        try:
            found: np.ndarray
            (found,) = self._session.run(None, {self._input: images})
        # onnxruntime's errors have no common class.
        except Exception as err:
            reason = str(err).strip().partition("\n")[0]
            raise CheckpointError(
                f"{self._path}: does not run on images {list(images.shape)} ({reason[:200]}); expected embeddings; "
                "export the backbone for their size"
            ) from err
        return found


def load_embedder(
    model: str, *, network: str | None = None, device: torch.device | str = "cpu", batch_size: int = 64
) -> FaceEmbedder:
    """Load "dlib", an .onnx file, a run folder or a weight file; errors say what is missing.

    What a run or a file says of itself decides; `network` names the network of a bare file.
    """
    if model == "dlib":
        return DlibEmbedder()
    if model.endswith(".onnx"):
        return OnnxEmbedder(Path(model), batch_size=batch_size)
    return Embedder.load(Path(model), network, device=device, batch_size=batch_size)


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


def prepare_blocks(faces: Path, model: str, network: str | None, batch_size: int, device: str) -> BlockEmbedder:
    """Open the set and load the network, with one thread a process on the CPU."""
    if device == "cpu":
        torch.set_num_threads(1)
    embedder = load_embedder(model, network=network, device=device, batch_size=batch_size)
    return BlockEmbedder(open_images(faces), embedder)
