"""What margins are given and what they return: the head they are for, the rows of a batch, the shaped logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

State = Mapping[str, Tensor]
"""What a margin keeps from batch to batch: 0-dim float64 tensors by name."""


@dataclass(frozen=True)
class Facts:
    """What a margin may want to know of the head it is for."""

    num_classes: int
    scale: float
    sample_rate: float
    """The share of the other classes that sums count."""
    seed: int
    class_sizes: Tensor | None
    """Images of each class [num_classes], int64, where they were given."""


@dataclass(frozen=True)
class OwnRows:
    """The global batch as a margin sees it: every image beside its own class; equal on all ranks, no gradient."""

    cosine_N: Tensor
    """Between embedding and own center, float64; rounding may carry it past 1."""
    label_N: Tensor
    """Global class ids, int64."""
    length_N: Tensor | None
    """The embeddings' lengths, float64, where the margin `wants_lengths`."""
    center_length_N: Tensor | None = None
    """Of the own centers, float64, where `rows` is "raw"."""
    lse_negatives_N: Tensor | None = None
    """The log of the sum of exp(z) over the other classes, float64; None before pass 1 and without softmax."""


@dataclass(frozen=True)
class Shaped:
    """What a margin makes of the own classes, all [N] float64."""

    logit: Tensor
    """f, before the scale."""
    by_cosine: Tensor
    """f': what is fed back to the cosine."""
    by_length: Tensor | None = None
    """What is fed back to the embedding's length; None: nothing."""
    weight: Tensor | None = None
    """What each image's softmax loss is multiplied by before the mean over the batch; None: 1."""
    term: Tensor | None = None
    """A loss of the margin's own per image, on top of the softmax."""
    term_by_length: Tensor | None = None
    along: Tensor | None = None
    """Where `rows` is not "unit": f - c f', what is fed back along the row's own direction, and the raw center's."""
