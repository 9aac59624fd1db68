"""The end of a run whose steps are refused one after another for a non-finite value: which, and on which rank."""

from __future__ import annotations

from recognition.distributed.collectives import gather_objects
from recognition.distributed.world import World
from recognition.errors import ArcShardError
from recognition.training.state import TrainState
from recognition.training.stepper import Stepper


class TrainingError(ArcShardError):
    """The run cannot go on; the last good checkpoint stays."""


def stop_refusing(stepper: Stepper, state: TrainState, *, limit: int, world: World) -> None:
    """Raise TrainingError on every rank alike, with what is not finite and where. Collective: one gather."""
    ranks = gather_objects(stepper.broken(), world)
    found = "; ".join(f"rank {rank}: {', '.join(names)}" for rank, names in enumerate(ranks) if names)
    raise TrainingError(
        f"step {state.step}: {state.refused_in_a_row} steps in a row were refused for a non-finite value "
        f"({found or 'none is left in state or gradients'}); expected fewer than train.max_refused_steps={limit}; "
        "lower optim.lr or use train.precision=bf16; the last good checkpoint is kept"
    )
