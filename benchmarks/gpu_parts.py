"""The parts of gpu.py. Each returns name -> figure; with `is_fake`, tensors have no values and times no meaning."""

from __future__ import annotations

import contextlib
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recognition.clustering.graph import pairs_above
from recognition.config.loader import load_config
from recognition.distributed.world import World
from recognition.feed.batches import Batch
from recognition.heads import state as head_state
from recognition.heads.products import adds_in_float32, resolve_products
from recognition.heads.sharded_softmax import ShardedSoftmax
from recognition.plan.traffic import Trace
from recognition.training.build import build_parts
from recognition.training.cuda_settings import settle_cuda
from recognition.training.stepper import Stepper

CUDA = torch.device("cuda", 0)
WORLD = World(0, 1, 0, CUDA)
COUNTED = Trace()
"""Where there is no GPU: launches of the head's kernels, which are counted in their place."""
WANTS_A_GPU = {
    "rivals": "others' kernels compute nothing without a GPU",
    "loader": "its copies need page-locked memory and CUDA's streams",
    "checkpoint": "it is timed by CUDA's events",
    "graph": "NumPy reads the pairs, and they have no values (tests/fake_cuda runs the tiles)",
    "determinism": "tensors have no values to compare",
    "ending": "it is the same with a stand-in for NCCL in tests/recognition/distributed/test_endings.py",
}


def probes(*, is_fake: bool) -> dict[str, Any]:
    """What is here, and what "auto" makes of it."""
    head = _head(64)
    device = {} if is_fake else {"device": torch.cuda.get_device_name(0), "CUDA": torch.version.cuda}
    return device | {
        "torch": torch.__version__,
        "products auto": resolve_products("auto", CUDA),
        "addmm of bf16 into float32": adds_in_float32(CUDA),
        "kernels": head._loop.kernels is not None,
    }


def kernels(*, is_fake: bool) -> dict[str, Any]:
    """One step of the head on the device against float64 on the CPU: largest difference, relative to the largest."""
    found: dict[str, Any] = {}
    cpu = ShardedSoftmax(3000, 128, world=World(0, 1, 0, torch.device("cpu")), dtype=torch.float64, seed=1)
    rows = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(64) * 7
    expected = None if is_fake else _step(cpu, rows.double(), labels)
    for mode, products in itertools.product(("device", "kernels"), ("float32", "tf32", "bf16")):
        head = ShardedSoftmax(3000, 128, world=WORLD, mode=mode, products=products, seed=1, block_size=512)  # type: ignore[arg-type]
        gotten = _step(head, rows.to(CUDA), labels.to(CUDA))
        if expected is None:
            found[f"{mode}, {products}"] = "ran"
            continue
        errors = [float((g.cpu().double() - e).abs().max() / e.abs().max()) for g, e in zip(gotten, expected)]
        found[f"{mode}, {products}: loss, dx, centers"] = [f"{error:.1e}" for error in errors]
    return found


def sync(*, is_fake: bool) -> dict[str, Any]:
    """Ten whole steps in which a wait for the device is an error."""
    found: dict[str, Any] = {}
    for name, overrides in {
        "full": [],
        "sampled": ["head.sample_rate=0.1"],
        "bf16 and int8": ["head.centers_format=bf16", "head.momentum_format=int8"],
        "augmented": ["augment.preset=arcface_dali", "augment.jpeg=0.5"],
    }.items():
        stepper, batch = _stepper("tiny", 16, 20_000, overrides)
        stepper.parts.head._has_met = True  # its first forward waits once
        wants = stepper.parts.head.asks_the_host and not is_fake
        labels = [torch.arange(16)] if wants else None
        if is_fake and stepper.parts.head.asks_the_host:
            found[name] = "not run: the labels on the host have no values (tests/fake_cuda runs it)"
            continue
        stepper.step([batch], step=0, epoch=0, lr=0.1, labels_on_host=labels)
        with _no_waits(is_fake):
            for step in range(1, 11):
                stepper.step([batch], step=step, epoch=0, lr=0.1, labels_on_host=labels)
        found[name] = "ten steps without a wait"
    return found


def sweep(*, is_fake: bool) -> dict[str, Any]:
    """Milliseconds of a head's step on a million classes, by rows, products and block."""
    num_classes = 20_000 if is_fake else 1_000_000
    found: dict[str, Any] = {}
    blocks = (None, 8192) if is_fake else (None, 4096, 16384, 65536)
    for products, rows in itertools.product(("bf16", "tf32", "float32"), (1024, 8192)):
        for block in blocks:
            head = _head(num_classes, products=products, block_size=block)
            found[f"{products}, N {rows}, block {block or 'auto'}"] = _ms(_head_step(head, rows), is_fake=is_fake)
            del head
    return found


def _head_step(head: ShardedSoftmax, rows: int) -> Callable[[], object]:
    optimizer = head.optimizer(lr=0.1, momentum=0.9)
    embeddings = torch.randn(rows, 512, device=CUDA, requires_grad=True)
    labels = torch.arange(rows, device=CUDA)

    def step() -> None:
        head(embeddings, labels).backward()
        optimizer.step()

    return step


def head(*, is_fake: bool) -> dict[str, Any]:
    """Milliseconds of a whole step of the head at N = 1,024, full softmax, by the path its products take."""
    found: dict[str, Any] = {}
    small = {"centers_format": "bf16", "momentum_format": "int8"}
    # Without a GPU, what a rank has of 10 million identities over 8: launches are those of the real thing.
    for millions, formats in ((1.25, {}), (1.25, small)) if is_fake else ((1, {}), (10, {}), (29, small)):
        made = _head(int(millions * 1_000_000), products="bf16", **formats)
        name = f"{millions:g} M, {'bf16 + int8' if formats else 'float32'}"
        path = made._loop.fused
        for variant in () if path is None else ("chunks", "on chip"):
            path.variant = variant  # type: ignore[assignment]
            found[f"{name}, kernels, {variant}"] = _ms(_head_step(made, 1024), is_fake=is_fake)
        made._loop.fused = None
        found[f"{name}, cuBLAS"] = _ms(_head_step(made, 1024), is_fake=is_fake)
        del made, path
    return found


def rivals(*, is_fake: bool) -> dict[str, Any]:
    """Milliseconds of loss and gradients alone, without margin or update, by what others offer for the same sizes."""
    found: dict[str, Any] = {}
    for millions, (name, load) in itertools.product((1, 10), _RIVALS.items()):
        place = f"{name}, {millions} M, N 1024"
        try:
            loss_of = load()
        except (ImportError, AttributeError) as err:
            found[place] = f"not run: {err}"
            continue
        weight = torch.randn(millions * 1_000_000, 512, device=CUDA, dtype=torch.bfloat16).mul_(0.01).requires_grad_()
        rows = torch.randn(1024, 512, device=CUDA, dtype=torch.bfloat16, requires_grad=True)
        labels = torch.arange(1024, device=CUDA)

        def step(loss_of: Any = loss_of, weight: Any = weight, rows: Any = rows, labels: Any = labels) -> None:
            weight.grad = rows.grad = None
            loss_of(rows, weight, labels).backward()

        try:
            found[place] = _ms(step, is_fake=is_fake, count=5)
        except (RuntimeError, ValueError) as err:  # no memory left, mostly
            found[place] = f"failed: {str(err).splitlines()[0][:120]}"
        del weight, rows, step
        torch.cuda.empty_cache()
    return found


def _of_torch() -> Any:
    return torch.nn.functional.linear_cross_entropy


def _of_liger() -> Any:
    from liger_kernel.transformers.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyLoss

    loss = LigerFusedLinearCrossEntropyLoss()
    return lambda rows, weight, labels: loss(weight, rows, labels)


def _of_apple() -> Any:
    from cut_cross_entropy import linear_cross_entropy

    return linear_cross_entropy


_RIVALS = {
    "F.linear_cross_entropy": _of_torch,
    "Liger's fused linear cross-entropy": _of_liger,
    "Apple's cut cross-entropy": _of_apple,
}


def networks(*, is_fake: bool) -> dict[str, Any]:
    """Images per second of whole steps."""
    found: dict[str, Any] = {}
    batch_size = 2 if is_fake else 128
    cases: dict[str, tuple[str, int, list[str]]] = {
        f"{network}{' compiled' if compiles else ''}": (network, 100_000, [f"train.compile={str(compiles).lower()}"])
        for network, compiles in itertools.product(("r50", "r100"), (False,) if is_fake else (False, True))
    }
    for overlap in ("false", "true"):
        cases[f"r50, 1 M identities, head.overlap {overlap}"] = "r50", 1_000_000, [f"head.overlap={overlap}"]
    for name, (network, num_classes, overrides) in cases.items():
        stepper, batch = _stepper(network, batch_size, num_classes, overrides)
        stepper.parts.head._has_met = True
        ms = _ms(partial(stepper.step, [batch], step=0, epoch=0, lr=0.1), is_fake=is_fake)
        found[name] = ms if isinstance(ms, str) else f"{1000 * batch_size / ms:.0f} img/s"
    return found


def loader(*, is_fake: bool) -> dict[str, Any]:
    """Images per second that reach the device."""
    from recognition.feed.build import build_loader
    from recognition.feed.datasets import open_dataset

    config = load_config("configs/base.yaml", ["data.rec=synthetic", "data.num_classes=1000", "data.num_image=100000"])
    with tempfile.TemporaryDirectory() as folder:
        fed = build_loader(config, open_dataset(config.data), WORLD, Path(folder))
        batches = fed.epoch(0)
        for _ in range(20):
            next(batches)
        ms = _ms(lambda: next(batches), is_fake=is_fake, count=200)
        fed.close()
    return {"synthetic images, to the device": f"{1000 * config.train.batch_size / float(ms):.0f} img/s"}


def checkpoint(*, is_fake: bool) -> dict[str, Any]:
    """How long the copy that a checkpoint is written from holds the device's stream."""
    from recognition.distributed.staging import Staging, stage_tensors

    head = _head(2_000_000)
    files = {"centers": head.state_rows()}
    staging = Staging(files)
    ms = _ms(lambda: stage_tensors(staging, files), is_fake=is_fake, count=5)
    return {f"copy of {staging.num_bytes / 1e9:.1f} GB": f"{ms} ms, {staging.num_bytes / 1e6 / float(ms):.1f} GB/s"}


def graph(*, is_fake: bool) -> dict[str, Any]:
    """The pairs of 20,000 faces as the CPU finds them, with a wait inside a tile an error; seconds of 200,000."""
    people = np.random.default_rng(0).standard_normal((5000, 512), np.float32)
    faces = np.concatenate([people + 1.2 * np.random.default_rng(i).standard_normal((5000, 512)) for i in range(40)])
    faces = faces.astype(np.float32)
    expected = pairs_above(faces[:20_000], 0.3)
    with _no_waits(is_fake):
        found = pairs_above(faces[:20_000], 0.3, device=CUDA)
        started = time.perf_counter()
        edges = pairs_above(faces, 0.3, device=CUDA).num_edges
    seconds = time.perf_counter() - started
    same = np.array_equal(expected.first, found.first) and np.array_equal(expected.second, found.second)
    return {"20,000 faces": f"the CPU's pairs: {same}", "200,000 faces": f"{seconds:.1f} s, {edges:,} pairs"}


def determinism(*, is_fake: bool) -> dict[str, Any]:
    """Whether two trainings of five steps have equal bits, as promised and without the promise."""
    found: dict[str, Any] = {}
    for promised in (False, True):
        config = load_config("configs/base.yaml", [f"train.deterministic={str(promised).lower()}"])
        settle_cuda(config.train, CUDA)
        ends = []
        for _ in range(2):
            stepper, batch = _stepper("r18", 32, 5000, [])
            for step in range(5):
                stepper.step([batch], step=step, epoch=0, lr=0.1)
            ends.append([stepper.parts.head.centers.clone(), *map(torch.clone, stepper.parts.backbone.parameters())])
        found[f"train.deterministic {promised}"] = all(map(torch.equal, *ends))
    return found


def ending(*, is_fake: bool) -> dict[str, Any]:
    """A rank that raises beside NCCL, where there are two GPUs; else beside its stand-in."""
    if torch.cuda.device_count() < 2:
        command = [sys.executable, "-m", "pytest", "-q", "tests/recognition/distributed/test_endings.py"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
        return {"with a stand-in, one GPU being here": ended.stdout.strip().splitlines()[-1]}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    command += ["tests.helpers.gpu_worlds", "error", "--nccl"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    words = [line for line in ended.stderr.splitlines() if "fake_train: error" in line]
    return {"status of torchrun, with NCCL": ended.returncode, "words": words}


def _head(num_classes: int, **settings: Any) -> ShardedSoftmax:
    with _centers_on_device():
        return ShardedSoftmax(num_classes, 512, world=WORLD, **settings)


@contextlib.contextmanager
def _centers_on_device() -> Iterator[None]:
    """Fill centers on the device: drawing millions on the host would take longer than what is measured."""
    drawn = head_state.initial_rows

    def fill(rows: range, embedding_size: int, seed: int) -> Iterator[tuple[range, Tensor]]:
        for first in range(rows.start, rows.stop, 1 << 17):
            part = range(first, min(first + (1 << 17), rows.stop))
            yield part, torch.randn(len(part), embedding_size, device=CUDA).mul_(0.01)

    head_state.initial_rows = fill
    try:
        yield
    finally:
        head_state.initial_rows = drawn


def _step(head: ShardedSoftmax, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    embeddings = rows.clone().requires_grad_()
    loss = head(embeddings, labels)
    loss.backward()
    head.optimizer(lr=0.5, momentum=0.9).step()
    assert embeddings.grad is not None
    return loss.detach(), embeddings.grad, head.centers


def _stepper(network: str, batch_size: int, num_classes: int, overrides: list[str]) -> tuple[Stepper, Batch]:
    settings = [f"backbone.network={network}", f"train.batch_size={batch_size}", *overrides]
    config = load_config("configs/base.yaml", settings)
    with _centers_on_device():
        parts = build_parts(config, num_classes, WORLD)
    images = torch.zeros(batch_size, 112, 112, 3, dtype=torch.uint8, device=CUDA)
    numbers = torch.arange(batch_size, device=CUDA)
    return Stepper(config, parts, WORLD), Batch(images, numbers, numbers)


@contextlib.contextmanager
def _no_waits(is_fake: bool) -> Iterator[None]:
    """Make a wait for the device an error; without values it is one anyway."""
    if is_fake:
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _ms(call: Callable[[], object], *, is_fake: bool, count: int = 10) -> float | str:
    """Return the median milliseconds of `call` between CUDA's events; without a device, its launches."""
    if is_fake:
        from tests.fake_cuda.watch import Watch

        call()
        COUNTED.works.clear()
        with Watch() as watch:
            call()
        return f"{watch.seen.num_launches + COUNTED.num_launches} launches"
    for _ in range(3):
        call()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    marks[0].record()
    for mark in marks[1:]:
        call()
        mark.record()
    marks[-1].synchronize()
    times = [before.elapsed_time(after) for before, after in itertools.pairwise(marks)]
    return round(statistics.median(times), 3)
