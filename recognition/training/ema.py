"""A moving average of the weights: what a run validates and publishes in place of those of its last step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """The average a of the weights w of a module: a = d a + (1 - d) w after each accepted step, in float32.

    d is `decay`, but after step t (the first is 0) at most (1 + t) / (10 + t), so that the average forgets the weights
    that the run began with. Equal on all ranks, since the weights are.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self._live = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        self._held = {name: parameter.detach().clone() for name, parameter in self._live.items()}

    def state(self) -> dict[str, Tensor]:
        """Return the averages by the names of the parameters: the live tensors."""
        return dict(self._held)

    @torch.no_grad()
    def update(self, step: int, refused: Tensor) -> None:
        """Take in the weights after step `step`, unless it was `refused` (0-dim, 0 or 1); no value goes to the host."""
        share = (1.0 - min(self._decay, (1 + step) / (10 + step))) * (1.0 - refused)
        held = list(self._held.values())
        torch._foreach_add_(held, torch._foreach_mul(torch._foreach_sub(list(self._live.values()), held), share))

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the module has the averaged weights; afterwards its own bits again."""
        own = {name: parameter.detach().clone() for name, parameter in self._live.items()}
        self._put(self._held)
        try:
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, tensors: Mapping[str, Tensor]) -> None:
        for name, parameter in self._live.items():
            parameter.copy_(tensors[name])
