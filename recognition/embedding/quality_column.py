"""quality.npy beside published embeddings: one number a face, the larger the better. Torch-free."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from recognition.errors import DataError
from recognition.work.files import write_bytes

QUALITY = "quality.npy"


def write_quality(folder: Path, scores: np.ndarray) -> None:
    """Publish the scores [n] of a folder's embeddings, float32, in their order."""
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(scores, dtype=np.float32))
    write_bytes(folder / QUALITY, buffer.getvalue())


def read_quality(folder: Path, num: int) -> np.ndarray | None:
    """Return the scores float32 [num]; None where there are none. DataError when they are not of these embeddings."""
    path = folder / QUALITY
    if not path.is_file():
        return None
    try:
        scores: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TypeError) as err:
        reason = str(err).partition("\n")[0]
        raise DataError(f"{path}: cannot be read ({reason:.80}); expected scores; run embed_faces.py again") from err
    if scores.shape != (num,) or scores.dtype != np.float32:
        raise DataError(
            f"{path}: {scores.dtype} {list(scores.shape)}; expected float32 [{num:,}], one for each embedding; run "
            "embed_faces.py --quality again"
        )
    return scores
