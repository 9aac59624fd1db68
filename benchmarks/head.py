"""Measure the sharded head beside its autograd mode and beside one that stores its logits: time and memory of a step.

    python benchmarks/head.py                                            # a few minutes; prints the table with ratios
    python benchmarks/head.py --identities 200e3 1e6 --heads fused materialized --products float32 bf16 --json
    python benchmarks/head.py --identities 500e3 --heads fused materialized --products float32 --optimizers sgd adamw

The materialized head has the shape of every published trainer: F.normalize of all centers, full logits, the margin on
them, autograd, torch.optim.SGD or AdamW. --arcface-torch INSIGHTFACE/recognition/arcface_torch puts their own code
beside it. Time: all heads of a size alternate in the same processes, and the median step counts; "CPU s" is what one
process computed, which other work on the machine stretches less. Memory: each head alone, in fresh processes, its peak
above the state (centers and momentum), summed over ranks. On a CPU a head that makes large tensors anew in every step
also pays for their pages, which the system gives and clears one by one when they are first written; that is part of its
time here, and hardly any on a GPU, whose allocator keeps them.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

import argparse
import contextlib
import gc
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from benchmarks.arcface_torch_head import ArcfaceTorchHead
from benchmarks.materialized import MaterializedHead
from benchmarks.peak_memory import peak, start_watching
from benchmarks.ranks import run_ranks
from recognition.cli import make_parser, run_command
from recognition.console import progress
from recognition.distributed.collectives import barrier
from recognition.distributed.world import World
from recognition.heads.margins import CombinedMargin
from recognition.heads.products import product_precision
from recognition.heads.sharded_softmax import ShardedSoftmax

SCALE = 64.0
SGD: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
ADAMW: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.05}
PEERS = ("materialized", "arcface_torch")


@dataclass(frozen=True)
class Spec:
    """One head at one size."""

    kind: str  # fused, autograd, materialized or arcface_torch
    identities: int
    batch: int  # of all ranks
    embedding_size: int = 512
    products: str = "float32"
    centers: str = "float32"
    momentum: str = "float32"
    sample_rate: float = 1.0
    optimizer: str = "sgd"
    unsampled: str = "frozen"
    margins: tuple[float, float, float] = (1.0, 0.5, 0.0)
    block_size: int | None = None
    checkout: Path | None = None  # where arcface_torch's own code lies

    @property
    def name(self) -> str:
        parts = [self.kind]
        if self.kind not in PEERS or self.products != "float32":
            parts.append(self.products)
        if (self.centers, self.momentum) != ("float32", "float32"):
            parts.append(f"{self.centers}+{self.momentum}")
        if self.sample_rate < 1:
            parts.append(f"r={self.sample_rate:g}")
        if self.optimizer != "sgd":
            parts.append(self.optimizer)
        if self.unsampled != "frozen":
            parts.append(self.unsampled)
        return " ".join(parts)


@dataclass(frozen=True)
class Result:
    """What was measured of a head; memory in bytes over all ranks."""

    spec: Spec
    step_s: float
    forward_s: float
    cpu_s: float
    transient_bytes: int
    state_bytes: int
    losses: tuple[float, ...]


class Runner:
    """Takes steps of one head on batches that repeat."""

    def __init__(self, spec: Spec, world: World) -> None:
        self.spec, self.world = spec, world
        self.number = 0
        self.head: ArcfaceTorchHead | MaterializedHead | ShardedSoftmax
        self.optimizer: torch.optim.Optimizer | None = None
        size = (spec.identities, spec.embedding_size)
        if spec.kind == "materialized":
            settings = ADAMW if spec.optimizer == "adamw" else SGD
            self.head = MaterializedHead(
                *size, world=world, margins=spec.margins, scale=SCALE, settings=settings, kind=spec.optimizer
            )
            return
        if spec.checkout is not None:
            self.head = ArcfaceTorchHead(
                spec.checkout, *size, device=world.device, margins=spec.margins, scale=SCALE, sgd=SGD
            )
            return
        self.head = ShardedSoftmax(
            *size,
            margin=CombinedMargin(*spec.margins),
            scale=SCALE,
            seed=0,
            world=world,
            update=spec.kind,  # type: ignore[arg-type]
            products=spec.products,  # type: ignore[arg-type]
            block_size=spec.block_size,
            sample_rate=spec.sample_rate,
            unsampled=spec.unsampled,  # type: ignore[arg-type]
            centers_format=spec.centers,  # type: ignore[arg-type]
            momentum_format=spec.momentum,  # type: ignore[arg-type]
        )
        if spec.kind == "autograd":
            kind, settings = (torch.optim.AdamW, ADAMW) if spec.optimizer == "adamw" else (torch.optim.SGD, SGD)
            self.optimizer = kind(self.head.parameters(), **settings)
        elif spec.optimizer == "adamw":
            self.optimizer = self.head.optimizer(kind="adamw", **ADAMW)
        else:
            momentum = 0.0 if spec.momentum == "none" else SGD["momentum"]
            self.optimizer = self.head.optimizer(lr=SGD["lr"], momentum=momentum, weight_decay=SGD["weight_decay"])

    @property
    def state_bytes(self) -> int:
        """Centers and momentum (both moments under AdamW) of this rank, whoever holds them."""
        copies = 3 if self.spec.optimizer == "adamw" else 2
        if not isinstance(self.head, ShardedSoftmax):
            return copies * self.head.weight.nbytes
        rows = self.head.state_rows()
        return sum(tensor.nbytes for tensor in rows.values()) * (copies if self.spec.kind == "autograd" else 1)

    def step(self) -> tuple[float, float, float, float]:
        """Take one step; return its seconds, those of its forward, those this process computed, and the loss."""
        generator = torch.Generator().manual_seed(self.number % 4 * 100 + self.world.rank)
        each = self.spec.batch // self.world.size
        embeddings = torch.randn(each, self.spec.embedding_size, generator=generator).to(self.world.device)
        embeddings.requires_grad_()
        labels = torch.randint(0, self.spec.identities, (each,), generator=generator).to(self.world.device)
        self.number += 1
        barrier(self.world)
        _synchronize(self.world)
        start, start_cpu = time.perf_counter(), time.process_time()
        with self._products():
            loss = self.head(embeddings, labels)
            _synchronize(self.world)
            middle = time.perf_counter()
            loss.backward()
        self._finish()
        barrier(self.world)
        _synchronize(self.world)
        return time.perf_counter() - start, middle - start, time.process_time() - start_cpu, loss.item()

    def _products(self) -> contextlib.AbstractContextManager[None]:
        """Give the materialized head the products that the fused one chooses by itself."""
        if self.spec.kind != "materialized" or self.spec.products == "float32":
            return contextlib.nullcontext()
        device = self.world.device
        if device.type == "cuda":  # as published trainers do it: its logits are bf16, the softmax is float32
            return torch.autocast("cuda", torch.bfloat16)
        return product_precision("bf16", device)

    def _finish(self) -> None:
        if not isinstance(self.head, ShardedSoftmax):
            self.head.step()
        elif self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad()


def measure_memory(world: World, specs: list[Spec], steps: int) -> list[tuple[int, int]]:
    """Return (peak above the state, state) in bytes of this rank for the one spec given."""
    assert len(specs) == 1, "each head is measured in processes of its own"
    _warm_up(world, specs[0])
    gc.collect()
    before = start_watching(world.device)
    runner = Runner(specs[0], world)
    for _ in range(steps):
        runner.step()
    return [(peak(world.device) - before - runner.state_bytes, runner.state_bytes)]


def measure_time(world: World, specs: list[Spec], steps: int) -> list[tuple[list[float], ...]]:
    """Return (seconds of steps, of their forwards, of this process, losses) per spec, the specs taking turns."""
    runners = [Runner(spec, world) for spec in specs]
    taken: list[list[tuple[float, float, float, float]]] = [[] for _ in specs]
    for _ in progress(range(steps + 1), total=steps + 1, unit="step", label="steps", quiet=not world.is_main):
        for runner, rows in zip(runners, taken, strict=True):
            rows.append(runner.step())
    # The first step allocates and faults its pages in.
    return [tuple(map(list, zip(*rows[1:], strict=True))) for rows in taken]


def _warm_up(world: World, spec: Spec) -> None:
    """Let the libraries allocate what they keep, on a small problem."""
    small = Spec(**{**asdict(spec), "identities": 4096})
    runner = Runner(small, world)
    for _ in range(2):
        runner.step()


def _synchronize(world: World) -> None:
    if world.device.type == "cuda":
        torch.cuda.synchronize()


def measure(specs: list[Spec], *, ranks: int, device: str, steps: int, with_memory: bool) -> list[Result]:
    """Measure heads of one size: each alone for memory, then all in turns for time."""
    transient, state = [0] * len(specs), [0] * len(specs)
    if with_memory:
        for place, spec in enumerate(specs):
            print(f"memory of {spec.name} at {spec.identities:,} ...", file=sys.stderr)
            found = [rank[0] for rank in run_ranks(ranks, device, measure_memory, [spec], 2)]
            transient[place], state[place] = sum(f[0] for f in found), sum(f[1] for f in found)
    print(f"time at {specs[0].identities:,} ...", file=sys.stderr)
    timed = run_ranks(ranks, device, measure_time, specs, steps)[0]
    results = []
    for place, (spec, (seconds, forward, cpu, losses)) in enumerate(zip(specs, timed, strict=True)):
        medians = [statistics.median(times) for times in (seconds, forward, cpu)]
        results.append(Result(spec, medians[0], medians[1], medians[2], transient[place], state[place], tuple(losses)))
    return results


def table(results: list[Result]) -> str:
    """Return the results as Markdown, with ratios to the materialized head of the same size and optimizer."""
    lines = [
        "| identities | head | step s | of materialized | forward s | CPU s | of materialized "
        "| state GB | above it MB | of materialized |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for result in results:
        size = result.spec.identities
        kin = [r for r in results if r.spec.identities == size and r.spec.optimizer == result.spec.optimizer]
        peers = [r for r in kin if r.spec.kind == "materialized"]
        time_ratio = f"{result.step_s / peers[0].step_s:.3f}x" if peers else ""
        cpu_ratio = f"{result.cpu_s / peers[0].cpu_s:.3f}x" if peers else ""
        memory_ratio = (
            f"1/{peers[0].transient_bytes / result.transient_bytes:.0f}"
            if peers and result.transient_bytes > 0 and peers[0] is not result
            else ""
        )
        lines.append(
            f"| {size:,} | {result.spec.name} | {result.step_s:.3f} | {time_ratio} "
            f"| {result.forward_s:.3f} | {result.cpu_s:.3f} | {cpu_ratio} "
            f"| {result.state_bytes / 1e9:.2f} | {result.transient_bytes / 1e6:.0f} | {memory_ratio} |"
        )
    return "\n".join(lines)


def remarks(results: list[Result]) -> list[str]:
    """Return what the table does not show: sampled against full heads, and how straight time grows with the classes."""
    lines = []
    for result in results:
        peers = {
            "the full head's time": replace(result.spec, sample_rate=1.0, unsampled="frozen"),
            "the frozen head's time": replace(result.spec, unsampled="frozen"),
            "the time with SGD": replace(result.spec, optimizer="sgd"),
        }
        for other, spec in peers.items():
            for peer in results:
                if peer.spec == spec != result.spec:
                    lines.append(
                        f"{result.spec.identities:,} {result.spec.name}: {result.step_s / peer.step_s:.3f}x {other}, "
                        f"{result.cpu_s / peer.cpu_s:.3f}x its CPU time"
                    )
    for name in dict.fromkeys(result.spec.name for result in results):
        sizes = [float(r.spec.identities) for r in results if r.spec.name == name]
        if len(sizes) > 2:
            for kind in ("step_s", "cpu_s"):
                seconds = [float(getattr(r, kind)) for r in results if r.spec.name == name]
                slope = statistics.linear_regression(sizes, seconds).slope
                squared = statistics.correlation(sizes, seconds) ** 2
                lines.append(f"{name}: {kind} grows by {slope * 1e6:.3f} per million identities, R^2 = {squared:.4f}")
    return lines


def plot(results: list[Result], path: Path) -> None:
    """Draw step time and memory above the state over the number of identities."""
    from matplotlib.figure import Figure  # the extra `eval`; only needed here

    figure = Figure(figsize=(10, 4))
    left, right = figure.subplots(1, 2)
    for name in dict.fromkeys(result.spec.name for result in results):
        mine = [result for result in results if result.spec.name == name]
        sizes = [result.spec.identities for result in mine]
        left.loglog(sizes, [result.step_s for result in mine], "o-", label=name)
        right.loglog(sizes, [max(result.transient_bytes, 1) / 1e6 for result in mine], "o-", label=name)
    left.set(xlabel="identities", ylabel="seconds a step")
    right.set(xlabel="identities", ylabel="MB above centers and momentum, all ranks")
    left.legend()
    figure.tight_layout()
    figure.savefig(path)


def make_specs(args: argparse.Namespace, identities: int) -> list[Spec]:
    """Return the heads to compare at one size."""
    if len(args.optimizers) > 1:
        each = [argparse.Namespace(**{**vars(args), "optimizers": [optimizer]}) for optimizer in args.optimizers]
        return [spec for one in each for spec in make_specs(one, identities)]
    common = {
        "identities": identities,
        "optimizer": args.optimizers[0],
        "batch": args.batch_size,
        "embedding_size": args.embedding_size,
        "margins": tuple(args.margins),
        "block_size": args.block_size,
    }
    specs = []
    for kind in args.heads:
        if kind == "materialized":
            specs += [Spec(kind, **common, products=products) for products in args.products]
            continue
        for products in args.products if kind == "fused" else args.products[:1]:
            formats = {"centers": args.centers, "momentum": args.momentum} if kind != "autograd" else {}
            for rate in args.sample_rate if kind != "autograd" else [1.0]:
                for rule in args.unsampled if rate < 1 and common["optimizer"] == "sgd" else ["frozen"]:
                    specs.append(Spec(kind, **common, products=products, **formats, sample_rate=rate, unsampled=rule))
    if args.arcface_torch is not None:
        specs.append(Spec("arcface_torch", **{**common, "optimizer": "sgd"}, checkout=args.arcface_torch))
    return specs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this script."""
    parser.add_argument("--identities", type=float, nargs="+", default=[200e3, 1e6])
    parser.add_argument("--ranks", type=int, default=2, help="processes, of one thread each on a CPU")
    parser.add_argument("--batch-size", type=int, default=128, help="images of all ranks")
    parser.add_argument("--embedding-size", type=int, default=512)
    kinds = ("fused", "autograd", "materialized")
    parser.add_argument("--heads", nargs="+", choices=kinds, default=["fused", "autograd", "materialized"])
    parser.add_argument(
        "--arcface-torch", type=Path, metavar="CHECKOUT", help="measure their own head from this folder too"
    )
    parser.add_argument("--products", nargs="+", choices=("float32", "bf16"), default=["float32", "bf16"])
    parser.add_argument("--sample-rate", type=float, nargs="+", default=[1.0])
    parser.add_argument("--optimizers", nargs="+", choices=("sgd", "adamw"), default=["sgd"], help="of the centers")
    parser.add_argument("--unsampled", nargs="+", choices=("frozen", "coast"), default=["frozen"])
    parser.add_argument("--centers", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--momentum", choices=("float32", "bf16", "int8", "none"), default="float32")
    parser.add_argument("--margins", type=float, nargs=3, default=(1.0, 0.5, 0.0), metavar=("M1", "M2", "M3"))
    parser.add_argument("--block-size", type=int)
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each head, after one that is not")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--no-memory", action="store_true", help="measure time alone")
    parser.add_argument(
        "--losses", action="store_true", help="print the loss of every timed step (four batches repeat)"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=Path, help="write a chart to this file")


def run(args: argparse.Namespace) -> None:
    """Measure every size and print the table."""
    results: list[Result] = []
    for identities in args.identities:
        specs = make_specs(args, int(identities))
        results += measure(
            specs, ranks=args.ranks, device=args.device, steps=args.steps, with_memory=not args.no_memory
        )
    if args.json:
        print(json.dumps([asdict(result) for result in results], default=str))
    else:
        print("\n".join([table(results), *remarks(results)]))
        if args.losses:
            for result in results:
                print(f"{result.spec.name}: losses {' '.join(f'{loss:.3f}' for loss in result.losses)}")
    if args.plot is not None:
        plot(results, args.plot)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = make_parser("head", __doc__)
    add_arguments(parser)
    return run_command(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
