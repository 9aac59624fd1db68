"""What a network costs, found on the meta device: nothing is computed or allocated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from recognition.backbones.architecture import Architecture
from recognition.backbones.matching import build_empty


@dataclass(frozen=True)
class NetworkCost:
    """The size of a network, and what one image of a training batch costs."""

    parameters: int
    forward_flops: int
    """Of convolutions and matrix products, a multiply-add counting two; training takes about three times this."""
    activation_bytes: int
    """Kept from forward for backward in float32; autocast keeps about half."""
    has_batch_norm: bool
    """Whether it trains on the mean and variance of a batch, and so not on one image."""


def network_cost(architecture: Architecture) -> NetworkCost:
    """Return the cost of a network; ConfigError for an unknown name."""
    module, image_size = build_empty(architecture), architecture.image_size
    return NetworkCost(
        count_parameters(module),
        forward_flops(module, image_size),
        activation_bytes(module, image_size),
        any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules()),
    )


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
