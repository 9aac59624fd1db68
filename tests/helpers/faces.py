"""A few noisy pictures, as a folder of people and as pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recognition.formats.pairs_bin import write_pairs
from recognition.images.codec import encode_jpeg


def write_faces(folder: Path, side: int, *, num_pairs: int = 2) -> tuple[Path, Path]:
    """Write two pictures a pair, of two people, as a folder and as pairs (every other one the same); return both."""
    generator = np.random.default_rng(0)
    pictures = [encode_jpeg(generator.integers(0, 256, (side, side, 3), np.uint8)) for _ in range(2 * num_pairs)]
    for number, picture in enumerate(pictures):
        path = folder / "faces" / str(number % 2) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)
    write_pairs(folder / "pairs.bin", pictures, [pair % 2 == 0 for pair in range(num_pairs)])
    return folder / "faces", folder / "pairs.bin"
