"""ordered_map: order, bounds, and errors at their item."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from recognition.work.threads import ordered_map


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    def slow_first(item: int) -> int:
        time.sleep(0.002 if item % 40 == 0 else 0)
        return item * item

    assert list(ordered_map(slow_first, range(500), workers=workers)) == [item * item for item in range(500)]
    assert list(ordered_map(slow_first, [], workers=workers)) == []


def test_only_a_bounded_part_of_the_stream_is_drawn_ahead() -> None:
    drawn = 0

    def stream() -> Iterator[int]:
        nonlocal drawn
        for item in range(100_000):
            drawn += 1
            yield item

    results = ordered_map(lambda item: item, stream(), workers=2)
    assert next(results) == 0
    assert drawn < 1000


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_is_raised_at_its_item(workers: int) -> None:
    seen: list[int] = []
    results = ordered_map(lambda item: 1 // (item - 50), range(1000), workers=workers)
    with pytest.raises(ZeroDivisionError):
        seen.extend(results)
    assert len(seen) in (48, 50), "the block of the failing item is lost, everything before it is delivered"
