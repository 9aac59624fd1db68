"""How long an epoch would take on this machine: the parts of a step, each timed for a moment with made-up pictures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from recognition.backbones.architecture import Architecture
from recognition.backbones.precision import autocast
from recognition.backbones.profile import network_cost
from recognition.errors import DataError
from recognition.feed.dataset import Dataset
from recognition.feed.loader_size import choose_workers
from recognition.optim.groups import make_optimizer
from recognition.plan.run import Plan
from recognition.work.system import usable_cores

_LONG_S = 0.4  # a step that takes this long tells enough
_MOST_IMAGES = 64
_MOST_CLASSES = 8192
_MOST_MACS_ON_A_CPU = 1e9  # an image of r100 in half precision takes a CPU 13 s, and would be no plan but a wait
_PICTURES = 32  # that are read and decoded


@dataclass(frozen=True)
class Timing:
    """Seconds of a rank's optimizer step, estimated; what ranks send to each other is not in them."""

    backbone_s: float
    head_s: float
    loading_s: float
    """Of all loader processes together; 0 where the data are absent or made up."""
    is_apart: bool
    """Whether loading goes on beside the steps."""
    steps_per_epoch: int

    @property
    def step_s(self) -> float:
        """The whole step."""
        computed = self.backbone_s + self.head_s
        return max(computed, self.loading_s) if self.is_apart else computed + self.loading_s

    @property
    def epoch_s(self) -> float:
        """An epoch, without validation and checkpoints."""
        return self.step_s * self.steps_per_epoch


def takes_a_moment(plan: Plan, device: torch.device) -> bool:
    """Return whether `measure_timing` ends within seconds: a CPU takes minutes for a step of a deep network."""
    config = plan.config
    cost = network_cost(Architecture.of(config.backbone, config.data.image_size))
    return device.type != "cpu" or cost.macs <= _MOST_MACS_ON_A_CPU


def measure_timing(plan: Plan, dataset: Dataset | None, device: torch.device, *, ranks_here: int = 1) -> Timing:
    """Time the parts of a step of `plan` on `device`; it takes a few seconds. Ranks on one CPU share its cores."""
    shared = ranks_here if device.type == "cpu" else 1
    data = plan.config.data
    workers = choose_workers(
        data.num_workers, cores=usable_cores(), ranks_here=ranks_here, on_gpu=device.type == "cuda"
    )
    images = plan.config.train.batch_size * plan.micro_batches
    decoders = max(1, min(workers, usable_cores()) * data.num_threads)
    return Timing(
        backbone_s=_backbone_s(plan, device) * shared,
        head_s=_head_s(plan, device) * shared,
        loading_s=0.0 if dataset is None else _picture_s(dataset) * images / decoders * shared,
        is_apart=workers > 0,
        steps_per_epoch=plan.steps_per_epoch,
    )


def _backbone_s(plan: Plan, device: torch.device) -> float:
    """Time forward, backward and update with as many images as take a moment, and scale to those of a step."""
    config = plan.config
    size = config.data.image_size
    backbone = Architecture.of(config.backbone, size).build(dropout=config.backbone.dropout).to(device).train()
    if config.train.channels_last:
        backbone = backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(backbone.parameters(), config.optim, decay_all=True)

    def step() -> None:
        images = torch.zeros(num_images, 3, size, size, device=device).uniform_(-1, 1)
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, config.train.precision):
            embeddings = backbone(images)
        embeddings.float().square().mean().backward()
        optimizer.step()

    most = max(2, min(config.train.batch_size, _MOST_IMAGES))  # BatchNorm takes no single image
    num_images = 2
    seconds = _seconds(step, device)
    while seconds < _LONG_S and num_images < most:
        timed, num_images = num_images, min(most, num_images * 4)  # which `step` sees
        try:
            seconds = _seconds(step, device)
        except torch.OutOfMemoryError:  # on a smaller GPU than that of the run
            num_images = timed
            break
    return seconds / num_images * config.train.batch_size * plan.micro_batches


def _head_s(plan: Plan, device: torch.device) -> float:
    """Time one product of the head with some of its classes; a step takes four such, two in each of its two passes."""
    config = plan.config
    rows = config.train.batch_size * plan.world_size
    used = plan.sampled_classes * config.head.sub_centers
    some = min(used, _MOST_CLASSES)
    dtype = torch.bfloat16 if config.head.products == "bf16" else torch.float32
    width = config.backbone.embedding_size
    left, right = (torch.ones(count, width, device=device, dtype=dtype) for count in (rows, max(1, some)))
    return 4 * plan.micro_batches * used / max(1, some) * _seconds(lambda: left @ right.T, device)


def _picture_s(dataset: Dataset) -> float:
    """Time reading and decoding of a few pictures; those that cannot be read count as read."""
    sample = np.unique(np.linspace(0, len(dataset) - 1, _PICTURES).astype(np.int64)).tolist()
    started = time.perf_counter()
    for index in sample:
        try:
            dataset[index]
        except DataError:
            continue
    return (time.perf_counter() - started) / len(sample)


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """Return the time of the second of two calls."""
    call()
    _wait(device)
    started = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
