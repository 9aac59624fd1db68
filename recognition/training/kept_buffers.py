"""The bits of a network's buffers before a step, and their way back where the step is refused."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class KeptBuffers:
    """Keeps and restores `buffers` in a few operations, however many there are.

    BatchNorm has three a layer: one by one they were 948 of the 2,085 launches of an r50's step.
    """

    def __init__(self, buffers: Iterable[Tensor]) -> None:
        self.all = list(buffers)
        kinds = dict.fromkeys((buffer.dtype, buffer.device) for buffer in self.all)
        self._groups = [[b for b in self.all if (b.dtype, b.device) == kind] for kind in kinds]
        self._before: list[Tensor] = []

    def keep(self) -> None:
        """Copy what the buffers hold now."""
        self._before = [_flat(group) for group in self._groups]

    @torch.no_grad()
    def restore_(self, refused: Tensor) -> None:
        """Put back what was kept where `refused` (0-dim, on the device) is above 0; drop the copy."""
        for group, before in zip(self._groups, self._before, strict=True):
            chosen = torch.where(refused > 0, before, _flat(group))
            pieces = chosen.split([buffer.numel() for buffer in group])
            torch._foreach_copy_(group, [piece.view_as(buffer) for piece, buffer in zip(pieces, group, strict=True)])
        self._before = []


def _flat(buffers: list[Tensor]) -> Tensor:
    return torch.cat([buffer.detach().flatten() for buffer in buffers])
