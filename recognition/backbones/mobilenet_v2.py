"""MobileNetV2 (arXiv:1801.04381) under the state-dict names of torchvision, with a neck for embeddings.

`features` has the keys and shapes of torchvision's `mobilenet_v2`; in place of its classifier is a `neck`: BatchNorm,
PReLU and a dense layer, as face-recognition tutorials put it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from recognition.backbones.precision import full_precision

_STEM, _LAST = 32, 1280
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Factor of the width inside a unit, channels, units, stride of the first: table 2 of the paper."""


def _conv_bn_relu6(in_channels: int, channels: int, *, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Module):
    """1x1 to `factor` times the channels, depthwise 3x3, linear 1x1; plus the input when the shapes allow it."""

    def __init__(self, in_channels: int, channels: int, *, stride: int, factor: int) -> None:
        super().__init__()
        hidden = in_channels * factor
        self.has_shortcut = stride == 1 and in_channels == channels
        widen = [_conv_bn_relu6(in_channels, hidden, kernel=1)] if factor > 1 else []
        self.conv = nn.Sequential(
            *widen,
            _conv_bn_relu6(hidden, hidden, kernel=3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x)
        return x + y if self.has_shortcut else y


class MobileNetV2(nn.Module):
    """Inverted residuals at 1/2 to 1/32 of the image, their mean over the map, then BN, PReLU, dropout and a dense.

    forward(images [B, 3, image_size, image_size]) -> embeddings [B, embedding_size] for every image size; the neck
    runs in the weights' precision (float32) also under autocast.
    """

    def __init__(self, *, embedding_size: int = 512, dropout: float = 0.0, image_size: int = 112) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv_bn_relu6(3, _STEM, kernel=3, stride=2)]
        before = _STEM
        for factor, channels, depth, stride in _STAGES:
            for index in range(depth):
                layers.append(InvertedResidual(before, channels, stride=1 if index else stride, factor=factor))
                before = channels
        layers.append(_conv_bn_relu6(before, _LAST, kernel=1))
        self.features = nn.Sequential(*layers)
        self.neck = nn.Sequential(
            nn.BatchNorm1d(_LAST), nn.PReLU(_LAST), nn.Dropout(dropout), nn.Linear(_LAST, embedding_size)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw convolutions from N(0, 2 / fan-out), as torchvision does; every BatchNorm is the identity."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.features(images)
        with full_precision(x):
            pooled = x.to(self.neck[0].weight.dtype).mean((2, 3))
            embeddings: torch.Tensor = self.neck(pooled)
            return embeddings


NETWORKS: Mapping[str, Callable[..., nn.Module]] = {"mobilenet_v2": MobileNetV2}
