"""What a rank keeps in memory during a run, part by part."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from recognition.backbones import build_backbone
from recognition.config.schema import BackboneConfig, Config, Precision
from recognition.distributed.shards import class_range

_PROBE_BATCHES = (2, 4)  # images; what is kept is linear in the batch, so two points tell all


@dataclass(frozen=True)
class Memory:
    """Bytes on rank 0, which owns the most classes; what CUDA, NCCL and the allocator's rounding take is not in it."""

    num_parameters: int
    """Of the backbone, in elements."""
    centers: int
    centers_optimizer: int
    """Momentum of the centres, or whatever state their optimizer keeps."""
    head_buffers: int
    """Transient: the block loop's tiles, the gathered embeddings, and with update autograd the dense gradient."""
    backbone_weights: int
    backbone_gradients: int
    backbone_optimizer: int
    activations: int
    inputs: int

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        """Return the parts by the name a person reads."""
        return {
            "centres": self.centers,
            "their momentum": self.centers_optimizer,
            "head buffers": self.head_buffers,
            "backbone weights": self.backbone_weights,
            "gradients": self.backbone_gradients,
            "optimizer state": self.backbone_optimizer,
            "activations": self.activations,
            "images": self.inputs,
        }


def rank_memory(config: Config, *, world_size: int, num_classes: int) -> Memory:
    """Estimate what rank 0 needs for a step of `config`."""
    batch_size = config.train.batch_size
    profile = profile_backbone(config.backbone, config.data.image_size, config.train.precision)
    num_states = 2 if config.optim.optimizer == "adamw" else int(config.optim.momentum > 0)
    centers, centers_optimizer, buffers = _head_bytes(config, world_size, num_classes, num_states)
    pixels = 3 * config.data.image_size**2
    return Memory(
        num_parameters=profile.num_parameters,
        centers=centers,
        centers_optimizer=centers_optimizer,
        head_buffers=buffers,
        backbone_weights=4 * profile.num_parameters,
        # DDP reduces in buckets that the gradients are views of.
        backbone_gradients=4 * profile.num_parameters,
        backbone_optimizer=4 * profile.num_parameters * num_states,
        activations=profile.kept_per_image * batch_size + profile.kept_fixed,
        inputs=batch_size * pixels * (1 + 4),
    )


def _head_bytes(config: Config, world_size: int, num_classes: int, num_states: int) -> tuple[int, int, int]:
    head, dim = config.head, config.backbone.embedding_size
    rows = len(class_range(num_classes, 0, world_size)) * head.sub_centers
    batch = config.train.batch_size * world_size
    gathered = 4 * batch * dim * 4
    if head.update == "autograd":
        return 4 * rows * dim, 4 * rows * dim * num_states, 4 * rows * dim + gathered
    momentum = {"float32": 4 * dim, "bf16": 2 * dim, "int8": dim + 4, "none": 0}[head.momentum_format]
    block = head.block_size or 2048
    tiles = 4 * block * (3 * batch + 2 * dim)
    return rows * dim * (2 if head.centers_format == "bf16" else 4), rows * momentum, tiles + gathered


@dataclass(frozen=True)
class BackboneProfile:
    """What a network needs, by batch size: `kept_per_image` * batch + `kept_fixed` bytes wait for the backward pass."""

    num_parameters: int
    kept_per_image: int
    kept_fixed: int
    """Autocast's copies of the weights."""


@functools.cache
def profile_backbone(backbone: BackboneConfig, image_size: int, precision: Precision) -> BackboneProfile:
    """Measure a network on tensors without content: nothing is computed, nothing large is allocated."""
    with FakeTensorMode():
        module = build_backbone(backbone.network, embedding_size=backbone.embedding_size, image_size=image_size)
        num_parameters = sum(parameter.numel() for parameter in module.parameters())
        small, large = (_kept_bytes(module, batch, image_size, precision) for batch in _PROBE_BATCHES)
    per_image = (large - small) // (_PROBE_BATCHES[1] - _PROBE_BATCHES[0])
    return BackboneProfile(num_parameters, per_image, small - per_image * _PROBE_BATCHES[0])


def _kept_bytes(module: nn.Module, batch: int, image_size: int, precision: Precision) -> int:
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": torch.float32}[precision]
    cast = torch.autocast("cpu", dtype) if precision != "off" else contextlib.nullcontext()
    with cast, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        embeddings = module(torch.zeros(batch, 3, image_size, image_size))
    weights = {parameter.untyped_storage()._cdata for parameter in module.parameters()}
    assert embeddings.requires_grad, "a network in training keeps its activations"
    return sum(size for key, size in kept.items() if key not in weights)
