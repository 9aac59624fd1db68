"""Notice a network to which everybody looks alike: fed in the wrong way, or not trained. Torch-free."""

from __future__ import annotations

import numpy as np

from recognition.embedding.store import ImageSource

TOO_ALIKE = 0.99
"""Cosine of two strangers that no trained network gives."""
_MOST_LOOKED_AT = 256


def different_people(source: ImageSource) -> list[int]:
    """Return images of different identities of a set; where it has but one, images from all over it."""
    spread = np.unique(np.linspace(0, len(source) - 1, _MOST_LOOKED_AT).astype(int)).tolist()
    first_of = {source.keyed(i).label: i for i in reversed(spread)}
    return sorted(first_of.values()) if len(first_of) > 1 else spread


def pair_cosines(vectors: np.ndarray) -> np.ndarray:
    """Return the cosine of every two of the vectors [n, D]: float64 [n (n - 1) / 2]."""
    rows = np.asarray(vectors, dtype=np.float64)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    cosines: np.ndarray = (rows @ rows.T)[np.triu_indices(len(rows), 1)]
    return cosines


def strangers_warning(cosines: np.ndarray, *, place: str) -> str | None:
    """Return what to do when half of the cosines of strangers are above `TOO_ALIKE`, else None."""
    if len(cosines) == 0 or (middle := float(np.median(cosines))) <= TOO_ALIKE:
        return None
    return (
        f"{place}: strangers agree with a cosine of {middle:.4f} (median of {len(cosines):,} pairs); expected less "
        f"than {TOO_ALIKE} from a trained network; check the weights, and how its pixels are scaled (of an .onnx file: "
        "--mean, --std and --color)"
    )
