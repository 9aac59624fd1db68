"""Which rank owns which class ids."""

from __future__ import annotations


def class_range(num_classes: int, rank: int, size: int) -> range:
    """Return the class ids owned by `rank`; the first `num_classes % size` ranks own one more.

    The ranges of all ranks partition range(num_classes) in order.
    Raises ValueError when rank is outside [0, size).
    """
    if not 0 <= rank < size:
        raise ValueError(f"rank {rank} is outside [0, {size})")
    each, extra = divmod(num_classes, size)
    start = rank * each + min(rank, extra)
    return range(start, start + each + (rank < extra))
