"""arcface_torch's own head, taken from a checkout, so that the stand-in for it can be held against the original."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recognition.errors import DataError


class ArcfaceTorchHead(nn.Module):
    """PartialFC_V2 with CombinedMarginLoss and torch.optim.SGD, as their train_v2.py joins them.

    On a CPU their calls of `.cuda()` return the tensor itself: this process's torch.Tensor is changed for it.
    """

    def __init__(
        self,
        checkout: Path,
        num_classes: int,
        embedding_size: int,
        *,
        device: torch.device,
        margins: tuple[float, float, float],
        scale: float,
        sgd: dict[str, Any],
        sample_rate: float = 1.0,
    ) -> None:
        super().__init__()
        if device.type == "cpu":
            torch.Tensor.cuda = lambda tensor, *_, **__: tensor  # type: ignore[method-assign, assignment]
        if not dist.is_initialized():  # it asks for a process group, of one process as well
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        margin = _module(checkout, "losses").CombinedMarginLoss(scale, *margins)
        kind = _module(checkout, "partial_fc_v2").PartialFC_V2
        self.head = kind(margin, embedding_size, num_classes, sample_rate).to(device)
        self.optimizer = torch.optim.SGD(self.head.parameters(), **sgd)

    @property
    def weight(self) -> Tensor:
        """The centers of this rank [C_r, D]."""
        weight: Tensor = self.head.weight
        return weight

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss over the global batch."""
        loss: Tensor = self.head(embeddings, labels)
        return loss

    def step(self) -> None:
        """Move the centers."""
        self.optimizer.step()
        self.optimizer.zero_grad()


def _module(checkout: Path, name: str) -> ModuleType:
    source = checkout / f"{name}.py"
    if not source.is_file():
        raise DataError(f"{source}: not found; expected the folder recognition/arcface_torch of insightface")
    spec = importlib.util.spec_from_file_location(f"arcface_torch_{name}", source)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
