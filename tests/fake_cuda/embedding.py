"""Blocks of pictures through a network on a fake `cuda:0`; prints what they did as one JSON line.

python -m tests.fake_cuda.embedding 4
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

from tests.fake_cuda.library import load


def run(num_blocks: int) -> dict[str, Any]:
    """Embed blocks that are on the device already; return what the device saw, and how often it was met."""
    import torch

    from recognition.backbones import build_backbone
    from recognition.embedding.embedder import Embedder
    from recognition.embedding.reading_ahead import one_late
    from recognition.work import device_copies
    from tests.fake_cuda.events import note_events
    from tests.fake_cuda.watch import FakeMode, Watch

    met = note_events()
    cuda = torch.device("cuda", 0)

    def arrived(values: torch.Tensor) -> np.ndarray:
        met.append("read")
        return np.zeros(tuple(values.shape))  # tensors of FakeTensorMode have no values for NumPy

    device_copies.arrived = arrived
    with FakeMode():
        embedder = Embedder(build_backbone("tiny", embedding_size=16), device=cuda, precision="bf16")
        images = torch.zeros((64, 112, 112, 3), dtype=torch.uint8, device=cuda)
        with Watch() as watch:
            found = list(one_late(embedder, ((block, images) for block in range(num_blocks))))
    shapes = {vectors.shape for _, vectors in found}
    return {"blocks": [block for block, _ in found], "shapes": sorted(shapes), "met": met, "waits": watch.seen.waits}


if __name__ == "__main__":
    load()
    sys.stdout.write(json.dumps(run(int(sys.argv[1]))) + "\n")
