"""A forward's arithmetic: pass 1, the exchange between the ranks, and from both the loss and its gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from recognition.distributed.collectives import gather_stack
from recognition.distributed.world import World
from recognition.heads.block_loop import SHIFT, BlockLoop, Part, Sums
from recognition.heads.margins import OwnRows, Shaped, State
from recognition.heads.passes import Pass
from recognition.heads.sampling import Active, Targets


@dataclass(frozen=True)
class HeadResult:
    """What a forward found, equal on all ranks but for `sampled`; on the device, without a gradient."""

    loss: Tensor
    """0-dim: the mean over the global batch."""
    parts: dict[str, Tensor]
    """What the loss is the sum of: "softmax", and "margin" where the margin has a loss of its own."""
    refused: Tensor
    """0-dim bool: a value is not finite, so the step moves nothing; after the optimizer's step, what it decided."""
    target_cosine_N: Tensor
    hardest_negative_N: Tensor
    """The largest cosine to another class, as the margin bends it; below -1 where no negative was seen."""
    sampled: Tensor | None
    """Local ids of this rank's classes that took part, sorted; None when all did."""

    def means(self) -> dict[str, Tensor]:
        """Return what a report shows of it, all 0-dim float32."""
        hardest_N = self.hardest_negative_N
        means = {
            "top1": (self.target_cosine_N > hardest_N).float().mean(),
            "target_cosine": self.target_cosine_N.mean().float(),
            "hardest_negative": hardest_N.clamp_min(-1).mean().float(),
        }
        if len(self.parts) > 1:
            means |= {f"loss_{name}": value.float() for name, value in self.parts.items()}
        return means


@dataclass(frozen=True)
class Rows:
    """The global batch of a forward, equal on all ranks; `local_N` are class ids less this rank's first."""

    x_ND: Tensor
    length_N: Tensor | None
    label_N: Tensor
    local_N: Tensor


@dataclass(frozen=True)
class Gradients:
    """What backward returns, for a loss gradient of 1."""

    rows: Tensor
    """d loss / d of what was gathered, of this rank's classes: x [N, D], or x and the length [N, D + 1]."""


@dataclass(frozen=True)
class _Own:
    """The own centers of the rows, float64. What is said of rows whose class is elsewhere has no meaning."""

    is_here_N: Tensor
    cosine_N: Tensor
    """0 elsewhere."""
    r_N: Tensor
    w_ND: Tensor


@torch.no_grad()
def measure(
    loop: BlockLoop,
    rows: Rows,
    active: Active,
    targets: Targets,
    *,
    margin_state: State,
    learns: bool,
    wants_dx: bool,
    world: World,
) -> tuple[HeadResult, Pass, Gradients | None]:
    """Return what a forward found, what it leaves for pass 2, and for backward where `wants_dx`.

    `learns`: the margin sees this batch, on top of `margin_state`. Collectives: one gather of three numbers per row,
    and where the margin bends negatives one of the target cosines before pass 1.
    """
    own = _own_centers(loop, rows)

    def part_of(cosine_N: Tensor) -> Part:
        seen = OwnRows(cosine_N, rows.label_N, rows.length_N)
        state = loop.margin.observe(margin_state, seen) if learns else margin_state
        return Part(slice(0, len(cosine_N)), seen, state)

    part = None
    if loop.margin.bends_negatives:
        part = part_of(gather_stack(own.cosine_N, world).sum(0))
    sums = loop.first_pass(rows.x_ND, active, targets, part, want_numerator=wants_dx)
    largest_N, total_N, cosine_N = _exchange(sums, own.cosine_N, is_bounded=loop.is_bounded, world=world)
    part = part or part_of(cosine_N)
    shaped = loop.margin.target(part.margin_state, part.own)
    z_N = shaped.logit * loop.scale
    lse_negatives_N = total_N.log() + (SHIFT if loop.is_bounded else largest_N)
    lse_N = torch.logaddexp(lse_negatives_N, z_N)
    # A NaN of an image, an embedding or a center is in a sum or in a cosine by now, on every rank.
    seen = [total_N, largest_N, z_N, *(value for value in vars(shaped).values() if value is not None)]
    is_broken = ~torch.stack([value.isfinite().all() for value in seen]).all()
    weight_N = torch.ones_like(lse_N) if shaped.weight is None else shaped.weight
    share_N = weight_N * (loop.scale / len(lse_N))  # s/N, in the block loop's words
    gradients = _gradients(loop, own, sums, shaped, lse_negatives_N, lse_N, share_N) if wants_dx else None
    result = _result(loop, rows, active, part, shaped, lse_negatives_N - z_N, largest_N, is_broken)
    # What pass 2 shifts by: with a running maximum by lse itself, which is at least any z.
    shift_N = torch.full_like(lse_N, SHIFT) if loop.is_bounded else lse_N
    value_N = -shaped.by_cosine * (lse_negatives_N - shift_N).exp()
    kind = rows.x_ND.dtype
    passed = Pass(
        x_ND=rows.x_ND,
        local_N=rows.local_N,
        weight_N=((shift_N - lse_N).exp() * share_N).to(kind),
        target_value_N=(value_N * own.r_N if loop.is_plain else value_N).to(kind),
        row_shift_N=None if loop.is_bounded else lse_N.to(kind),
        active=active,
        part=part,
        is_broken=is_broken,
        version=loop.state.centers._version,
    )
    return result, passed, gradients


def _gradients(
    loop: BlockLoop,
    own: _Own,
    sums: Sums,
    shaped: Shaped,
    lse_negatives_N: Tensor,
    lse_N: Tensor,
    share_N: Tensor,
) -> Gradients:
    """Return a (numerator + E_t r_t w_t), the last where the own class is here, and the length's share beside it."""
    assert sums.numerator_ND is not None
    by_logit_N = -share_N * (lse_negatives_N - lse_N).exp()  # s/N (p_t - 1)
    reference_N = torch.full_like(lse_N, SHIFT) if loop.is_bounded else sums.largest_N
    a_N = share_N * (reference_N - lse_N).exp()
    dx_ND = sums.numerator_ND.mul_(a_N.to(sums.numerator_ND.dtype).unsqueeze(1))
    own_N = torch.where(own.is_here_N, by_logit_N * shaped.by_cosine * own.r_N, 0.0)
    dx_ND.add_((own_N.unsqueeze(1) * own.w_ND).to(dx_ND.dtype))
    if not loop.margin.wants_lengths:
        return Gradients(dx_ND)
    by_length_N = torch.zeros_like(by_logit_N)
    if shaped.by_length is not None:
        by_length_N += by_logit_N * shaped.by_length
    if shaped.term_by_length is not None:
        by_length_N += shaped.term_by_length / len(by_length_N)
    by_length_N = torch.where(own.is_here_N, by_length_N, 0.0)  # once: the ranks' shares are summed
    return Gradients(torch.cat([dx_ND, by_length_N.to(dx_ND.dtype).unsqueeze(1)], 1))


def _result(
    loop: BlockLoop,
    rows: Rows,
    active: Active,
    part: Part,
    shaped: Shaped,
    gap_N: Tensor,
    largest_N: Tensor,
    is_broken: Tensor,
) -> HeadResult:
    # loss = log(exp(z_t) + exp(lse_neg)) - z_t: exact also where it is 1e-5 and far below
    softmax_N = functional.softplus(gap_N, threshold=1e4)
    parts = {"softmax": (softmax_N if shaped.weight is None else softmax_N * shaped.weight).mean()}
    if shaped.term is not None:
        parts["margin"] = shaped.term.mean()
    kind = rows.x_ND.dtype
    return HeadResult(
        loss=torch.stack(list(parts.values())).sum().to(kind),
        parts={name: value.to(kind) for name, value in parts.items()},
        refused=is_broken,
        target_cosine_N=part.own.cosine_N,
        hardest_negative_N=largest_N / loop.scale,
        sampled=active.sample,
    )


def _own_centers(loop: BlockLoop, rows: Rows) -> _Own:
    """Return the own centers, of several per class the nearest, and the cosines to them.

    In float64 because a loss of 1e-5 is the difference of logits near 64.
    """
    num_local = len(loop.state.rows) // loop.sub_centers
    is_here_N = (rows.local_N >= 0) & (rows.local_N < num_local)
    if not num_local:
        nothing_ND = torch.zeros_like(rows.x_ND, dtype=torch.float64)
        return _Own(is_here_N, nothing_ND[:, 0], nothing_ND[:, 0], nothing_ND)
    first_N = rows.local_N.clamp(0, num_local - 1) * loop.sub_centers
    rows_NK = first_N.unsqueeze(1) + torch.arange(loop.sub_centers, device=first_N.device)
    buffer = rows.x_ND.new_empty(rows_NK.numel(), rows.x_ND.shape[1])
    w_NKD = loop.state.read_centers(rows_NK.flatten(), buffer).view(*rows_NK.shape, -1).double()
    r_NK = torch.linalg.vector_norm(w_NKD, dim=2).clamp_min_(1e-12).reciprocal_()
    cosine_NK = torch.einsum("nkd,nd->nk", w_NKD, rows.x_ND.double()) * r_NK
    cosine_N, winner_N = cosine_NK.max(1)
    every_N = torch.arange(len(winner_N), device=winner_N.device)
    return _Own(is_here_N, torch.where(is_here_N, cosine_N, 0.0), r_NK[every_N, winner_N], w_NKD[every_N, winner_N])


def _exchange(sums: Sums, cosine_N: Tensor, *, is_bounded: bool, world: World) -> tuple[Tensor, Tensor, Tensor]:
    """Return over all ranks the largest negative logit, the sum of exp, and the target's cosine, each [N].

    One gather of [3, N] float64 and the same arithmetic everywhere: equal bits on all ranks, and no NaN is lost.
    """
    everyones = gather_stack(torch.stack([sums.largest_N, sums.total_N, cosine_N]), world)  # [W, 3, N]
    overall_N = everyones[:, 0].amax(0)
    totals_WN = everyones[:, 1]
    if not is_bounded:
        totals_WN = totals_WN * (everyones[:, 0] - overall_N).exp()
    return overall_N, totals_WN.sum(0), everyones[:, 2].sum(0)
