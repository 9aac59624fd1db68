"""The model that a run shows: what is validated and published need not be what it trains on.

Without sync_bn BatchNorm's statistics are the ranks' mean; with `train.ema` the weights are an average over the steps;
with `train.recalibrate_bn` the statistics are taken anew, for these weights, from images as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from recognition.backbones.precision import autocast
from recognition.config.schema import Config
from recognition.distributed.replicate import average_buffers_, averaged_buffers
from recognition.distributed.world import World
from recognition.embedding.embedder import evaluating
from recognition.images.preprocess import to_network
from recognition.training.build import Parts

ReadImages = Callable[[np.ndarray], Tensor]
"""Numbers of images [n] -> their pixels, uint8 [n, S, S, 3] on the host."""


class ShownModel:
    """Turns the backbone of a run into the model it shows, for a while; the training keeps every bit."""

    def __init__(self, parts: Parts, config: Config, world: World, *, num_images: int, read: ReadImages) -> None:
        self._parts = parts
        self._world = world
        self._precision = config.train.precision
        self._batch_size = config.train.batch_size
        self._read = read
        # Each rank takes as many, spread evenly over the set; no batch is a single image, which has no variance.
        wanted = min(config.train.recalibrate_bn, num_images) // world.size
        every = np.linspace(0, num_images - 1, wanted * world.size).astype(np.int64)
        self._images = every[world.rank :: world.size]

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Within, the backbone is that model, equal on all ranks. Collectives: one sum, or those of its BatchNorm."""
        backbone, average = self._parts.backbone, self._parts.average
        counts = [(module, module.num_batches_tracked) for module in _norms(backbone)]
        kept = [None if count is None else count.clone() for _, count in counts]
        with average.applied() if average else contextlib.nullcontext(), averaged_buffers(backbone, self._world):
            try:
                if len(self._images) > 1:
                    self._recalibrate_(backbone)
                yield
            finally:
                for (_, count), before in zip(counts, kept):
                    if count is not None and before is not None:
                        count.copy_(before)

    @torch.no_grad()
    def _recalibrate_(self, backbone: nn.Module) -> None:
        """Let BatchNorm's statistics be the plain mean over batches of the chosen images, without augmentation."""
        norms = _norms(backbone)
        momenta = [norm.momentum for norm in norms]
        with evaluating(backbone):
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # the mean over all batches
                norm.train()
            for numbers in _batches(self._images, self._batch_size):
                images = to_network(self._read(numbers).to(self._world.device))
                with autocast(self._world.device, self._precision):
                    backbone(images)
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
        average_buffers_(backbone, self._world)


def _norms(module: nn.Module) -> list[_BatchNorm]:
    """Return the BatchNorms whose statistics are learned: not those that are frozen."""
    return [
        part
        for part in module.modules()
        if isinstance(part, _BatchNorm) and part.running_mean is not None and not is_frozen_norm(part)
    ]


def is_frozen_norm(module: nn.Module) -> bool:
    """Tell whether a module is a BatchNorm whose parameters are frozen; its statistics then are, too."""
    parameters = list(module.parameters(recurse=False))
    return isinstance(module, _BatchNorm) and bool(parameters) and not any(p.requires_grad for p in parameters)


def hold_frozen_norms_(module: nn.Module) -> None:
    """Put frozen BatchNorms into evaluation mode, after `module.train()` has put all parts into the other."""
    for part in module.modules():
        if is_frozen_norm(part):
            part.eval()


def _batches(images: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield the numbers in about equal parts of at most `size`."""
    yield from np.array_split(images, -(-len(images) // max(2, size)))
