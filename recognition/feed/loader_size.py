"""How many processes and threads read images: what the machine has for this rank, and what to raise when it starves."""

from __future__ import annotations

import math

# One core decodes about this many 112x112 JPEGs of quality 95 in a second (docs/measurements/data.md).
IMAGES_PER_CORE_S = 7000
_MAX_WORKERS = 8
STARVING_SHARE = 0.1


def choose_workers(num_workers: int | None, *, cores: int, ranks_here: int, on_gpu: bool) -> int:
    """Return the number of loader processes of a rank: the config's, else chosen from the cores of this machine.

    Beside a GPU, the cores of a rank but one, up to eight: enough for 50,000 images a second. On a CPU, where the
    network takes the cores, one process.
    """
    if num_workers is not None:
        return num_workers
    return min(_MAX_WORKERS, max(1, cores // ranks_here - 1)) if on_gpu else 1


def starvation_advice(
    wait_share: float, images_per_s: float, *, num_workers: int, num_threads: int, cores: int, ranks_here: int
) -> str | None:
    """Return which setting to raise when a rank waits for data more than a tenth of its time; None when it does not.

    `images_per_s` is the rate of this rank.
    """
    if wait_share < STARVING_SHARE:
        return None
    decoders = max(1, num_workers) * num_threads
    needed = math.ceil(images_per_s / (1 - min(wait_share, 0.9)) / IMAGES_PER_CORE_S) + 1
    free = cores // ranks_here - decoders
    found = f"the device waits for data {wait_share:.0%} of the time"
    if free > 0:
        workers = min(num_workers + free, max(num_workers + 1, needed))
        return f"{found}; raise data.num_workers from {num_workers} to {workers}"
    if images_per_s / decoders < IMAGES_PER_CORE_S / 4:
        return f"{found} and decoding is not what takes it; use a faster disk, or set data.shuffle_block: 256"
    return f"{found} and all {cores} cores decode; store smaller images or use a machine with more cores"
