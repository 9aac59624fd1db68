"""The plan's memory against the memory of real steps, counted tensor by tensor."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recognition.config.checks import check_config
from recognition.config.loader import load_config
from recognition.distributed.publish import files_of
from recognition.distributed.staging import Staging
from recognition.distributed.world import World
from recognition.feed.loader import Batch
from recognition.plan import make_plan
from recognition.training.build import build_parts
from recognition.training.resume import snapshot_run
from recognition.training.run_meta import RunMeta
from recognition.training.state import TrainState
from recognition.training.stepper import Stepper


class LivePeak(TorchDispatchMode):
    """Counts the bytes of all living tensors that were made under it, and remembers the most."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._seen: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._seen:
            return
        self._seen[key] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.live -= self._seen.pop(key)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_classes", "overrides"),
    [
        (20_000, ["backbone.network=tiny", "train.batch_size=64", "train.precision=off"]),
        (40_000, ["backbone.network=tiny", "train.batch_size=32", "head.update=autograd"]),
        (
            30_000,
            ["backbone.network=tiny", "train.batch_size=32", "head.centers_format=bf16", "head.momentum_format=int8"],
        ),
        (1_000, ["backbone.network=mbf", "train.batch_size=16"]),
        (1_000, ["backbone.network=r18", "train.batch_size=16", "optim.optimizer=adamw"]),
    ],
)
def test_the_estimate_is_within_a_tenth_of_a_step(num_classes, overrides):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    config = load_config("configs/base", overrides)
    check_config(config)
    batch = Batch(
        torch.zeros(config.train.batch_size, 112, 112, 3, dtype=torch.uint8),
        torch.arange(config.train.batch_size),
        torch.arange(config.train.batch_size),
    )
    world = World(0, 1, 0, torch.device("cpu"))
    with LivePeak() as memory:
        parts = build_parts(config, num_classes, world)
        stepper = Stepper(config, parts, world)
        stepper.step([batch], step=0, epoch=0, lr=0.1)
    torch.set_num_threads(threads)
    plan = make_plan(config, world_size=1, num_images=1000, num_classes=num_classes)
    measured = memory.peak + batch.images.nbytes
    assert plan.memory.total == pytest.approx(measured, rel=0.10), plan.memory
    meta = RunMeta(TrainState(), stepper.scaler.state(), config.backbone.network, config.train.batch_size, None)
    staging = Staging(files_of(snapshot_run(parts, meta, has_own_buffers=True), rank=0))
    assert plan.memory.staging == pytest.approx(staging.num_bytes, rel=0.03)
