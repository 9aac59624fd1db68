"""The networks of the demo and the tests, and two more that a CPU can train: IResNets with a strided stem."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from torch import nn

from recognition.backbones.iresnet import IResNet


def _narrow(depths: tuple[int, int, int, int], narrowest: int) -> Callable[..., nn.Module]:
    # Never below 16: with 8 channels into a strided 1x1, torch 2.13's channels_last backward crashes on CPUs.
    widths = (narrowest, 2 * narrowest, 4 * narrowest, 8 * narrowest)
    return functools.partial(IResNet, depths, widths, 2)


NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    "tiny": _narrow((1, 1, 1, 1), 16),
    "small": _narrow((1, 2, 2, 1), 24),
    "medium": _narrow((2, 2, 2, 2), 32),
}
"""Of 306,352 convolution weights, and about 3 and 6 times its multiply-adds."""
