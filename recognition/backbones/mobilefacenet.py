"""MobileFaceNet (arXiv:1804.07573) at a multiple of its width, under the state-dict names of insightface's `mbf`."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping

import torch
from torch import nn

from recognition.backbones.precision import full_precision


class ConvUnit(nn.Module):
    """Convolution and BN, with PReLU unless `linear`; kept in `layers`, as insightface names them."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        # A 3x3 keeps the map's side; the 1x1 and the one over the whole map have no border.
        padding = 1 if kernel == 3 else 0
        conv = nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=padding, groups=groups, bias=False)
        parts: list[nn.Module] = [conv, nn.BatchNorm2d(channels)]
        if not linear:
            parts.append(nn.PReLU(channels))
        self.layers = nn.Sequential(*parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return y


class Bottleneck(nn.Module):
    """1x1 to `hidden` channels, depthwise 3x3, linear 1x1 to `channels`; plus the input when the shapes allow it."""

    def __init__(self, in_channels: int, hidden: int, channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.has_shortcut = stride == 1 and in_channels == channels
        self.layers = nn.Sequential(
            ConvUnit(in_channels, hidden),
            ConvUnit(hidden, hidden, kernel=3, stride=stride, groups=hidden),
            ConvUnit(hidden, channels, linear=True),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return x + y if self.has_shortcut else y


class BottleneckStack(nn.Module):
    """`depth` bottlenecks of one shape in a row."""

    def __init__(self, channels: int, hidden: int, *, depth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(Bottleneck(channels, hidden, channels) for _ in range(depth)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return y


class GlobalDepthwise(nn.Module):
    """A depthwise convolution over the whole map, a dense layer without bias, and BN."""

    def __init__(self, channels: int, map_side: int, embedding_size: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvUnit(channels, channels, kernel=map_side, groups=channels, linear=True),
            # Dropout has no weights, so it may share the place of the flattening without moving a key.
            nn.Sequential(OrderedDict(flatten=nn.Flatten(), dropout=nn.Dropout(dropout))),
            nn.Linear(channels, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return y


class MobileFaceNet(nn.Module):
    """Bottlenecks at 1/4, 1/8 and 1/16 of the image, 512 channels at the end.

    `depths` counts the layers at 1/2 of the image and the bottlenecks of one shape after each halving; `scale` is the
    multiple of the paper's width, which what is inside a bottleneck does not follow.
    forward(images [B, 3, image_size, image_size]) -> embeddings [B, embedding_size]; the last 1x1 and what follows run
    in the weights' precision (float32) also under autocast.
    """

    def __init__(
        self,
        depths: tuple[int, int, int, int] = (1, 4, 6, 2),
        scale: int = 2,
        *,
        embedding_size: int = 512,
        dropout: float = 0.0,
        image_size: int = 112,
    ) -> None:
        super().__init__()
        narrow, wide = 64 * scale, 128 * scale
        # One layer is 64 groups, not depthwise: what the doubled width made of the paper's. Several are bottlenecks.
        first = ConvUnit(narrow, narrow, kernel=3, groups=64)
        self.layers = nn.ModuleList(
            [
                ConvUnit(3, narrow, kernel=3, stride=2),
                first if depths[0] == 1 else BottleneckStack(narrow, 128, depth=depths[0]),
                Bottleneck(narrow, 128, narrow, stride=2),
                BottleneckStack(narrow, 128, depth=depths[1]),
                Bottleneck(narrow, 256, wide, stride=2),
                BottleneckStack(wide, 256, depth=depths[2]),
                Bottleneck(wide, 512, wide, stride=2),
                BottleneckStack(wide, 256, depth=depths[3]),
            ]
        )
        self.conv_sep = ConvUnit(wide, 512)
        self.features = GlobalDepthwise(512, -(-image_size // 16), embedding_size, dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw convolutions and the dense layer from N(0, 2 / fan-out); every BatchNorm is the identity."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images
        for layer in self.layers:
            x = layer(x)
        with full_precision(x):
            embeddings: torch.Tensor = self.features(self.conv_sep(x.to(_weight_dtype(self.conv_sep))))
            return embeddings


def _weight_dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    "mbf": MobileFaceNet,
    "mbf_large": functools.partial(MobileFaceNet, (2, 8, 12, 4), 4),
}
