"""The gate of every export: the file gives the embeddings that torch gives, or it is not published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from recognition.embedding.embedder import evaluating
from recognition.errors import CheckpointError
from recognition.images.codec import decode_rgb
from recognition.images.preprocess import to_network
from recognition.rendering.face_person import make_person
from recognition.rendering.face_renderer import render

BATCHES = (1, 7)
"""Images at once: a program that was traced with one batch often breaks with another."""
Run = Callable[[np.ndarray], np.ndarray]
"""Images float32 [n, 3, S, S] as networks are fed here -> embeddings [n, D]."""


@dataclass(frozen=True)
class Agreement:
    """How far a file's embeddings are from torch's."""

    least_cosine: float
    mean_cosine: float
    num_images: int

    def __str__(self) -> str:
        return f"cosine with torch at least {self.least_cosine:.7f} over {self.num_images:,} images"


def drawn_faces(num: int, side: int) -> np.ndarray:
    """Return drawn faces of `num` people, uint8 [num, side, side, 3] RGB, always the same."""
    rng = np.random.default_rng(0)
    pictures = (render(make_person(0, number), rng, side)[0] for number in range(num))
    return np.stack([decode_rgb(picture, place="a drawn face") for picture in pictures])


def check_finite(module: nn.Module, side: int, *, place: str) -> None:
    """Raise CheckpointError when the network itself gives numbers that are not finite."""
    with evaluating(module), torch.inference_mode():
        rows = module(to_network(torch.from_numpy(drawn_faces(1, side))))
    if not torch.isfinite(rows).all():
        raise CheckpointError(
            f"{place}: the network itself gives embeddings that are not finite; expected numbers; the weights hold NaN "
            "or overflow, take an earlier checkpoint"
        )


def compare(
    run: Run, module: nn.Module, images_rgb: np.ndarray, *, place: str, batches: tuple[int, ...] = BATCHES
) -> Agreement:
    """Compare a file with the network that it was made of, on images uint8 [n, S, S, 3], in each of the batches.

    Raises CheckpointError when the file gives numbers that are not finite, or another shape than torch.
    """
    cosines: list[np.ndarray] = []
    for batch in batches:
        for start in range(0, len(images_rgb), batch):
            images = to_network(torch.from_numpy(images_rgb[start : start + batch]))
            with evaluating(module), torch.inference_mode():
                expected = module(images).float().numpy()
            cosines.append(_cosines(run(images.numpy()), expected, place))
    found = np.concatenate(cosines)
    return Agreement(float(found.min()), float(found.mean()), len(found))


def require(agreement: Agreement, least: float, *, place: str, advice: str) -> None:
    """Raise CheckpointError when a cosine is below `least`."""
    if not agreement.least_cosine >= least:
        raise CheckpointError(f"{place}: {agreement}; expected at least {least:g}; {advice}; nothing was written")


def _cosines(found: np.ndarray, expected: np.ndarray, place: str) -> np.ndarray:
    if found.shape != expected.shape:
        raise CheckpointError(
            f"{place}: gives {list(found.shape)} where torch gives {list(expected.shape)}; expected the same; "
            "nothing was written"
        )
    if not np.isfinite(found).all():
        raise CheckpointError(
            f"{place}: gives embeddings that are not finite, torch's are; expected numbers; choose --precision fp32"
        )
    a, b = found.astype(np.float64), expected.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: np.ndarray = np.divide((a * b).sum(1), lengths, out=np.zeros(len(a)), where=lengths > 0)
    return cosines
