"""IResNet: the residual network of the ArcFace papers, under insightface's state-dict names.

Improved residual units (BatchNorm before the first convolution, none of the sums activated: arXiv:1610.02915,
arXiv:1801.07698 section 3.2), PReLU, a stem without pooling, and one dense layer over the whole last map.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch
from torch import nn

from recognition.backbones.precision import full_precision


class ResidualUnit(nn.Module):
    """BN, 3x3, BN, PReLU, 3x3 (strided), BN, plus the input; a strided unit projects its input with a 1x1."""

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = _conv3x3(in_channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.prelu = nn.PReLU(channels)
        self.conv2 = _conv3x3(channels, channels, stride=stride)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        residual = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        y: torch.Tensor = self.bn3(self.conv2(residual)) + shortcut
        return y


class IResNet(nn.Module):
    """Four stages of residual units, each halving the map, then BN, dropout, a dense layer and BN.

    `depths` and `widths` count units and channels per stage; the stem is as wide as the first and has `stem_stride`.
    forward(images [B, 3, image_size, image_size]) -> embeddings [B, embedding_size]; the dense layer and what follows
    run in the weights' precision (float32) also under autocast.
    """

    def __init__(
        self,
        depths: tuple[int, int, int, int],
        widths: tuple[int, int, int, int] = (64, 128, 256, 512),
        stem_stride: int = 1,
        *,
        embedding_size: int = 512,
        dropout: float = 0.0,
        image_size: int = 112,
    ) -> None:
        super().__init__()
        self.conv1 = _conv3x3(3, widths[0], stride=stem_stride)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.prelu = nn.PReLU(widths[0])
        self.layer1 = _stage(depths[0], widths[0], widths[0])
        self.layer2 = _stage(depths[1], widths[0], widths[1])
        self.layer3 = _stage(depths[2], widths[1], widths[2])
        self.layer4 = _stage(depths[3], widths[2], widths[3])
        self.bn2 = nn.BatchNorm2d(widths[3])
        self.dropout = nn.Dropout(dropout)
        map_side = -(-image_size // (stem_stride * 2**4))
        self.fc = nn.Linear(widths[3] * map_side**2, embedding_size)
        self.features = nn.BatchNorm1d(embedding_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the convolutions from N(0, 0.1^2), as the published models began; every BatchNorm is the identity."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.1)
        # The head normalizes embeddings, so a learned gain per dimension would only reweigh them; insightface fixes it.
        self.features.weight.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.prelu(self.bn1(self.conv1(images)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.dropout(self.bn2(x).flatten(1))
        with full_precision(x):
            embeddings: torch.Tensor = self.features(self.fc(x.to(self.fc.weight.dtype)))
            return embeddings


def _stage(depth: int, in_channels: int, channels: int) -> nn.Sequential:
    units = [ResidualUnit(in_channels, channels, stride=2)]
    units += [ResidualUnit(channels, channels) for _ in range(depth - 1)]
    return nn.Sequential(*units)


def _conv3x3(in_channels: int, channels: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, kernel_size=3, stride=stride, padding=1, bias=False)


NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    "r18": functools.partial(IResNet, (2, 2, 2, 2)),
    "r34": functools.partial(IResNet, (3, 4, 6, 3)),
    "r50": functools.partial(IResNet, (3, 4, 14, 3)),
    "r100": functools.partial(IResNet, (3, 13, 30, 3)),
    "r200": functools.partial(IResNet, (6, 26, 60, 6)),
}
