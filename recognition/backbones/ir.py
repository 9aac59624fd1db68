"""IR and IR-SE: the residual network of the ArcFace papers under the state-dict names of AdaFace, TFace and CVLface.

The same units as in IResNet (arXiv:1801.07698 section 3.2), in one flat `body`; a unit that keeps its width has no
projection, also where it is strided; IR-SE weighs channels at the end of each unit (arXiv:1709.01507).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch
from torch import nn

from recognition.backbones.precision import full_precision

_WIDTHS = (64, 128, 256, 512)
_SE_REDUCTION = 16


class ChannelWeights(nn.Module):
    """Squeeze and excitation: each channel times a weight in (0, 1) that the means of all channels decide."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // _SE_REDUCTION, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // _SE_REDUCTION, channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = nn.functional.adaptive_avg_pool2d(x, 1)
        y: torch.Tensor = x * self.fc2(self.fc1(means).relu()).sigmoid()
        return y


class Unit(nn.Module):
    """BN, 3x3, BN, PReLU, 3x3 (strided), BN, plus the input."""

    def __init__(self, in_channels: int, channels: int, *, stride: int, has_se: bool) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module
        if in_channels == channels:
            # Every `stride`th pixel: a projection has weights only where the width changes.
            self.shortcut_layer = nn.MaxPool2d(1, stride) if stride > 1 else nn.Identity()
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        if has_se:
            self.res_layer.add_module("se_block", ChannelWeights(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.res_layer(x) + self.shortcut_layer(x)
        return y


class IRNet(nn.Module):
    """Four stages of units, each halving the map, then BN, dropout, a dense layer and BN without gain and offset.

    `depths` counts units per stage. forward(images [B, 3, image_size, image_size]) -> embeddings [B, embedding_size];
    the dense layer and what follows run in the weights' precision (float32) also under autocast.
    """

    def __init__(
        self,
        depths: tuple[int, int, int, int],
        has_se: bool = False,
        *,
        embedding_size: int = 512,
        dropout: float = 0.0,
        image_size: int = 112,
    ) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, _WIDTHS[0], 3, padding=1, bias=False), nn.BatchNorm2d(_WIDTHS[0]), nn.PReLU(_WIDTHS[0])
        )
        units, before = [], _WIDTHS[0]
        for depth, width in zip(depths, _WIDTHS, strict=True):
            for index in range(depth):
                units.append(Unit(before, width, stride=1 if index else 2, has_se=has_se))
                before = width
        self.body = nn.Sequential(*units)
        map_side = -(-image_size // 2**4)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(before),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(before * map_side**2, embedding_size),
            nn.BatchNorm1d(embedding_size, affine=False),
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw convolutions and the dense layer from N(0, 2 / fan-out); every BatchNorm is the identity."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.body(self.input_layer(images))
        norm, dropout, flatten, dense, last = self.output_layer
        x = flatten(dropout(norm(x)))
        with full_precision(x):
            embeddings: torch.Tensor = last(dense(x.to(dense.weight.dtype)))
            return embeddings


_DEPTHS: Mapping[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    101: (3, 13, 30, 3),
}

NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    **{f"ir_{layers}": functools.partial(IRNet, _DEPTHS[layers]) for layers in _DEPTHS},
    **{f"ir_se_{layers}": functools.partial(IRNet, _DEPTHS[layers], True) for layers in (50, 101)},
}
"""Under AdaFace's names. Its own weights take channels in the order BGR, see docs/networks.md."""
