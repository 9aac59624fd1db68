"""The three networks of MTCNN (arXiv:1604.02878, fig. 2) and the names of their weights in facenet-pytorch's files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from recognition.errors import CheckpointError


@dataclass(frozen=True)
class Stage:
    """The shape of one network: convolutions as (channels, kernel, pool), a hidden layer, and its outputs.

    Every convolution and the hidden layer end in a PReLU; a pool, when not 0, has stride 2 and keeps partial windows.
    `hidden` is the layer's (inputs, outputs); None leaves the network convolutional, its outputs 1x1 convolutions.
    """

    name: str
    window: int  # pixels along a side of the window it judges
    convolutions: tuple[tuple[int, int, int], ...]
    hidden: tuple[int, int] | None
    outputs: tuple[int, ...]  # face or not, box offsets, and from the last network landmarks


PROPOSAL = Stage("pnet", 12, ((10, 3, 2), (16, 3, 0), (32, 3, 0)), None, (2, 4))
REFINE = Stage("rnet", 24, ((28, 3, 3), (48, 3, 3), (64, 2, 0)), (576, 128), (2, 4))
OUTPUT = Stage("onet", 48, ((32, 3, 3), (64, 3, 3), (64, 3, 2), (128, 2, 0)), (1152, 256), (2, 4, 10))


class StageNet(nn.Module):
    """One of the three networks.

    forward(windows [n, 3, H, W], RGB scaled to [-1, 1]) -> score logit [n, ...], box offsets [n, 4, ...] and, from the
    last network, landmarks [n, 10]; `...` is the map of the convolutional network and nothing otherwise.
    """

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage
        widths = [3, *(channels for channels, _, _ in stage.convolutions)]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width, channels, kernel) for width, (channels, kernel, _) in zip(widths, stage.convolutions)
        )
        slopes = widths[1:] + ([stage.hidden[1]] if stage.hidden else [])
        self.activations = nn.ModuleList(nn.PReLU(width) for width in slopes)
        self.hidden = nn.Linear(*stage.hidden) if stage.hidden else None
        top = slopes[-1]
        self.outputs = nn.ModuleList(
            nn.Linear(top, size) if stage.hidden else nn.Conv2d(top, size, 1) for size in stage.outputs
        )

    def forward(self, windows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = windows
        for convolution, activation, (_, _, pool) in zip(self.convolutions, self.activations, self.stage.convolutions):
            x = activation(convolution(x))
            if pool:
                x = F.max_pool2d(x, pool, stride=2, ceil_mode=True)
        if self.hidden is not None:
            x = self.activations[-1](self.hidden(x.flatten(1)))
        decision, *rest = (output(x) for output in self.outputs)
        return (decision[:, 1] - decision[:, 0], *rest)  # the softmax of two is the sigmoid of their difference


def load_stage(stage: Stage, path: Path) -> StageNet:
    """Build one network with the weights of facenet-pytorch's file at `path`.

    Raises CheckpointError when the file holds something else.
    """
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:  # torch raises a dozen kinds for a damaged file
        raise CheckpointError(
            f"{path}: cannot be read as weights ({err}); run python -m recognition fetch_weights"
        ) from err
    network = StageNet(stage)
    try:
        network.load_state_dict(_renamed(stage, stored))
    except (KeyError, RuntimeError, AttributeError, TypeError) as err:
        raise CheckpointError(
            f"{path}: does not hold the weights of MTCNN's {stage.name} ({str(err).splitlines()[0]}); "
            "run python -m recognition fetch_weights"
        ) from err
    return network.eval().requires_grad_(False)


def _renamed(stage: Stage, stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the file's tensors under the names and in the order of StageNet."""
    num = len(stage.convolutions)
    kind = "dense" if stage.hidden else "conv"
    source = {f"convolutions.{i}": f"conv{i + 1}" for i in range(num)}
    source |= {f"activations.{i}": f"prelu{i + 1}" for i in range(num + bool(stage.hidden))}
    top = num + 1 + bool(stage.hidden)
    source |= {f"outputs.{i}": f"{kind}{top}_{i + 1}" for i in range(len(stage.outputs))}
    if stage.hidden:
        source["hidden"] = f"dense{num + 1}"
    renamed = {
        f"{ours}.{part}": stored[f"{theirs}.{part}"]
        for ours, theirs in source.items()
        for part in (("weight",) if ours.startswith("activations") else ("weight", "bias"))
    }
    if stage.hidden:
        renamed["hidden.weight"] = _channels_first(renamed["hidden.weight"], stage.convolutions[-1][0])
    return renamed


def _channels_first(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """Turn a hidden layer's inputs from the file's order, (x, y, channel), to that of flatten: (channel, y, x)."""
    rows, inputs = weight.shape
    side = round((inputs / channels) ** 0.5)
    return weight.reshape(rows, side, side, channels).permute(0, 3, 2, 1).reshape(rows, inputs)
