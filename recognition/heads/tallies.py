"""What the block loop is given of the rows of a step, and what it sums up for each of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recognition.heads.margins import OwnRows, State
from recognition.heads.sampling import Active, Targets

NO_COSINE = -2.0
"""Where there is no other class."""


@dataclass(frozen=True)
class Part:
    """The rows of one forward among those of a step, and what its margin saw."""

    rows: slice
    own: OwnRows | None
    """None in pass 1 of a margin that does not compare."""
    margin_state: State
    """By which the negatives are bent."""
    scale: float | Tensor
    """s; 0-dim where it moves from batch to batch."""
    learned: State
    """What the margin keeps if the step is accepted."""
    member: Tensor | None = None
    """Where the step's classes are more than this forward sampled: which of them it did [active classes] bool."""
    weight: Tensor | None = None
    """How often each of the step's classes counts in this forward's sums [active classes]; None: once."""


@dataclass(frozen=True)
class Sums:
    """What pass 1 returns, per row of the batch over this rank's negatives."""

    largest_N: Tensor
    """The largest z, float64; without negatives a floor below any."""
    total_N: Tensor
    """The sum of exp(z - reference), float64. The reference is SHIFT, or the row's largest z where that is kept."""
    numerator_ND: Tensor | None
    """The sum of exp(z - reference) dz/dcos r w, where it was asked for."""
    nearest_N: Tensor | None = None
    """The largest cosine, float64, where z is not s times it."""
    sigmoid_N: Tensor | None = None
    """With softplus, the sum of sigmoid(z), float64; total_N is that of softplus(z), numerator_ND has no exp."""
    even: Even | None = None
    """What label smoothing needs."""


@dataclass(frozen=True)
class Even:
    """Sums over negatives that all count alike."""

    z_N: Tensor
    count_N: Tensor
    numerator_ND: Tensor
    """The sum of dz/dcos r w; [1, D], and of all classes with the own, where no row leaves any out."""
    has_own: bool

    @classmethod
    def empty(cls, x_ND: Tensor, *, has_own: bool) -> Even:
        """Return sums of nothing."""
        zeros = torch.zeros(len(x_ND), dtype=torch.float64, device=x_ND.device)
        return cls(zeros, zeros.clone(), torch.zeros_like(x_ND[:1] if has_own else x_ND), has_own)


@dataclass(frozen=True)
class Totals:
    """The sums of all ranks, float64 [N], equal on all of them; what a kind of head does not sum is None."""

    largest_N: Tensor
    total_N: Tensor
    reference: Tensor | float
    """What z is less in `total_N`."""
    nearest_N: Tensor | None
    sigmoid_N: Tensor | None
    num_classes_N: Tensor | None
    """The classes that took part, own ones included."""
    center_length_N: Tensor | None
    even_z_N: Tensor | None
    even_count_N: Tensor | None
    even_has_own: bool

    @property
    def lse_negatives_N(self) -> Tensor:
        """The log of the sum of exp(z)."""
        return self.total_N.log() + self.reference

    def every(self) -> list[Tensor]:
        """Return all sums there are."""
        return [value for name, value in vars(self).items() if isinstance(value, Tensor) and name != "reference"]


@dataclass(frozen=True)
class Descent:
    """What pass 2 needs of a step: the rows of all its forwards, one after another."""

    x_ND: Tensor
    weight_N: Tensor
    """a, times what backward was given."""
    target_value_N: Tensor
    """E_t; times r_t where a tile's column is one center and no margin bends it."""
    row_shift_N: Tensor | None
    """What z is shifted by, or None: SHIFT."""
    even_N: Tensor | None
    """With label smoothing, what every E is less; a takes part in it."""
    radial_N: Tensor | None
    """With raw centers, what the own center's gradient has along itself, per row; None: nothing."""
    scale: float | Tensor
    """s, one for all or [N]."""
    active: Active
    targets: Targets
    parts: list[Part]


@dataclass
class Tally:
    """The sums of pass 1 as they grow, block by block."""

    largest_N: Tensor
    total_N: Tensor
    numerator_ND: Tensor
    nearest_N: Tensor | None
    sigmoid_N: Tensor | None
    keeps_maximum: bool

    @classmethod
    def empty(cls, x_ND: Tensor, *, floor: float, keeps_maximum: bool, is_softmax: bool, has_nearest: bool) -> Tally:
        """Return sums of nothing; `floor` is a value below any z - offset."""
        zeros = torch.zeros(len(x_ND), dtype=torch.float64, device=x_ND.device)
        return cls(
            largest_N=x_ND.new_full((len(x_ND),), floor),
            total_N=zeros,
            numerator_ND=torch.zeros_like(x_ND),
            nearest_N=x_ND.new_full((len(x_ND),), NO_COSINE) if has_nearest else None,
            sigmoid_N=None if is_softmax else zeros.clone(),
            keeps_maximum=keeps_maximum,
        )

    def add_(self, z_Nn: Tensor, weight_n: Tensor | None) -> Tensor:
        """Add a tile of z - offset, which is destroyed, and return what a center's share of the numerator follows.

        `weight_n`: how often each class counts. The largest z stays a cosine's.
        """
        before_N = self.largest_N
        self.largest_N = torch.maximum(before_N, z_Nn.amax(1))
        if self.sigmoid_N is not None:
            # beyond 40, log(1 + exp(z)) is z to the last digit of a float64
            costs_Nn = torch.nn.functional.softplus(z_Nn, threshold=40.0)
            e_Nn = z_Nn.sigmoid_()
            if weight_n is not None:
                costs_Nn.mul_(weight_n)
                e_Nn.mul_(weight_n)
            self.total_N.add_(costs_Nn.sum(1))
            self.sigmoid_N.add_(e_Nn.sum(1))
            return e_Nn
        if self.keeps_maximum:
            rescale_N = (before_N - self.largest_N).exp_()
            self.total_N.mul_(rescale_N)
            self.numerator_ND.mul_(rescale_N.unsqueeze(1))
            z_Nn.sub_(self.largest_N.unsqueeze(1))
        e_Nn = z_Nn.exp_()
        if weight_n is not None:  # exp(z + log(1 / q))
            e_Nn.mul_(weight_n)
        self.total_N.add_(e_Nn.sum(1))
        return e_Nn
