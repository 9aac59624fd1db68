"""Run a function over a stream in worker processes that each prepare themselves once. Torch-free."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

import cv2

from recognition.errors import ArcShardError, DataError

Item = TypeVar("Item")
Result = TypeVar("Result")

_tool: Any = None  # what a worker process prepared


def process_map(
    function: Callable[[Any, Item], Result],
    items: Iterable[Item],
    prepare: Callable[[], Any],
    *,
    workers: int,
    at_once: int = 1,
) -> Iterator[Result]:
    """Yield function(tool, item) for each of `items`, in the order in which they are done, by `workers` processes.

    Every process (with one worker: this one) calls `prepare` once for its tool. Both functions and the items must
    pickle. A worker is handed `at_once` items together, for which more of them means less waiting where they are small;
    four such parts a worker are in flight. The processes end with this one, even when it is killed. Raises what
    `prepare` raises for the user, and DataError when a worker dies.
    """
    if workers == 1:
        tool = prepare()
        for item in items:
            yield function(tool, item)
        return
    # spawn, not fork: torch and OpenCV keep threads, and a fork copies their locks as they stand.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(prepare,))
    stream = iter(items)
    parts = iter(lambda: tuple(islice(stream, at_once)), ())
    try:
        pending: set[Future[list[Result]]]
        pending = {pool.submit(_apply, function, part) for part in islice(parts, 4 * workers)}
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            pending |= {pool.submit(_apply, function, part) for part in islice(parts, len(done))}
            for future in done:
                yield from future.result()
    except BrokenProcessPool as err:
        raise DataError(
            "a worker process died, perhaps for lack of memory; expected all to live; pass fewer --workers"
        ) from err
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(prepare: Callable[[], Any]) -> None:
    global _tool
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    try:
        _tool = prepare()
    except ArcShardError as err:
        _tool = err  # raised with the first part: an error here would only break the pool


def _end_with_parent() -> None:
    """Leave when the parent is gone: a killed parent closes no queue, and its workers would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _apply(function: Callable[[Any, Item], Result], part: Sequence[Item]) -> list[Result]:
    if isinstance(_tool, ArcShardError):
        raise _tool
    return [function(_tool, item) for item in part]
