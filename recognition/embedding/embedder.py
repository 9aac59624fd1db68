"""Images -> embeddings, the way the field reads them: the sum of an image's and its mirror image's embedding."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from recognition.backbones.precision import autocast
from recognition.backbones.weights import Model, load_backbone
from recognition.config.schema import Precision
from recognition.errors import CheckpointError
from recognition.formats.model_facts import ModelFacts
from recognition.images.preprocess import to_network


def try_images(
    embed: Callable[[np.ndarray], np.ndarray], images_rgb: np.ndarray, *, place: str, advice: str
) -> np.ndarray:
    """Return embed(images), float32 [n, D]; CheckpointError when the network is not made for images of their size."""
    try:
        return embed(images_rgb)
    except RuntimeError as err:
        reason = str(err).strip().partition("\n")[0]
        raise CheckpointError(
            f"{place} does not take images of {images_rgb.shape[1]} x {images_rgb.shape[2]} pixels ({reason}); "
            f"expected the size it was trained on; {advice}"
        ) from err


class Embedder:
    """A backbone in evaluation mode, fed in batches.

    `module` stays the caller's: while images are embedded it is in evaluation mode, afterwards every part is in the
    mode it had. `precision` is that of the convolutions; "off" is float32. `model` is what it was loaded from.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        device: torch.device | str = "cpu",
        batch_size: int = 64,
        precision: Precision = "off",
        model: Model | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1")
        self.module = module.to(device)
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.precision = precision
        self._model = model

    @classmethod
    def load(
        cls,
        path: Path,
        network: str | None = None,
        *,
        device: torch.device | str = "cpu",
        batch_size: int = 64,
        precision: Precision = "off",
    ) -> Embedder:
        """Embed with the weights of a run folder or a weight file; CheckpointError when they cannot be used."""
        model = load_backbone(path, network, device=device)
        return cls(model.module, device=device, batch_size=batch_size, precision=precision, model=model)

    @property
    def facts(self) -> ModelFacts:
        """What results say of the model; nothing of one that was not loaded."""
        return ModelFacts(None) if self._model is None else self._model.facts

    def embed(self, images_rgb: np.ndarray) -> np.ndarray:
        """Return float32 [n, D]: f(image) + f(mirror image), not normalized, for uint8 RGB images [n, S, S, 3].

        Every image passes through the network twice. Raises ValueError for another type or shape, CheckpointError for
        another size than the model says it takes.
        """
        if images_rgb.dtype != np.uint8 or images_rgb.ndim != 4 or images_rgb.shape[3] != 3:
            raise ValueError(
                f"images are {images_rgb.dtype} {list(images_rgb.shape)}; expected uint8 [n, S, S, 3] in RGB"
            )
        found: np.ndarray = self.embed_tensor(torch.from_numpy(np.ascontiguousarray(images_rgb))).cpu().numpy()
        return found

    def embed_tensor(self, images: torch.Tensor) -> torch.Tensor:
        """Return what `embed` does on the network's device, without waiting for it; `images` may be there already."""
        self._check_size(*images.shape[1:3])
        # Without images one empty batch still tells the embedding size.
        starts = range(0, max(1, len(images)), self.batch_size)
        with evaluating(self.module), torch.inference_mode(), autocast(self.device, self.precision):
            return torch.cat([self._flip_sum(images[start : start + self.batch_size]) for start in starts])

    def _check_size(self, height: int, width: int) -> None:
        side = None if self._model is None else self._model.image_size
        if self._model is not None and side is not None and not height == width == side:
            raise CheckpointError(
                f"{self._model.file}: takes images of {side} x {side} pixels; found {width} x {height}; align to its "
                "size"
            )

    def _flip_sum(self, images: torch.Tensor) -> torch.Tensor:
        images = images.to(self.device)
        plain: torch.Tensor = self.module(to_network(images))
        mirrored: torch.Tensor = self.module(
            to_network(images, torch.ones(len(images), dtype=torch.bool, device=self.device))
        )
        return plain.float() + mirrored.float()


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put every part of `module` into evaluation mode, and afterwards back into the mode it had."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
