"""What an ONNX file says of its one input: axes, side, batch, type of the numbers, and how pixels are scaled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recognition.backbones.metadata import KEY, ModelMetadata
from recognition.embedding.input_scale import AskedScale, scale_in_graph, scale_in_metadata
from recognition.errors import CheckpointError, ConfigError
from recognition.images.preprocess import BYTES, PixelScale
from recognition.work.onnx_session import read_graph

_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
_TO_PLANES = [0, 3, 1, 2]
"""The permutation of a Transpose from [n, H, W, 3] to [n, 3, H, W]."""


@dataclass(frozen=True)
class OnnxInput:
    """How images are fed to an ONNX file."""

    name: str
    dtype: type[np.generic]
    is_channels_last: bool
    """[n, S, S, 3]; otherwise [n, 3, S, S]."""
    side: int | None
    """Of the square images in pixels; None where any is taken."""
    batch: int | None
    """Images that it takes at once, no less and no more; None where any number is."""
    scale: PixelScale

    def batch_of(self, images: torch.Tensor, flip: torch.Tensor | None) -> np.ndarray:
        """Return images uint8 [n, S, S, 3] RGB as the file takes them; a fixed batch is filled with the last image."""
        planes = self.scale.feed(images, flip).numpy()
        if self.is_channels_last:
            planes = planes.transpose(0, 2, 3, 1)
        missing = max(0, (self.batch or 0) - len(planes))
        filled = np.concatenate([planes, np.repeat(planes[-1:], missing, axis=0)]) if missing else planes
        fed: np.ndarray = np.ascontiguousarray(filled, dtype=self.dtype)
        return fed


def own_metadata(session: Any, path: Path) -> ModelMetadata | None:
    """Return what a file of this project says of itself; None of a stranger's, CheckpointError of a damaged one."""
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    return None if text is None else ModelMetadata.from_json(text, place=str(path))


def read_input(session: Any, path: Path, own: ModelMetadata | None, asked: AskedScale) -> OnnxInput:
    """Return how the file is fed; CheckpointError when it takes no images, or nothing fits its pixels.

    Its metadata decides if it is ours; else flags, then the first nodes of the graph, then its metadata; where all are
    silent, it is fed as insightface's files are, which is the way of `to_network`.
    """
    inputs = session.get_inputs()
    shape = list(inputs[0].shape) if inputs else []
    if len(inputs) != 1 or len(shape) != 4:
        raise CheckpointError(
            f"{path}: has {len(inputs)} inputs, the first of shape {shape}; expected one of images [n, 3, S, S] or "
            "[n, S, S, 3]; export a backbone"
        )
    name = inputs[0].name
    if inputs[0].type not in _TYPES:
        raise CheckpointError(
            f"{path}: takes {inputs[0].type}; expected float, float16, double or uint8; export it for one of them"
        )
    is_channels_last = _is_channels_last(shape, path, name)
    side = _side(shape[1:3] if is_channels_last else shape[2:4], shape, path)
    batch = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
    dtype = _TYPES[inputs[0].type]
    if own is not None:
        return OnnxInput(name, dtype, is_channels_last, side, batch, _own_scale(own, side, asked, path))
    texts = session.get_modelmeta().custom_metadata_map
    scale = _scale(path, name, dtype, texts, asked)
    return OnnxInput(name, dtype, is_channels_last, side, batch, scale)


def _own_scale(own: ModelMetadata, side: int | None, asked: AskedScale, path: Path) -> PixelScale:
    if asked:
        raise ConfigError(f"{path}: says itself how it is fed; --mean, --std and --color contradict it; leave them out")
    if side != own.architecture.image_size or own.color not in ("RGB", "BGR"):
        raise CheckpointError(
            f"{path}: takes {own.color} images of {side} pixels; its metadata says {own.architecture.image_size}; "
            "expected what `export` writes; export the model again"
        )
    return PixelScale((own.mean,) * 3, (own.std,) * 3, own.color)


def _scale(path: Path, name: str, dtype: type[np.generic], texts: dict[str, str], asked: AskedScale) -> PixelScale:
    if dtype is np.uint8:
        if asked.mean is not None:
            raise ConfigError(f"{path}: takes bytes (uint8); --mean and --std cannot be applied; leave them out")
        return asked.over(BYTES)
    if asked.mean is not None:
        return asked.over(PixelScale())
    found = scale_in_graph(read_graph(path), name, place=path) or scale_in_metadata(texts, place=path)
    return asked.over(found or PixelScale())


def _is_channels_last(shape: list[Any], path: Path, name: str) -> bool:
    """Tell where the three channels are; where no number says it, the first node does."""
    if shape[1] == 3:
        return False
    if shape[3] == 3:
        return True
    if isinstance(shape[1], int) and isinstance(shape[3], int):
        raise CheckpointError(
            f"{path}: takes images of shape {shape}; expected 3 channels, [n, 3, S, S] or [n, S, S, 3]; take another "
            "file"
        )
    users = [node for node in read_graph(path).graph.node if name in node.input]
    orders = [list(attribute.ints) for node in users for attribute in node.attribute if attribute.name == "perm"]
    return bool(orders) and all(order == _TO_PLANES for order in orders)


def _side(sides: list[Any], shape: list[Any], path: Path) -> int | None:
    numbers = {side for side in sides if isinstance(side, int) and side > 0}
    if len(numbers) > 1:
        raise CheckpointError(
            f"{path}: takes images of shape {shape}; expected squares, as faces are aligned here; take another file"
        )
    return numbers.pop() if numbers else None
