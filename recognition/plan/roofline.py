"""How long a step takes on GPUs that are not here, by a model: what is moved and multiplied, over measured rates.

A kernel takes the longer of its products and its bytes, and 2 us for its launch; nothing overlaps. Products run at the
rate that cuBLAS was measured at; where a kernel forms them itself, at three quarters of it. What a chunk of E r in L2
moves is free. It is a model, not a measurement: docs/kernels.md says what a run of `make gpu` has to confirm.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from recognition.config.schema import BackboneConfig
from recognition.heads.fused.path import Variant
from recognition.plan.memory import backbone_cost
from recognition.plan.traffic import Path, Problem, Trace, trace_step

IDENTITIES = (1_000_000, 10_000_000, 29_000_000, 100_000_000)
BATCHES = (1024, 8192)
RANKS = 8

_LAUNCH_S = 2e-6
_FUSED_SHARE = 0.75
"""Of cuBLAS's rate, for products in a kernel of ours. Assumed: Liger's fused cross-entropy on Hopper states 0.7."""
_BACKBONE_SHARE = 0.48
"""Of cuBLAS's rate, for a network: PLSC 2.2 trains R100 at 825 images/s on an A100 (fp16, static graph)."""
_DECODED_PER_CORE_S = 5150.0
"""JPEGs of 112 x 112 pixels, quality 100, on one core of a Xeon."""
_CORES = 8
"""Of the host, for each GPU."""
_RESERVE_BYTES = 12e9
"""Kept for the network."""
_TRACED_CLASSES = 1 << 18


@dataclass(frozen=True)
class Gpu:
    """A GPU and what it reaches: measured on the H200; for the others the same share of their data sheets' figures."""

    name: str
    capability: tuple[int, int]
    flops: float
    """Of cuBLAS in bf16, a second."""
    bytes_per_s: float
    memory_bytes: float
    wire_bytes_per_s: float
    """To the other GPUs of the host, one way."""


GPUS = (
    Gpu("H200", (9, 0), 790e12, 4.3e12, 149.3e9, 0.8 * 450e9),
    Gpu("A100-80", (8, 0), 0.8 * 312e12, 0.896 * 2.039e12, 85.1e9, 0.8 * 300e9),
    Gpu("4090", (8, 9), 0.8 * 165.2e12, 0.896 * 1.008e12, 25.8e9, 0.8 * 25e9),
)


@dataclass(frozen=True)
class Estimate:
    """A step of one rank by the model; seconds, and bytes of memory traffic."""

    gpu: str
    identities: int
    batch: int
    state: str
    launches: int
    traffic_bytes: float
    traffic_bytes_past_l2: float
    floor_s: float
    """Three products at cuBLAS's rate: what a head cannot beat that stores its logits."""
    head_s: float
    on_chip_s: float
    """The same with pass 1 on chip."""
    tiles_s: float
    """By cuBLAS with kernels between its products, where those with products inside do not apply."""
    backbone_s: float
    network_s: float
    decode_s: float
    state_bytes: float
    fits: bool

    @property
    def bound(self) -> str:
        """What of the step takes longest; the others are beside it at best."""
        parts = {"head": self.head_s, "backbone": self.backbone_s, "network": self.network_s, "decode": self.decode_s}
        return max(parts, key=lambda name: parts[name])


def seconds_of(trace: Trace, gpu: Gpu) -> float:
    """Return what the kernels of a trace take one after another."""
    total = 0.0
    for work in trace.works:
        rate = gpu.flops * (_FUSED_SHARE if work.is_fused else 1.0)
        past_l2 = work.num_bytes - work.chunk_bytes
        total += max(work.flops / rate, past_l2 / gpu.bytes_per_s) + _LAUNCH_S
    return total


def floor_of(problem: Problem, gpu: Gpu) -> float:
    """Return the time of three products over the rank's classes."""
    return 3 * 2.0 * problem.rows * problem.classes * problem.embedding_size / gpu.flops


def estimate(gpu: Gpu, identities: int, batch: int, *, network: str = "r100") -> Estimate:
    """Return the estimate for `identities` over eight ranks; with float32 state where it fits, else bf16 and int8."""
    classes = -(-identities // RANKS)
    budget = gpu.memory_bytes - _RESERVE_BYTES
    bytes_of = {"float32": classes * (512 * (4 + 4 + 2) + 4.0), "bf16 + int8": classes * (512 * (2 + 1) + 8.0)}
    state = "float32" if bytes_of["float32"] <= budget else "bf16 + int8"
    problem = Problem(batch, classes, capability=gpu.capability)
    if state != "float32":
        problem = replace(problem, centers_format="bf16", momentum_format="int8")
    fused = figures_of(problem, gpu, "fused")
    cost = backbone_cost(BackboneConfig(network=network, embedding_size=512), 112)
    images = batch // RANKS
    return Estimate(
        gpu=gpu.name,
        identities=identities,
        batch=batch,
        state=state,
        launches=round(fused.launches),
        traffic_bytes=fused.num_bytes,
        traffic_bytes_past_l2=fused.num_bytes_past_l2,
        floor_s=floor_of(problem, gpu),
        head_s=fused.seconds,
        on_chip_s=figures_of(problem, gpu, "fused", variant="on chip").seconds,
        tiles_s=figures_of(problem, gpu, "tiles").seconds,
        backbone_s=float(cost.training_flops) * images / (gpu.flops * _BACKBONE_SHARE),
        network_s=2 * (RANKS - 1) / RANKS * 4.0 * cost.parameters / gpu.wire_bytes_per_s,
        decode_s=images / (_DECODED_PER_CORE_S * _CORES),
        state_bytes=bytes_of[state],
        fits=bytes_of[state] <= budget,
    )


@dataclass(frozen=True)
class Figures:
    """What a trace comes to."""

    launches: float
    num_bytes: float
    num_bytes_past_l2: float
    seconds: float


def figures_of(problem: Problem, gpu: Gpu, path: Path, *, variant: Variant = "chunks") -> Figures:
    """Return the figures of a step; of many classes by a straight line through two smaller traces."""

    def traced(classes: int) -> Figures:
        trace = trace_step(replace(problem, classes=classes), path, variant=variant)
        return Figures(trace.num_launches, trace.num_bytes, trace.num_bytes_past_l2, seconds_of(trace, gpu))

    if problem.classes <= _TRACED_CLASSES:
        return traced(problem.classes)
    few, many = traced(_TRACED_CLASSES // 2), traced(_TRACED_CLASSES)
    share = (problem.classes - _TRACED_CLASSES // 2) / (_TRACED_CLASSES // 2)
    low, high = vars(few), vars(many)
    return Figures(**{name: low[name] + share * (high[name] - low[name]) for name in low})


def lines(estimates: Iterable[Estimate], network: str) -> Iterator[str]:
    """Yield a table of `estimates`, as Markdown."""
    yield f"one step on 8 GPUs, {network}, D 512, full softmax: a model, nothing here was measured on a GPU"
    yield (
        "| GPU | identities | N | state | launches | GB | GB past L2 | floor ms | head ms | of floor | on chip ms | "
        "cuBLAS + tiles ms | backbone ms | network ms | decode ms | bound |"
    )
    yield "|---|---:|---:|---|" + "---:|" * 11 + "---|"
    for each in estimates:
        times = (each.floor_s, each.head_s, each.on_chip_s, each.tiles_s, each.backbone_s)
        floor, head, on_chip, tiles, backbone = (f"{1e3 * seconds:.1f}" for seconds in times)
        state = each.state if each.fits else f"{each.state}: does not fit"
        yield (
            f"| {each.gpu} | {each.identities:,} | {each.batch:,} | {state} | {each.launches:,} | "
            f"{each.traffic_bytes / 1e9:.1f} | {each.traffic_bytes_past_l2 / 1e9:.1f} | {floor} | {head} | "
            f"{each.head_s / each.floor_s:.2f}x | {on_chip} | {tiles} | {backbone} | {1e3 * each.network_s:.1f} | "
            f"{1e3 * each.decode_s:.1f} | {each.bound} |"
        )
