"""What pass 2 does with the gradient of a block: a step of SGD in place, or the gradient itself for an optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from recognition.heads.block_loop import BlockLoop
from recognition.heads.products import accumulate_, multiply
from recognition.heads.sampling import Active, Block
from recognition.heads.state import CenterState


@dataclass(frozen=True)
class Sgd:
    """The step of SGD with momentum and weight decay, as torch.optim.SGD takes it."""

    lr: float
    momentum: float
    weight_decay: float
    number: int
    """Of the step; bf16 rounds by it."""
    refused: Tensor | None
    """On CUDA, whether the step is refused (0-dim bool on the device); None where the host has already decided."""

    def apply_(
        self, loop: BlockLoop, block: Block, w_kD: Tensor, e_Nk: Tensor, dot_k: Tensor, weighted_ND: Tensor
    ) -> None:
        """Move the centers and the momentum of `block`: m = mu m + dw + weight_decay w; w -= lr m."""
        state = loop.state
        buffer = loop.buffer("momentum", block.num_rows, w_kD.shape[1])
        radial_k = dot_k.mul_(state.inverse_norm[block.rows].square()).neg_().add_(self.weight_decay)
        if loop.updates_by_kernel(block):
            gradient_kD = multiply(e_Nk.T, weighted_ND, buffer, loop.products)
            loop.kernels.update_(
                w_kD,
                state.momentum[block.rows],  # type: ignore[index]
                gradient_kD,
                radial_k,
                self.refused,
                lr=self.lr,
                keep=self.momentum,
            )
            increment_version(state.centers)  # torch sees no write of Triton's, and a late backward must be refused
            return
        # Of rows that coast, pass 2 has brought centers and momentum up to now together.
        m_kD = state.read_momentum(block.rows, buffer) if state.coast is None else buffer
        mu = 0.0 if state.momentum is None else self.momentum
        accumulate_(m_kD, e_Nk.T, weighted_ND, loop.products, keep=mu)
        m_kD.addcmul_(w_kD, radial_k.unsqueeze(1))
        w_kD.add_(m_kD, alpha=-self.lr)
        state.write(block.rows, w_kD, m_kD, step=self.number, refused=self.refused)

    def follow_(self, state: CenterState, active: Active) -> None:
        """Note that this step has moved the rows of `active`, and that others coast through it."""
        rows = active.rows(0, len(active))
        if isinstance(rows, slice):  # all of them
            rows = torch.arange(rows.start, rows.stop, device=state.centers.device)
        rates = {"lr": self.lr, "momentum": self.momentum, "weight_decay": self.weight_decay}
        state.follow_(rows, **rates, step=self.number, refused=self.refused)

    def moved(self, kept: Mapping[str, Tensor], gradient: Tensor) -> dict[str, Tensor]:
        """Return the number "b" and its momentum after the step; see `block_loop.Rule`."""
        momentum = self.momentum * kept["b_momentum"] + gradient + self.weight_decay * kept["b"]
        return {**kept, "b": kept["b"] - self.lr * momentum, "b_momentum": momentum, "b_steps": kept["b_steps"] + 1}


@dataclass(frozen=True)
class DenseGradient:
    """Writes the centers' gradient into a tensor of their shape, for an optimizer to use."""

    gradient_CD: Tensor

    def apply_(
        self, loop: BlockLoop, block: Block, w_kD: Tensor, e_Nk: Tensor, dot_k: Tensor, weighted_ND: Tensor
    ) -> None:
        """Write the rows of `block`."""
        is_sampled = isinstance(block.rows, Tensor)
        rows_kD = loop.buffer("momentum", *w_kD.shape) if is_sampled else self.gradient_CD[block.rows]
        multiply(e_Nk.T, weighted_ND, rows_kD, loop.products)
        radial_k = dot_k.mul_(loop.state.inverse_norm[block.rows].square()).neg_()
        rows_kD.addcmul_(w_kD, radial_k.unsqueeze(1))
        if isinstance(block.rows, Tensor):  # the rows outside the sample keep their zeros
            self.gradient_CD.index_copy_(0, block.rows, rows_kD)

    def moved(self, kept: Mapping[str, Tensor], gradient: Tensor) -> dict[str, Tensor]:
        """Raise: a number b is a parameter here, whose gradient backward returns."""
        raise NotImplementedError
