"""Where the detectors' weights lie: `make align` unpacks MTCNN's three files into the Python environment."""

from __future__ import annotations

import sys
from pathlib import Path

from recognition.errors import CheckpointError

MTCNN_FILES = ("pnet.pt", "rnet.pt", "onet.pt")


def mtcnn_folder() -> Path:
    """Return the folder that data_tools/fetch_weights.py fills, inside the running Python's environment."""
    return Path(sys.prefix) / "share" / "arcshard" / "mtcnn"


def find_mtcnn(folder: Path | None = None) -> Path:
    """Return the folder of MTCNN's weights, by default `mtcnn_folder()`; CheckpointError when one is missing."""
    folder = folder or mtcnn_folder()
    for name in MTCNN_FILES:
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder / name}: no such file; expected MTCNN's weights; run: python -m recognition fetch_weights"
            )
    return folder
