"""Run a function over a stream in worker processes that each prepare themselves once. Torch-free."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

import cv2

from recognition.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")

_tool: Any = None  # what a worker process prepared


def process_map(
    function: Callable[[Any, Item], Result], items: Iterable[Item], prepare: Callable[[], Any], *, workers: int
) -> Iterator[Result]:
    """Yield function(tool, item) for each of `items`, in the order in which they are done, by `workers` processes.

    Every process (with one worker: this one) calls `prepare` once for its tool. Both functions and the items must
    pickle. At most four items a worker are in flight. The processes end with this one, even when it is killed. Raises
    DataError when a worker dies.
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
    try:
        pending: set[Future[Result]] = {pool.submit(_apply, function, item) for item in islice(stream, 4 * workers)}
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            pending |= {pool.submit(_apply, function, item) for item in islice(stream, len(done))}
            for future in done:
                yield future.result()
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
    _tool = prepare()


def _end_with_parent() -> None:
    """Leave when the parent is gone: a killed parent closes no queue, and its workers would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _apply(function: Callable[[Any, Item], Result], item: Item) -> Result:
    return function(_tool, item)
