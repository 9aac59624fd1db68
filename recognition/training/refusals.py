"""What follows from steps that were refused for a non-finite value: no checkpoint of a broken state, and in the end a
stop that names rank and tensor."""

from __future__ import annotations

import logging

from recognition.distributed.collectives import gather_numbers, gather_objects
from recognition.distributed.world import World
from recognition.errors import ArcShardError
from recognition.training.state import TrainState
from recognition.training.stepper import Stepper

logger = logging.getLogger(__name__)


class TrainingError(ArcShardError):
    """The run cannot go on; the last good checkpoint stays."""


def is_state_broken(stepper: Stepper, state: TrainState, world: World) -> bool:
    """Tell whether the state of any rank holds a non-finite value, and warn; copies to the host. Collective: one
    gather of a number."""
    flags = gather_numbers([bool(stepper.broken_state())], world)
    broken = [rank for rank, (flag,) in enumerate(flags) if flag]
    if broken:
        logger.warning(
            "step %s: not saved, because its last %d steps were refused and the state of rank %d is not finite; the "
            "checkpoint before stays the newest",
            f"{state.step:,}", state.refused_in_a_row, broken[0],
        )  # fmt: skip
    return bool(broken)


def stop_refusing(stepper: Stepper, state: TrainState, *, limit: int, world: World) -> None:
    """Raise TrainingError on every rank alike, with what is not finite and where. Collective: one gather."""
    ranks = gather_objects(stepper.broken(), world)
    found = "; ".join(f"rank {rank}: {', '.join(names)}" for rank, names in enumerate(ranks) if names)
    raise TrainingError(
        f"step {state.step}: {state.refused_in_a_row} steps in a row were refused for a non-finite value "
        f"({found or 'none is left in state or gradients'}); expected fewer than train.max_refused_steps={limit}; "
        "lower optim.lr or use train.precision=bf16; the last good checkpoint is kept"
    )
