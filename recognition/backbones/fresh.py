"""Fresh weights that can be used without training."""

from __future__ import annotations

import torch
from torch import nn


def set_batch_norms(module: nn.Module, images: torch.Tensor) -> None:
    """Set the BatchNorm buffers to the statistics of `images`: with the initial ones a deep network overflows.

    Leaves `module` in training mode.
    """
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.momentum = 1.0
    with torch.no_grad():
        module.train()(images)
