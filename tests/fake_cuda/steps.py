"""Whole training steps on a fake `cuda:0`, alone or as one rank of many; prints what they did as JSON lines.

    python -m tests.fake_cuda.steps '{"size": 8, "overrides": ["head.sample_rate=0.1"]}' ...

A case: `size` ranks (1), `rank` (0), `overrides` of a config, `steps` (2), `classes` (2,000), `kernels` (false):
whether launches of the head's are counted in their place.
"""

from __future__ import annotations

import json
import sys
import traceback
from typing import Any

from tests.fake_cuda.library import load

CONFIG = ["backbone.network=tiny", "backbone.embedding_size=128", "train.batch_size=4"]


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    """Take the steps of one case; return what the last of them did, or the error."""
    import torch
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from recognition.config.loader import load_config
    from recognition.distributed import replicate
    from recognition.distributed.world import World
    from recognition.heads import choosing, guards
    from recognition.plan.traffic import Trace
    from recognition.training.build import build_parts
    from recognition.training.stepper import Stepper
    from tests.fake_cuda.replica import FakeReplica
    from tests.fake_cuda.streams import taken_waits
    from tests.fake_cuda.watch import FakeMode, Watch

    size, rank, classes = case.get("size", 1), case.get("rank", 0), case.get("classes", 2000)
    config = load_config("configs/base.yaml", CONFIG + case.get("overrides", []))
    trace = Trace() if case.get("kernels") else None
    if trace is not None:
        count_kernels(trace)
    if size > 1:
        dist.init_process_group("fake", rank=rank, world_size=size, store=FakeStore())
    replicate.DistributedDataParallel = FakeReplica  # type: ignore[misc]
    choosing.count_own = _counted
    guards.gather_numbers = _met  # type: ignore[assignment]
    world = World(rank, size, 0, torch.device("cuda", 0))
    try:
        with FakeMode():
            parts = build_parts(config, classes, world)
            parts.head._has_met = True  # the first forward of a run waits for the device once, to see that ranks agree
            stepper = Stepper(config, parts, world)
            for step in range(case.get("steps", 2)):
                batches = [_batch(config, step) for _ in range(config.train.gradient_accumulation)]
                labels = _labels_on_host(config, size, step) if parts.head.asks_the_host else None
                if trace is not None:
                    trace.works.clear()
                taken_waits()
                with Watch() as watch:
                    result = stepper.step(batches, step=step, epoch=0, lr=0.1, labels_on_host=labels)
            sampled = None if parts.head.result.sampled is None else len(parts.head.result.sampled)
            devices = {str(value.device) for value in (result.refused, *result.values.values())}
    except Exception as err:  # the caller compares and prints it
        return {"error": f"{type(err).__name__}: {err}", "traceback": traceback.format_exc()}
    finally:
        if size > 1:
            dist.destroy_process_group()
    seen = watch.seen
    return {
        "launches": seen.num_launches + (0 if trace is None else trace.num_launches),
        "kernels": None if trace is None else [work.name for work in trace.works],
        "most": dict(seen.launches.most_common(8)),
        "beside": seen.beside.total(),
        "waits": taken_waits(),
        "crossings": seen.crossings,
        "collectives": [str(each) for each in seen.collectives],
        "devices": sorted(devices),
        "sampled": sampled,
        "parameters": sum(p.numel() for p in parts.backbone.parameters() if p.requires_grad),
    }


def count_kernels(trace: Any) -> None:
    """Put what notes launches in `trace` in the place of the head's kernels."""
    from recognition.heads import kernel_choice
    from recognition.heads.fused import path
    from recognition.plan.traffic import Counted

    counted = Counted(trace)
    kernel_choice._has_triton = lambda: True
    kernel_choice._tried_kernels = lambda device: counted  # type: ignore[assignment]
    path._modules = lambda: (counted, counted, counted)  # type: ignore[assignment]


def _met(numbers: Any, world: Any, **where: Any) -> list[list[int]]:
    """Answer for the other hosts, which bring what this one does: tensors of FakeTensorMode have no values to send."""
    return [list(numbers)] * world.size


def _counted(labels: Any, classes: range) -> int:
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    from recognition.heads.sampling import count_own

    if labels.device.type == "cuda":
        return count_own(labels, classes)  # raises, as waiting for a value does
    with unset_fake_temporarily():
        return count_own(labels, classes)


def _labels_on_host(config: Any, size: int, step: int) -> list[Any]:
    import torch
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    with unset_fake_temporarily():  # these have values
        each = torch.arange(config.train.batch_size * size) + step
        return [each] * config.train.gradient_accumulation


def _batch(config: Any, step: int) -> Any:
    import torch

    from recognition.feed.batches import Batch

    device = torch.device("cuda", 0)
    num, side = config.train.batch_size, config.data.image_size
    images = torch.zeros(num, side, side, 3, dtype=torch.uint8, device=device)
    numbers = torch.arange(num, device=device) + step
    return Batch(images, numbers, numbers)


def main(cases: list[str]) -> None:
    """Run each case in turn."""
    load()
    for text in cases:
        print(json.dumps(run_case(json.loads(text))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
