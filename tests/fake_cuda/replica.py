"""DistributedDataParallel for parameters without values: its C++ part reads off the device."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


class FakeReplica(nn.Module):
    """Sums all gradients in one bucket once the last of them is there; the real one does it in several, as they come.

    Every parameter takes part in a backward.
    """

    def __init__(self, module: nn.Module, **settings: Any) -> None:
        super().__init__()
        self.module = module
        self._trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._num_ready, self._sends = 0, True
        self._state: Any = None
        self._hook: Any = None
        for parameter in self._trained:
            parameter.register_post_accumulate_grad_hook(self._note)

    def forward(self, *inputs: Any) -> Any:
        """Call the module."""
        return self.module(*inputs)

    def register_comm_hook(self, state: Any, hook: Any) -> None:
        """Send buckets by `hook`."""
        self._state, self._hook = state, hook

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Within, gradients are not sent."""
        self._sends = False
        try:
            yield
        finally:
            self._sends = True

    def _note(self, parameter: torch.Tensor) -> None:
        self._num_ready += 1
        if self._num_ready < len(self._trained):
            return
        self._num_ready = 0
        if self._sends:
            gradients = [each.grad for each in self._trained if each.grad is not None]
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            if self._hook is None:
                dist.all_reduce(flat.div_(dist.get_world_size()))
            else:
                self._hook(self._state, types.SimpleNamespace(buffer=lambda: flat)).wait()
            for gradient, rows in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
                gradient.copy_(rows.view_as(gradient))
