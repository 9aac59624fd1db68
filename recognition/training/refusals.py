"""The end of a run whose steps are refused one after another for a non-finite value: which, and on which rank."""

from __future__ import annotations

from collections import deque

import torch

from recognition.distributed.collectives import gather_values
from recognition.distributed.world import World
from recognition.errors import ArcShardError
from recognition.training.state import TrainState
from recognition.training.stepper import Stepper


class TrainingError(ArcShardError):
    """The run cannot go on; the last good checkpoint stays."""


class RefusalWatch:
    """Counts refused steps in a row without waiting for the device: a rank learns of a step once it is done."""

    def __init__(self, in_a_row: int) -> None:
        self.in_a_row = in_a_row
        """As far as it is known here; equal on all ranks for the same steps, since they refuse alike."""
        self._under_way: deque[tuple[torch.Tensor, torch.cuda.Event]] = deque()

    def add(self, refused: torch.Tensor) -> None:
        """Take note of a step's flag, a scalar that may still be computed."""
        if refused.device.type != "cuda":
            self._count(refused)
            return
        copy = torch.empty(refused.shape, dtype=refused.dtype, pin_memory=True)
        copy.copy_(refused, non_blocking=True)
        done = torch.cuda.Event()
        done.record()
        self._under_way.append((copy, done))

    def look(self) -> int:
        """Return how many steps in a row were refused, of those that are done."""
        while self._under_way and self._under_way[0][1].query():
            self._count(self._under_way.popleft()[0])
        return self.in_a_row

    def _count(self, refused: torch.Tensor) -> None:
        self.in_a_row = self.in_a_row + 1 if refused.item() else 0


def stop_refusing(stepper: Stepper, state: TrainState, *, limit: int, world: World) -> None:
    """Raise TrainingError on every rank alike, with what is not finite and where. Collective: one gather."""
    ranks = gather_values(stepper.broken(), world)
    found = "; ".join(f"rank {rank}: {', '.join(names)}" for rank, names in enumerate(ranks) if names)
    raise TrainingError(
        f"step {state.step}: {state.refused_in_a_row} steps in a row were refused for a non-finite value "
        f"({found or 'none is left in state or gradients'}); expected fewer than train.max_refused_steps={limit}; "
        "lower optim.lr or use train.precision=bf16; the last good checkpoint is kept"
    )
