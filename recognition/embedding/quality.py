"""A quality score for each face: the length of its embedding, or any ONNX network with one number a face."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from recognition.errors import CheckpointError
from recognition.images.preprocess import to_network
from recognition.work.files import file_sha256
from recognition.work.onnx_session import open_onnx

LENGTH = "length"
"""The word for the length of the embedding, which networks trained with a margin make short for faces they cannot read
(MagFace, arXiv:2103.06627, trains for it)."""
DEFAULT_SIDE = 112


def embedding_lengths(vectors: np.ndarray) -> np.ndarray:
    """Return the lengths [n] float32 of embeddings [n, D]."""
    lengths: np.ndarray = np.linalg.norm(np.asarray(vectors, dtype=np.float32), axis=1)
    return lengths


class OnnxQuality:
    """A network that gives one number for each image [n, 3, S, S] in [-1, 1], RGB: the larger, the better the face."""

    def __init__(self, path: Path, *, batch_size: int = 64) -> None:
        self._session = open_onnx(path)
        self._path = path
        inputs = self._session.get_inputs()
        shape = inputs[0].shape if len(inputs) == 1 else []
        if len(shape) != 4:
            raise CheckpointError(
                f"{path}: has {len(inputs)} inputs, the first of shape {shape}; expected images [n, 3, S, S]; export a "
                "network that takes aligned faces"
            )
        self._input = inputs[0].name
        self.image_size = shape[2] if isinstance(shape[2], int) else DEFAULT_SIDE
        self._batch_size = shape[0] if isinstance(shape[0], int) else batch_size
        self.fingerprint = file_sha256(path)

    def __call__(self, images_rgb: np.ndarray) -> np.ndarray:
        """Return float32 [n] for uint8 RGB images [n, S, S, 3]; CheckpointError unless it gives one number a face."""
        found = []
        for start in range(0, len(images_rgb), self._batch_size):
            part = images_rgb[start : start + self._batch_size]
            numbers = np.asarray(self._run(to_network(torch.from_numpy(np.ascontiguousarray(part))).numpy()))
            if numbers.size != len(part) or not np.isfinite(numbers).all():
                raise CheckpointError(
                    f"{self._path}: gives {list(numbers.shape)} for {len(part)} images; expected one finite number "
                    "each; take a network of face quality"
                )
            found.append(numbers.reshape(-1).astype(np.float32))
        return np.concatenate(found) if found else np.zeros(0, np.float32)

    def _run(self, images: np.ndarray) -> np.ndarray:
        try:
            outputs: list[np.ndarray] = self._session.run(None, {self._input: images})
        except Exception as err:  # onnxruntime's errors have no common class
            reason = str(err).strip().partition("\n")[0]
            raise CheckpointError(
                f"{self._path}: does not run on images {list(images.shape)} ({reason[:200]}); expected one number a "
                "face; give a network for their size"
            ) from err
        return outputs[0]
