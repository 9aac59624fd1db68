"""What pass 2 does with the gradient of a block under AdamW (arXiv:1711.05101): its step, in place.

With g the block's gradient of the loss, t how often a row was moved, this step included, and w, m, v the row:

    w = (1 - lr weight_decay) w
    m = beta1 m + (1 - beta1) g              v = beta2 v + (1 - beta2) g^2
    w = w - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

which is torch.optim.AdamW where all rows take part in every step. Where classes are sampled, a row's moments advance
only when it is: they hold t of its gradients, whatever the run's step is, and t is what makes their expectation that of
a gradient. With the run's count instead, a row's first steps would be up to 6 times too long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recognition.heads.block_loop import BlockLoop
from recognition.heads.products import multiply
from recognition.heads.sampling import Block


@dataclass(frozen=True)
class AdamW:
    """The step of AdamW, as torch.optim.AdamW takes it, with the number of each row's own steps."""

    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    number: int
    """Of the step; small formats round by it."""
    refused: Tensor | None
    """On CUDA, whether the step is refused (0-dim bool on the device); None where the host has already decided."""

    def apply_(
        self, loop: BlockLoop, block: Block, w_kD: Tensor, e_Nk: Tensor, dot_k: Tensor, weighted_ND: Tensor
    ) -> None:
        """Move the centers and both moments of `block`."""
        state, shape = loop.state, (block.num_rows, w_kD.shape[1])
        g_kD = multiply(e_Nk.T, weighted_ND, loop.buffer("gradient", *shape), loop.products)
        radial_k = dot_k.mul_(state.inverse_norm[block.rows].square()).neg_()
        g_kD.addcmul_(w_kD, radial_k.unsqueeze(1))
        m_kD = state.read_momentum(block.rows, loop.buffer("momentum", *shape))
        v_kD, updates_k = state.read_second(block.rows, loop.buffer("second", *shape))
        updates_k = updates_k + 1
        if self.refused is None and updates_k.min() == updates_k.max():  # on the host, where a look costs nothing
            self._move_alike_(w_kD, g_kD, m_kD, v_kD, updates_k[0])
        else:
            self._move_(w_kD, g_kD, m_kD, v_kD, updates_k)
        state.write(block.rows, w_kD, m_kD, step=self.number, refused=self.refused)
        state.write_second(block.rows, v_kD, updates_k, step=self.number, refused=self.refused)

    def _move_(self, w_kD: Tensor, g_kD: Tensor, m_kD: Tensor, v_kD: Tensor, updates_k: Tensor) -> None:
        """Take the step on rows, each with its own count; `g_kD` is destroyed."""
        beta1, beta2 = self.betas
        m_kD.lerp_(g_kD, 1 - beta1)
        v_kD.mul_(beta2).addcmul_(g_kD, g_kD, value=1 - beta2)
        # The corrections of a row are one factor and one term of sqrt(v): a walk over the block for both.
        of_first_k, of_second_k = ((1 - beta ** updates_k.double()).unsqueeze(1) for beta in self.betas)
        factor_k = (of_first_k / of_second_k.sqrt()).to(v_kD.dtype)
        least_k = (of_first_k * self.eps).to(v_kD.dtype)
        divisor_kD = torch.addcmul(least_k, torch.sqrt(v_kD, out=g_kD), factor_k, out=g_kD)
        w_kD.mul_(1 - self.lr * self.weight_decay).addcdiv_(m_kD, divisor_kD, value=-self.lr)

    def _move_alike_(self, w_kD: Tensor, g_kD: Tensor, m_kD: Tensor, v_kD: Tensor, count: Tensor) -> None:
        """Take the step on rows with one `count`, as those of a head without sampling, in one walk instead of eight."""
        torch._fused_adamw_(
            [w_kD],
            [g_kD],
            [m_kD],
            [v_kD],
            [],
            [count.float()],
            lr=self.lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=self.weight_decay,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )

    def moved(self, kept: Mapping[str, Tensor], gradient: Tensor) -> dict[str, Tensor]:
        """Return the number "b" with its moments and count after the step; see `block_loop.Rule`."""
        beta1, beta2 = self.betas
        steps = kept["b_steps"] + 1
        first = beta1 * kept["b_momentum"] + (1 - beta1) * gradient
        second = beta2 * kept["b_square"] + (1 - beta2) * gradient**2
        step = first / (1 - beta1**steps) / ((second / (1 - beta2**steps)).sqrt() + self.eps)
        b = kept["b"] * (1 - self.lr * self.weight_decay) - self.lr * step
        return {**kept, "b": b, "b_momentum": first, "b_square": second, "b_steps": steps}
