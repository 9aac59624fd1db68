"""Rows that a step does not sample move on all the same, and are computed when they are next read: `unsampled: coast`.

An optimizer that sees a gradient of zeros still moves a row. For SGD with momentum, m = mu m + decay w and then
w = w - lr m, so that the pair (w, m) is multiplied by a matrix that all rows share:

    M_t = [[1 - lr_t decay, -lr_t mu], [decay, mu]]          a step that is refused counts as none

A row that had reached step a is read, before step b, as M_(b-1) ... M_a times what is stored. The products for every a
are kept, and each step multiplies all of them from the left: suffix products, never the quotient of two prefixes, which
mu^k would bring below the smallest number. So that no row falls behind further than there are products, each is
written once in `LONGEST` steps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

Rows = slice | Tensor

LONGEST = 4096
"""Steps a row may be behind."""


class Coast(nn.Module):
    """How far each of this rank's rows has come, and what the steps since have made of it.

    Where rows are and what they hold is the business of `CenterState`; everything here lies on its device, and nothing
    is asked of the host.
    """

    clock: Tensor
    """0-dim int64: the steps that counted so far."""
    products: Tensor
    """[LONGEST + 1, 2, 2] float64: at place a % (LONGEST + 1) the product of the steps from a on; now's is 1."""
    reached: Tensor
    """[rows] int32: the clock up to which a stored row has moved."""

    def __init__(self, rows: range, device: torch.device) -> None:
        super().__init__()
        self.rows = rows
        self._spare = torch.empty(0, device=device)
        self.register_buffer("clock", torch.zeros((), dtype=torch.int64, device=device))
        self.register_buffer("products", torch.eye(2, dtype=torch.float64, device=device).repeat(LONGEST + 1, 1, 1))
        self.register_buffer("reached", torch.zeros(len(rows), dtype=torch.int32, device=device))

    def shared(self) -> dict[str, Tensor]:
        """Return what is equal on all ranks, by name."""
        return {"clock": self.clock, "products": self.products}

    def spare(self, like: Tensor) -> Tensor:
        """Return rows of any content, of the shape and kind of `like`: one piece of memory, kept, for all calls."""
        if self._spare.numel() < like.numel() or (self._spare.dtype, self._spare.device) != (like.dtype, like.device):
            self._spare = torch.empty(like.numel(), dtype=like.dtype, device=like.device)
        return self._spare[: like.numel()].view_as(like)

    def since(self, rows: Rows, dtype: torch.dtype) -> Tensor:
        """Return for each of `rows` (a, b, c, d) [n, 4] of w += a w + b m, m = c w + d m: what it has missed."""
        return missed_of(self.products, self.reached[rows], dtype)

    def advance_(self, lr: float, momentum: float, weight_decay: float, refused: Tensor | None) -> None:
        """Count a step, unless `refused` (0-dim bool)."""
        w_row, m_row = self.products[:, 0], self.products[:, 1]
        m_moved = weight_decay * w_row + momentum * m_row
        moved = torch.stack([w_row - lr * m_moved, m_moved], 1)
        self.products.copy_(moved if refused is None else torch.where(refused, self.products, moved))
        self.clock.add_(1 if refused is None else ~refused)
        now = (self.clock % len(self.products)).view(1)
        self.products.index_copy_(0, now, torch.eye(2, dtype=torch.float64, device=now.device).unsqueeze(0))

    def mark_(self, rows: Tensor, skipped: Tensor | None) -> None:
        """Note that `rows` have come up to now, except where `skipped` (bool, 0-dim or one per row)."""
        now = self.clock.to(torch.int32).expand(len(rows))
        self.reached.index_copy_(0, rows, now if skipped is None else torch.where(skipped, self.reached[rows], now))

    def due(self, refused: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the rows whose turn it is to be written, and which of them are not to be, after a step.

        Row g of all ranks has its turn where g and the clock agree modulo LONGEST, whatever number of ranks there is.
        """
        size = len(self.rows)
        every = torch.arange(0, size, LONGEST, device=self.clock.device)
        rows = every + (self.clock - self.rows.start) % LONGEST
        is_outside = rows >= size
        rows = rows.clamp(max=size - 1)
        skipped = is_outside | (self.reached[rows] == self.clock)
        return rows, skipped if refused is None else skipped | refused

    def _apply(self, fn: object, recurse: bool = True) -> Coast:
        kinds = {name: buffer.dtype for name, buffer in self.named_buffers()}
        kept = self.products
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.products = kept.to(self.clock.device)  # whatever the centers become, these stay float64
        assert all(buffer.dtype == kinds[name] for name, buffer in self.named_buffers())
        return self


def missed_of(products: Tensor, reached: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what rows that had come so far have missed, as `Coast.since` has it."""
    missed = products[reached.long() % len(products)].view(-1, 4)
    missed[:, 0] -= 1  # in float64: w keeps the bits that the steps leave alone
    return missed.to(dtype)


def move_(w_kD: Tensor, m_kD: Tensor, missed: Tensor, out_kD: Tensor) -> None:
    """Write to `out_kD`, which may be `w_kD`, the centers as they are by now; `since` gave `missed`."""
    torch.addcmul(w_kD, w_kD, missed[:, :1], out=out_kD).addcmul_(m_kD, missed[:, 1:2])


def move_both_(w_kD: Tensor, m_kD: Tensor, missed: Tensor, out_kD: Tensor) -> None:
    """Write to `out_kD`, which is another tensor than `w_kD`, what `move_` does, and bring the momentum up to now."""
    move_(w_kD, m_kD, missed, out_kD)
    m_kD.mul_(missed[:, 3:]).addcmul_(w_kD, missed[:, 2:3])
