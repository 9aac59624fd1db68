"""Embeddings at length 1."""

from __future__ import annotations

import torch
from torch import Tensor


def unit_and_length(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows [B, D] at length 1 and their lengths [B]; huge ones are safe.

    Rows shorter than 1e-12 become zero, and so does their gradient.
    """
    # A row and its direction do not change by a constant factor, so the factor needs no gradient.
    largest = embeddings.detach().abs().amax(1, keepdim=True)
    factor = torch.where(largest < 1e-12, torch.zeros_like(largest), largest.reciprocal())
    scaled = embeddings * factor  # the largest entry is now 1, give or take a rounding, or the row is zero
    length = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    # Not clamp_min(1): at and below it there is no gradient, and a row of length 1 would keep what is along it.
    return scaled / torch.where(length > 0, length, 1), (length * largest).squeeze(1)
