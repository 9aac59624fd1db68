"""Work that every rank does and that fails on all of them or on none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from recognition.distributed.collectives import gather_values
from recognition.distributed.world import World
from recognition.errors import ArcShardError, CheckpointError, ConfigError, DataError

T = TypeVar("T")
_KINDS = {kind.__name__: kind for kind in (ConfigError, DataError, CheckpointError, ArcShardError)}
"""What an error on one rank is on the others, the base of all as the last."""


def together(work: Callable[[], T], world: World) -> list[T]:
    """Run `work` on every rank and return what each returned, on every rank; an error on one is raised on all.

    Results are small, of the kinds that `wire.encode` takes. An error that the user can fix is the same on all ranks,
    and names the first that failed when not all did. Any other is a mistake of ours: it keeps its traceback on its own
    rank and reaches the others as a DataError. Collective: one gather, after the work.
    """
    result: T | None = None
    error: Exception | None = None
    try:
        result = work()
    except Exception as err:  # anything at all: a rank that left here would keep the others waiting
        error = err
    outcomes = gather_values((result, None if error is None else _told(error)), world)
    if error is not None and not isinstance(error, ArcShardError):
        raise error
    failed = {rank: problem for rank, (_, problem) in enumerate(outcomes) if problem is not None}
    if failed:
        rank, (kind, text) = next(iter(failed.items()))
        raise _KINDS[kind](text if len(failed) == world.size else f"rank {rank}: {text}") from error
    return [outcome for outcome, _ in outcomes]


def _told(error: Exception) -> tuple[str, str]:
    if isinstance(error, ArcShardError):
        return next(name for name, kind in _KINDS.items() if isinstance(error, kind)), str(error)
    reason = str(error).strip().partition("\n")[0]
    return DataError.__name__, f"{type(error).__name__}{': ' if reason else ''}{reason}"
