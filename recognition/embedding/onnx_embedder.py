"""Any ONNX file that turns faces into vectors: exported here, by insightface, or by anybody else."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recognition.embedding.input_scale import AskedScale
from recognition.embedding.onnx_input import own_metadata, read_input
from recognition.errors import CheckpointError
from recognition.formats.model_facts import ModelFacts
from recognition.images.preprocess import PixelScale
from recognition.work.files import file_sha256
from recognition.work.onnx_session import open_onnx

PRECISION_KEY = "arcshard_precision"
"""Beside the metadata of a file that is ours: "fp32", "fp16" or "int8"."""


class OnnxEmbedder:
    """An ONNX file from images to embeddings [n, D], run with onnxruntime on the CPU.

    Raises CheckpointError, when it is opened or when it is first run, for a file of another kind.
    """

    def __init__(self, path: Path, *, batch_size: int = 64, threads: int = 1, asked: AskedScale | None = None) -> None:
        self._session = open_onnx(path, threads=threads)
        self.metadata = own_metadata(self._session, path)
        """Of a file that is ours."""
        self._input = read_input(self._session, path, self.metadata, asked or AskedScale())
        self._output = _find_output(self._session, path)
        self.path, self.batch_size = path, self._input.batch or batch_size
        self.facts = self._find_facts(asked)
        texts = self._session.get_modelmeta().custom_metadata_map
        self.precision: str = texts.get(PRECISION_KEY, "fp32") if self.metadata else "as in the file"

    @property
    def image_size(self) -> int | None:
        """Side of the images that it takes; None where it takes any."""
        return self._input.side

    @property
    def scale(self) -> PixelScale:
        """How the bytes of an image are fed."""
        return self._input.scale

    def embed(self, images_rgb: np.ndarray) -> np.ndarray:
        """Return float32 [n, D]: f(image) + f(mirror image), not normalized, for uint8 RGB images [n, S, S, 3].

        Raises CheckpointError for images of another size than the file takes, and for embeddings that are no numbers.
        """
        height, width = images_rgb.shape[1:3]
        if self.image_size is not None and not height == width == self.image_size:
            raise CheckpointError(
                f"{self.path}: takes images of {self.image_size} pixels; found {width} x {height}; align to its size"
            )
        if len(images_rgb) == 0:
            return self.embed(np.zeros((1, height, width, 3), np.uint8))[:0]
        starts = range(0, len(images_rgb), self.batch_size)
        return np.concatenate([self._flip_sum(images_rgb[start : start + self.batch_size]) for start in starts])

    def _flip_sum(self, images_rgb: np.ndarray) -> np.ndarray:
        images = torch.from_numpy(np.ascontiguousarray(images_rgb))
        mirrored = torch.ones(len(images), dtype=torch.bool)
        plain, other = (self._run(self._input.batch_of(images, flip))[: len(images)] for flip in (None, mirrored))
        summed: np.ndarray = plain + other
        return summed

    def _run(self, fed: np.ndarray) -> np.ndarray:
        """Return float32 [n, D] for what the file takes, n of them."""
        try:
            (found,) = self._session.run([self._output], {self._input.name: fed})
        # onnxruntime's errors have no common class.
        except Exception as err:
            reason = str(err).strip().partition("\n")[0]
            raise CheckpointError(
                f"{self.path}: does not run on images {list(fed.shape)} ({reason[:200]}); expected embeddings; "
                "export the backbone for their size"
            ) from err
        rows = np.asarray(found)
        # [n, D, 1, 1] is the same numbers.
        if rows.ndim < 2 or len(rows) != len(fed) or any(size != 1 for size in rows.shape[2:]):
            raise CheckpointError(
                f"{self.path}: gives {list(rows.shape)} for {len(fed)} images; expected [{len(fed)}, D]; export the "
                "backbone with a free batch"
            )
        embeddings = rows.reshape(len(rows), -1).astype(np.float32)
        # What one image gives is its user's to judge (--skip-bad).
        if not np.isfinite(embeddings).all(axis=1).any():
            raise CheckpointError(
                f"{self.path}: gives embeddings that are not finite; expected numbers; the weights hold NaN or overflow"
            )
        return embeddings

    def _find_facts(self, asked: AskedScale | None) -> ModelFacts:
        about = self.metadata
        if about is None:
            digest = file_sha256(self.path)
            if asked:
                # Fed in another way, the same file gives embeddings that must not be compared with its others.
                digest = hashlib.sha256(f"{digest} {self.scale}".encode()).hexdigest()
            return ModelFacts(digest, image_size=self.image_size)
        return ModelFacts(
            fingerprint=about.fingerprint,
            network=about.architecture.network,
            embedding_size=about.architecture.embedding_size,
            image_size=about.architecture.image_size,
            alignment=about.alignment,
            dataset=about.dataset,
        )


def _find_output(session: Any, path: Path) -> str:
    """Return the name of the output [n, D]; some files give a norm or a map beside it."""
    outputs = session.get_outputs()
    shapes = {output.name: list(output.shape) for output in outputs}
    if len(outputs) == 1:
        return str(outputs[0].name)
    rows = [name for name, shape in shapes.items() if len(shape) == 2 and shape[1] != 1]
    if len(rows) != 1:
        shown = ", ".join(f"{name!r:.40} {shape}" for name, shape in list(shapes.items())[:4])
        raise CheckpointError(
            f"{path}: has {len(outputs)} outputs ({shown}); expected one of embeddings [n, D]; export a backbone"
        )
    return str(rows[0])
