"""What a number of identities costs a rank: memory, bytes on the wire, and times that no step can beat."""

from __future__ import annotations

from dataclasses import dataclass

from recognition.config.schema import Config
from recognition.distributed.shards import class_range
from recognition.plan.memory import Memory, backbone_cost, rank_memory
from recognition.plan.rates import Rates
from recognition.plan.run import global_batch_of

_MOMENTUM_BYTES = {"float32": 4.0, "bf16": 2.0, "int8": 1.0, "none": 0.0}


@dataclass(frozen=True)
class Collective:
    """One collective of a step, and the bytes a rank sends for it when its ranks form a ring."""

    name: str
    num_bytes: int


@dataclass(frozen=True)
class Floors:
    """Seconds that a step cannot beat on given hardware; None where the rate was not given."""

    backbone_s: float | None
    head_products_s: float | None
    head_traffic_s: float | None
    collectives_s: float | None

    @property
    def step_s(self) -> float | None:
        """The backbone's time, then the larger of the head's two, then the wire's: none of them hides another."""
        parts = (self.backbone_s, self.head_products_s, self.head_traffic_s, self.collectives_s)
        if any(part is None for part in parts):
            return None
        backbone, products, traffic, wire = (part or 0.0 for part in parts)
        return backbone + max(products, traffic) + wire


@dataclass(frozen=True)
class Cost:
    """What `config` costs rank 0 with so many identities."""

    num_classes: int
    world_size: int
    global_batch: int
    """Images of an optimizer step."""
    memory: Memory
    collectives: tuple[Collective, ...]
    floors: Floors


def cost_of(config: Config, *, world_size: int, num_classes: int, rates: Rates) -> Cost:
    """Work out the cost of one optimizer step; unlike `make_plan` it needs no data and refuses no run."""
    return Cost(
        num_classes=num_classes,
        world_size=world_size,
        global_batch=global_batch_of(config, world_size),
        memory=rank_memory(config, world_size=world_size, num_classes=num_classes),
        collectives=(wire := _collectives(config, world_size)),
        floors=_floors(config, world_size, num_classes, rates, sum(collective.num_bytes for collective in wire)),
    )


def most_identities(config: Config, *, world_size: int, memory_bytes: int) -> int:
    """Return the most identities with which rank 0 stays within `memory_bytes`; 0 when the backbone alone does not."""

    def fits(num_classes: int) -> bool:
        return rank_memory(config, world_size=world_size, num_classes=num_classes).total <= memory_bytes

    if not fits(1):
        return 0
    low, high = 1, 2
    while fits(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _collectives(config: Config, world_size: int) -> tuple[Collective, ...]:
    if world_size == 1:
        return ()
    rows = config.train.batch_size
    embeddings = rows * config.backbone.embedding_size * 4
    others = world_size - 1
    micro_batches = config.train.gradient_accumulation
    width = 4 if config.train.gradient_compression == "none" else 2
    gradients = width * backbone_cost(config.backbone, config.data.image_size).parameters
    return (
        Collective("gather embeddings", micro_batches * others * embeddings),
        Collective("gather labels", micro_batches * others * rows * 8),
        Collective("exchange max, sum and target", micro_batches * others * 3 * rows * world_size * 8),
        Collective("reduce-scatter of their gradient", micro_batches * others * embeddings),
        Collective("all-reduce of the backbone's gradient", 2 * others * gradients // world_size),
    )


def _floors(config: Config, world_size: int, num_classes: int, rates: Rates, wire_bytes: int) -> Floors:
    owned = len(class_range(num_classes, 0, world_size)) * config.head.sub_centers
    rows = config.train.batch_size * world_size
    used = min(owned, max(config.head.sample_rate * owned, min(rows / world_size, owned)))
    micro_batches = config.train.gradient_accumulation
    dim = config.backbone.embedding_size
    cost = backbone_cost(config.backbone, config.data.image_size)
    is_16_bit = config.train.precision != "off"
    head_rate = rates.flops_16_bit if config.head.products == "bf16" else rates.flops_float32
    return Floors(
        backbone_s=_over(
            float(cost.training_flops * config.train.batch_size * micro_batches),
            rates.flops_16_bit if is_16_bit else rates.flops_float32,
        ),
        # Two products in each pass over the centers, the logits' being made twice.
        head_products_s=_over(8.0 * rows * used * dim * micro_batches, head_rate),
        head_traffic_s=_over(_head_traffic(config, owned, used) * dim, rates.memory_bytes_per_s),
        collectives_s=_over(float(wire_bytes), rates.wire_bytes_per_s) if wire_bytes else 0.0,
    )


def _head_traffic(config: Config, owned: int, used: float) -> float:
    """Bytes per embedding dimension that a step moves between memory and processor for centers and momentum."""
    head = config.head
    if head.update == "autograd":
        states = 2 if config.optim.optimizer == "adamw" else 1
        # Two reads and a gradient per micro-batch; then the optimizer reads it and turns over weights and states.
        return used * (8.0 + 4.0) * config.train.gradient_accumulation + owned * (4.0 + 8.0 + 8.0 * states)
    center = 2.0 if head.centers_format == "bf16" else 4.0
    if config.centers_optimizer == "adamw":
        turns = 4
    else:  # what coasts is read together with its momentum, in both passes
        turns = 3 if head.unsampled == "coast" else 2
    return used * (3 * center + turns * _MOMENTUM_BYTES[head.momentum_format])


def _over(amount: float, rate: float | None) -> float | None:
    return None if rate is None else amount / rate
