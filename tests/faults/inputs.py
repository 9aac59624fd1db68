"""What the jobs train on: small packed sets and pairs that are drawn from a seed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from recognition.formats.pairs_bin import write_pairs
from recognition.formats.set_writer import ImageSetWriter, output_paths, property_text
from recognition.images.codec import encode_jpeg

IDENTITIES, IMAGES, SIDE = 12, 12, 32
GLOBAL_BATCH = 12
STEPS_PER_EPOCH = IDENTITIES * IMAGES // GLOBAL_BATCH


def make_inputs(folder: Path) -> None:
    """Write folder/set (packed), folder/people (a folder of identities) and folder/set/pairs.bin."""
    rec, idx, lst, properties = output_paths(f"{folder / 'set'}/")
    rec.parent.mkdir(parents=True)
    properties.write_text(property_text(IDENTITIES, SIDE, SIDE))
    pictures = _pictures()
    with open(rec, "wb") as records, open(idx, "wb") as index, open(lst, "wb") as names:
        writer = ImageSetWriter(records, index, names, layout="insightface")
        for label, own in enumerate(pictures):
            for number, picture in enumerate(own):
                writer.add(label, encode_jpeg(picture), f"p{label:02d}/{number:02d}.jpg")
        writer.finish()
    for label, own in enumerate(pictures):
        person = folder / "people" / f"p{label:02d}"
        person.mkdir(parents=True)
        for number, picture in enumerate(own):
            cv2.imwrite(str(person / f"{number:02d}.png"), picture)
    # Ten folds of four pairs, half of them of one person.
    pairs = [(label % IDENTITIES, (label + label % 2) % IDENTITIES, label % 2 == 0) for label in range(40)]
    encoded = [encode_jpeg(pictures[who][number]) for one, two, _ in pairs for number, who in enumerate((one, two))]
    write_pairs(folder / "set" / "pairs.bin", encoded, [is_same for _, _, is_same in pairs])


def _pictures() -> list[list[np.ndarray]]:
    """Return uint8 [SIDE, SIDE, 3] pictures by identity: a coarse pattern each, under noise."""
    generator = np.random.default_rng(0)
    people = []
    for _ in range(IDENTITIES):
        pattern = generator.integers(0, 192, (8, 8, 3)).repeat(SIDE // 8, 0).repeat(SIDE // 8, 1)
        noisy = [pattern + generator.integers(0, 64, pattern.shape) for _ in range(IMAGES)]
        people.append([picture.astype(np.uint8) for picture in noisy])
    return people
