"""Tiles of a similarity graph on a fake `cuda:0`; prints what they did as one JSON line.

    python -m tests.fake_cuda.tiles 6 3000

Of 6 tiles, each with 3,000 candidates.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

from tests.fake_cuda.library import load

ROWS, DIMENSION = 256, 64


def run(num_tiles: int, num_candidates: int) -> dict[str, Any]:
    """Compare the first block of rows with itself and others; return what the device saw, and how often it was met."""
    import torch

    from recognition.clustering.torch_tiles import TorchTiles
    from recognition.work import device_copies
    from tests.fake_cuda.events import note_events
    from tests.fake_cuda.watch import FakeMode, Watch

    met = note_events()

    def arrived(values: torch.Tensor) -> np.ndarray:
        met.append("read")
        return np.full(tuple(values.shape), num_candidates if values.ndim == 0 else 0)

    # Tensors of FakeTensorMode have no values for NumPy.
    device_copies.arrived = arrived
    device_copies.page_locked = lambda values: torch.empty(values.shape, dtype=torch.float32, pin_memory=True)
    embeddings = np.ones((num_tiles * ROWS, DIMENSION), np.float32)
    blocks = [range(start, start + ROWS) for start in range(0, len(embeddings), ROWS)]
    with FakeMode(), Watch() as watch:
        tiles = TorchTiles(embeddings, 0.5, torch.device("cuda", 0))
        found = list(tiles((blocks[0], columns) for columns in blocks))
    return {
        "pairs": len(found),
        "met": met,
        "waits": watch.seen.waits,
        "crossings": watch.seen.crossings,
        "launches": watch.seen.num_launches,
    }


if __name__ == "__main__":
    load()
    sys.stdout.write(json.dumps(run(*map(int, sys.argv[1:]))) + "\n")
