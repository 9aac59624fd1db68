"""Work that every rank does and that fails on all of them or on none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from recognition.distributed.collectives import gather_objects
from recognition.distributed.world import World
from recognition.errors import DataError

T = TypeVar("T")


def together(work: Callable[[], T], world: World) -> list[T]:
    """Run `work` on every rank and return what each returned, on every rank; an error on one rank is raised on all.

    Results are small and picklable. Collective: one gather, after the work.
    """
    result: T | None = None
    error: Exception | None = None
    try:
        result = work()
    except Exception as err:  # anything at all: a rank that left here would keep the others waiting
        error = err
    outcomes = gather_objects((result, None if error is None else str(error) or type(error).__name__), world)
    if error is not None:
        raise error
    for rank, (_, problem) in enumerate(outcomes):
        if problem is not None:
            raise DataError(f"rank {rank}: {problem}")
    return [outcome for outcome, _ in outcomes]
