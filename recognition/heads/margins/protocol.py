"""What a margin is: how the logit of an image's own class, and if need be those of the others, follow from cosines.

A margin is one file here and one line in the registry. Its settings are the fields of a dataclass; what it learns from
batch to batch (a mean length, the stage of a curriculum) is a mapping of tensors that the head keeps for it: equal on
all ranks, in every checkpoint, and moved by accepted steps alone.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from recognition.heads.margins.rows import Facts, OwnRows, Shaped, State


class Margin:
    """The base of all margins: no state, no interest in lengths, negatives as they are."""

    sums: Literal["softmax", "softplus"] = "softmax"
    """What is summed over the classes: exp(z), or log(1 + exp(z)) as the margins of `binary.py` do."""
    rows: Literal["unit", "length", "raw"] = "unit"
    """What z is: s c; with the embedding's length |e| c; or e . w with the center's length too."""
    wants_class_sizes: bool = False
    """Whether `bind` needs the images of each class."""
    wants_lengths: bool = False
    """Whether `OwnRows` needs the lengths, which then travel with the embeddings."""
    compares_negatives: bool = False
    """Whether `negative` looks at the own rows. It costs one more gather: the target cosines before pass 1."""

    @property
    def uses_scale(self) -> bool:
        """Whether the scale that the head is given counts."""
        return not self.moves_scale

    @property
    def moves_scale(self) -> bool:
        """Whether `scale_of` gives a scale that moves from batch to batch."""
        return False

    @property
    def looks_twice(self) -> bool:
        """Whether this batch's negatives decide its scale: one more pass 1, and one more gather."""
        return False

    @property
    def has_bias(self) -> bool:
        """Whether every center has one number more, added to its z; only where `rows` is "raw"."""
        return False

    @property
    def bends_negatives(self) -> bool:
        """Whether `negative` is called."""
        return self.compares_negatives

    @property
    def largest(self) -> float:
        """A bound on |z| / s of the negatives; above 64 / s the sums keep a running maximum."""
        return 1.0

    def bind(self, facts: Facts) -> Margin:
        """Return the margin for a head; ConfigError where it cannot be for this one."""
        return self

    def fixed_scale(self, given: float) -> float:
        """Return the head's scale: what it was `given`, or the margin's own; of one that moves, the largest."""
        return given

    def scale_of(self, state: State) -> Tensor:
        """Return the scale of this batch (0-dim); only if `moves_scale`."""
        raise NotImplementedError

    def first(self) -> State:
        """Return the state of a run's first step: 0-dim float64 tensors by name."""
        return {}

    def observe(self, state: State, own: OwnRows) -> State:
        """Return the state after seeing a batch, without changing `state`.

        What is returned is used for this batch's targets at once, and kept if its step is accepted. Negatives are bent
        by it only where the margin `compares_negatives`: else they are bent before anything of the batch is known.
        """
        return state

    def target(self, state: State, own: OwnRows) -> Shaped:
        """Return the logits of the own classes and what is fed back through them."""
        raise NotImplementedError

    def negative(self, state: State, own: OwnRows | None, cosine_Nn: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return (z / s, its derivative by the cosine) of a tile of other classes [N, n]; None for 1 everywhere.

        Only if `bends_negatives`. `own` is there for margins that compare. The tile's columns of own classes are of no
        meaning and are replaced later; the tile itself may be changed.
        """
        raise NotImplementedError
