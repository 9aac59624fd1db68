"""What a margin is: how the logit of an image's own class, and if need be those of the others, follow from cosines.

A margin is one file here and one line in the registry. Its settings are the fields of a dataclass; what it learns from
batch to batch (a mean length, the stage of a curriculum) is a mapping of tensors that the head keeps for it: equal on
all ranks, in every checkpoint, and moved by accepted steps alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

State = Mapping[str, Tensor]
Gradient = Literal["straight_through", "exact"]

# d cos(theta + m) / d cos(theta) = sin(theta + m) / sin(theta) has a pole at theta = 0. The gradient that reaches an
# embedding carries another sin(theta), so bounding the ratio below a thousandth of a radian changes no step that
# could be seen.
SMALLEST_SINE = 1e-3


@dataclass(frozen=True)
class OwnRows:
    """The global batch as a margin sees it: every image beside its own class; equal on all ranks, no gradient."""

    cosine_N: Tensor
    """Between embedding and own center, float64; rounding may carry it past 1."""
    label_N: Tensor
    """Global class ids, int64."""
    length_N: Tensor | None
    """The embeddings' lengths, float64, where the margin `wants_lengths`."""


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


class Margin:
    """The base of all margins: no state, no interest in lengths, negatives as they are."""

    wants_lengths: ClassVar[bool] = False
    """Whether `OwnRows` needs the lengths, which then travel with the embeddings."""
    bends_negatives: ClassVar[bool] = False
    """Whether `negative` is called. It costs one more gather: the target cosines before pass 1."""
    largest: float = 1.0
    """A bound on |z| / s of the negatives; above 64 / s the sums keep a running maximum."""

    def first(self) -> State:
        """Return the state of a run's first step: 0-dim float64 tensors by name."""
        return {}

    def observe(self, state: State, own: OwnRows) -> State:
        """Return the state after seeing a batch, without changing `state`.

        What is returned is used for this batch at once, and kept if its step is accepted.
        """
        return state

    def target(self, state: State, own: OwnRows) -> Shaped:
        """Return the logits of the own classes and what is fed back through them."""
        raise NotImplementedError

    def negative(self, state: State, own: OwnRows, cosine_Nn: Tensor) -> tuple[Tensor, Tensor]:
        """Return (z / s, its derivative by the cosine) of a tile of other classes [N, n]; only if `bends_negatives`.

        The tile's columns of own classes are of no meaning and are replaced later.
        """
        raise NotImplementedError


def angle_of(cosine: Tensor) -> Tensor:
    """Return the angle of a cosine that rounding may have carried past the ends."""
    return torch.acos(cosine.clamp(-1, 1))
