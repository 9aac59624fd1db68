"""What a rank keeps in memory during a run, part by part."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from recognition.backbones.architecture import Architecture, training_options
from recognition.backbones.profile import NetworkCost, network_cost
from recognition.config.schema import BackboneConfig, Config
from recognition.heads.margins import make_margin
from recognition.heads.memory import head_bytes


@dataclass(frozen=True)
class Memory:
    """Bytes on rank 0, which owns the most classes; what CUDA, NCCL and the allocator's rounding take is not in it."""

    num_parameters: int
    """Of the backbone, in elements."""
    centers: int
    centers_optimizer: int
    """Momentum of the centers, AdamW's moments, or whatever state their optimizer keeps."""
    head_buffers: int
    """Transient: the block loop's tiles, the gathered embeddings, and with update autograd the dense gradient."""
    backbone_weights: int
    backbone_gradients: int
    backbone_optimizer: int
    activations: int
    inputs: int
    staging: int
    """The copy that a checkpoint is written from while training goes on: in the host's memory, beside a GPU too."""

    @property
    def total(self) -> int:
        """The sum of all parts that lie on the rank's device."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        """Return the parts by the name a person reads."""
        return {
            "centers": self.centers,
            "their momentum": self.centers_optimizer,
            "head buffers": self.head_buffers,
            "backbone weights": self.backbone_weights,
            "gradients": self.backbone_gradients,
            "optimizer state": self.backbone_optimizer,
            "activations": self.activations,
            "images": self.inputs,
        }


def rank_memory(config: Config, *, world_size: int, num_classes: int, device: str = "cpu") -> Memory:
    """Estimate what rank 0 needs for a step of `config` on a "cpu" or on "cuda", whose blocks are larger."""
    cost = backbone_cost(config.backbone, config.data.image_size)
    weights = 4 * cost.parameters
    average = weights if config.train.ema is not None else 0
    num_states = 2 if config.optim.optimizer == "adamw" else int(config.optim.momentum > 0)
    centers, centers_optimizer, buffers = _head_bytes(config, world_size, num_classes, num_states, device)
    return Memory(
        num_parameters=cost.parameters,
        centers=centers,
        centers_optimizer=centers_optimizer,
        head_buffers=buffers,
        backbone_weights=weights + average,
        backbone_gradients=weights,  # beside DDP they are views of the buckets that it sums
        backbone_optimizer=weights * num_states,
        activations=_activations(config, cost),
        inputs=config.train.batch_size * 3 * config.data.image_size**2 * (1 + 4),
        staging=average + weights * (1 + num_states) + centers + centers_optimizer,
    )


def _activations(config: Config, cost: NetworkCost) -> int:
    kept = cost.activation_bytes * config.train.batch_size
    if config.train.precision == "off":
        return kept
    # Half of it, and the weights once more: autocast keeps its 16-bit copies of them for the backward pass.
    return kept // 2 + 2 * cost.parameters


def _head_bytes(
    config: Config, world_size: int, num_classes: int, num_states: int, device: str
) -> tuple[int, int, int]:
    """Return the bytes of centers, of their optimizer's state, and of all else the head holds during a step."""
    head = config.head
    parts = head_bytes(
        num_classes,
        world_size,
        config.train.batch_size,
        config.backbone.embedding_size,
        has_bias=head.margin is not None and make_margin(head.margin.name, head.margin.settings).has_bias,
        update=head.update,
        sub_centers=head.sub_centers,
        sample_rate=head.sample_rate,
        coasts=head.unsampled == "coast",
        centers_format=head.centers_format,
        momentum_format=head.momentum_format,
        optimizer=config.centers_optimizer,
        block_size=head.block_size,
        forwards=config.train.gradient_accumulation,
        device=device,
        products="bf16" if head.kernels and head.products in ("auto", "bf16") else "float32",
    )
    centers = parts.pop("centers")
    momentum = parts.pop("momentum") + parts["gradient"] * num_states
    return centers, momentum, sum(parts.values())


@functools.cache
def backbone_cost(backbone: BackboneConfig, image_size: int) -> NetworkCost:
    """Return the network's cost, worked out once per process."""
    return network_cost(Architecture.of(backbone, image_size), training_options(backbone))
