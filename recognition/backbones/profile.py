"""What a network costs, found on the meta device: nothing is computed or allocated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from recognition.backbones import Option
from recognition.backbones.architecture import Architecture


@dataclass(frozen=True)
class NetworkCost:
    """The size of a network, and what one image of a training batch costs."""

    parameters: int
    forward_flops: int
    """Of convolutions and matrix products, a multiply-add counting two."""
    activation_bytes: int
    """Kept from forward for backward in float32; autocast keeps about half."""
    has_batch_norm: bool
    """Whether it trains on the mean and variance of a batch, and so not on one image."""
    recomputes: bool
    """Whether the blocks run forward once more in the backward pass."""

    @property
    def macs(self) -> int:
        """Multiply-adds of one image's forward pass."""
        return self.forward_flops // 2

    @property
    def training_flops(self) -> int:
        """Of forward and backward: a backward pass costs two forward passes, and what is computed again a third."""
        return self.forward_flops * (4 if self.recomputes else 3)


def network_cost(architecture: Architecture, training: Mapping[str, Option] = MappingProxyType({})) -> NetworkCost:
    """Return the cost of a network with its `training` options; ConfigError for an unknown name."""
    with torch.device("meta"):
        module = architecture.build(**training)
    size = architecture.image_size
    kept, recomputes = activation_bytes(module, size), getattr(module, "activation_checkpointing", False)
    if recomputes:
        # Beside the blocks' inputs, one block at a time has all of its own again.
        setattr(module, "activation_checkpointing", False)  # noqa: B010
        kept += (activation_bytes(module, size) - kept) // len(list(module.get_submodule("blocks").children()))
    has_batch_norm = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())
    return NetworkCost(count_parameters(module), forward_flops(module, size), kept, has_batch_norm, recomputes)


def count_parameters(module: nn.Module) -> int:
    """Return the number of weights, trained or not."""
    return sum(parameter.numel() for parameter in module.parameters())


def forward_flops(module: nn.Module, image_size: int) -> int:
    """Return the floating-point operations of one image's forward pass through `module`, which lives on meta."""
    module.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.empty(1, 3, image_size, image_size, device="meta"))
    return int(counter.get_total_flops())


def activation_bytes(module: nn.Module, image_size: int) -> int:
    """Return what autograd keeps per image of a training batch of `module`, which lives on meta.

    A tensor that several operations keep counts once; the weights do not count.
    """
    weights = {parameter.untyped_storage()._cdata for parameter in module.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage  # held, so that its address is not given away again
        return tensor

    batch_size = 2  # BatchNorm refuses to train on one row
    module.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module(torch.empty(batch_size, 3, image_size, image_size, device="meta"))
    return sum(storage.nbytes() for storage in kept.values()) // batch_size
