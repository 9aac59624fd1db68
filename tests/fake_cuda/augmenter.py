"""Augment a batch on a fake `cuda:0`; prints what it took as one JSON line a recipe.

    python -m tests.fake_cuda.augmenter 128 arcface_dali adaface

Of 128 images of 112 pixels, by these presets.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from tests.fake_cuda.library import load


def run(num_images: int, presets: list[str]) -> list[dict[str, Any]]:
    """Augment the same batch twice by each preset; return what the device saw of the second time."""
    import torch

    from recognition.config.schema import AugmentConfig
    from recognition.images.augment import Augmenter, recipe
    from tests.fake_cuda.watch import FakeMode, Watch

    cuda, found = torch.device("cuda", 0), []
    with FakeMode():
        images = torch.zeros((num_images, 112, 112, 3), dtype=torch.uint8, device=cuda)
        indices = torch.arange(num_images, device=cuda)
        for preset in presets:
            augment = Augmenter(recipe(AugmentConfig(preset=preset)), seed=1)  # type: ignore[arg-type]
            augment(images, indices, 0)
            with Watch() as watch:
                augment(images, indices, 0)
            seen = watch.seen
            found.append(
                {
                    "preset": preset,
                    "launches": seen.num_launches,
                    "gb": round(seen.num_bytes / 1e9, 2),
                    "crossings": seen.crossings,
                    "most": dict(seen.launches.most_common(8)),
                }
            )
    return found


if __name__ == "__main__":
    load()
    for line in run(int(sys.argv[1]), sys.argv[2:]):
        sys.stdout.write(json.dumps(line) + "\n")
