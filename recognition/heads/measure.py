"""A forward's arithmetic: pass 1, the exchange between the ranks, and from both the loss and its gradient."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recognition.distributed.collectives import gather_stack
from recognition.distributed.world import World
from recognition.heads.block_loop import SHIFT, BlockLoop
from recognition.heads.losses import Between, binary, softmax
from recognition.heads.margins import OwnRows, Shaped, State
from recognition.heads.passes import Pass
from recognition.heads.rows import Rows
from recognition.heads.sampling import Active, Targets
from recognition.heads.tallies import Part, Sums, Totals


@dataclass(frozen=True)
class HeadResult:
    """What a forward found, equal on all ranks but for `sampled`; on the device, without a gradient."""

    loss: Tensor
    """0-dim: the mean over the global batch."""
    parts: dict[str, Tensor]
    """What the loss is the sum of: "softmax" or "binary", and "margin" where the margin has a loss of its own."""
    refused: Tensor
    """0-dim bool: a value is not finite, so the step moves nothing; after the optimizer's step, what it decided."""
    target_cosine_N: Tensor
    hardest_negative_N: Tensor
    """The largest cosine to another class; below -1 where no negative was seen. With raw centers the largest e . w of
    another class, divided by the lengths of the row and of its own center."""
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
    length_N: Tensor
    """Of the centers; 0 elsewhere."""
    r_N: Tensor
    """What the center is multiplied by in a tile."""
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
    smoothing: float,
    world: World,
) -> tuple[HeadResult, Pass, Gradients | None]:
    """Return what a forward found, what it leaves for pass 2, and for backward where `wants_dx`.

    `learns`: the margin sees this batch, on top of `margin_state`. Collectives: one gather of a few numbers per row;
    one of the target cosines before pass 1 where the margin compares negatives; one more where it looks twice.
    """
    margin = loop.margin
    own = _own_centers(loop, rows)

    def seen(cosine_N: Tensor, totals: Totals | None) -> tuple[OwnRows, State]:
        length_N = None if totals is None else totals.center_length_N
        lse_N = None if totals is None or margin.sums == "softplus" else totals.lse_negatives_N
        found = OwnRows(cosine_N, rows.label_N, rows.length_N, length_N, lse_N)
        return found, margin.observe(margin_state, found) if learns else margin_state

    own_rows, learned = None, margin_state
    if margin.compares_negatives:
        own_rows, learned = seen(gather_stack(own.cosine_N, world).sum(0), None)
    part = Part(slice(0, len(rows.x_ND)), own_rows, learned, _scale(loop, learned), learned)
    if margin.looks_twice and learns:
        sums = loop.first_pass(rows.x_ND, active, targets, part, want_numerator=False)
        learned = seen(*_exchange(loop, sums, own, active, world))[1]
        part = replace(part, scale=_scale(loop, learned), learned=learned)
    sums = loop.first_pass(rows.x_ND, active, targets, part, want_numerator=wants_dx)
    cosine_N, totals = _exchange(loop, sums, own, active, world)
    if own_rows is None:
        own_rows, observed = seen(cosine_N, totals)
        part = replace(part, learned=part.learned if margin.looks_twice else observed)
    part = replace(part, own=own_rows)
    shaped = margin.target(part.learned, own_rows)
    weight_N = _weights(shaped, rows)
    if margin.sums == "softplus":
        between = binary(loop, part, totals, shaped, weight_N)
    else:
        between = softmax(loop, part, totals, shaped, smoothing)
    # A NaN of an image, an embedding or a center is in a sum or in a cosine by now, on every rank.
    looked_at = [*totals.every(), shaped.logit, *(value for value in vars(shaped).values() if value is not None)]
    is_broken = ~torch.cat([value.double().flatten() for value in looked_at]).isfinite().all()  # few launches on a GPU
    share_N = weight_N * (part.scale / len(weight_N))  # s/N, in the block loop's words
    gradients = _gradients(loop, rows, own, sums, shaped, between, share_N) if wants_dx else None
    result = _result(loop, rows, active, part, shaped, between, totals, weight_N, is_broken)
    return result, _pass(loop, rows, active, part, own, shaped, between, share_N, is_broken), gradients


def _scale(loop: BlockLoop, state: State) -> float | Tensor:
    return loop.margin.scale_of(state) if loop.margin.moves_scale else loop.scale


def _weights(shaped: Shaped, rows: Rows) -> Tensor:
    weight_N = torch.ones_like(shaped.logit) if shaped.weight is None else shaped.weight
    return weight_N if rows.weight_N is None else weight_N * rows.weight_N


def _pass(
    loop: BlockLoop,
    rows: Rows,
    active: Active,
    part: Part,
    own: _Own,
    shaped: Shaped,
    between: Between,
    share_N: Tensor,
    is_broken: Tensor,
) -> Pass:
    kind = rows.x_ND.dtype
    value_N = shaped.by_cosine * between.own_value_N
    radial_N = None
    if loop.margin.rows == "raw" and shaped.along is not None:
        radial_N = between.own_value_N * shaped.along * _length(rows) / own.length_N.clamp_min(1e-12)
    return Pass(
        x_ND=rows.x_ND,
        local_N=rows.local_N,
        weight_N=(between.row_weight_N * share_N).to(kind),
        target_value_N=(value_N * own.r_N if loop.is_plain else value_N).to(kind),
        row_shift_N=None if between.row_shift_N is None else between.row_shift_N.to(kind),
        even_N=None if between.even_N is None else between.even_N.to(kind),
        radial_N=None if radial_N is None else radial_N.to(kind),
        active=active,
        part=part,
        is_broken=is_broken,
        version=loop.state.centers._version,
        scalar_gradient=between.scalar_gradient,
    )


def _gradients(
    loop: BlockLoop,
    rows: Rows,
    own: _Own,
    sums: Sums,
    shaped: Shaped,
    between: Between,
    share_N: Tensor,
) -> Gradients:
    """Return a (numerator + E_t r_t w_t), the last where the own class is here, and the length's share beside it."""
    assert sums.numerator_ND is not None
    by_logit_N = share_N * between.by_logit_N  # s/N (p_t - 1)
    a_N = share_N * (between.sum_weight_N if between.sum_weight_N is not None else _reference_weight(between, sums))
    kind = sums.numerator_ND.dtype
    dx_ND = sums.numerator_ND.mul_(a_N.to(kind).unsqueeze(1))
    own_N = torch.where(own.is_here_N, by_logit_N * shaped.by_cosine * own.r_N, 0.0)
    if sums.even is not None and between.even_share_N is not None:
        even_N = share_N * between.even_share_N
        dx_ND.sub_(even_N.to(kind).unsqueeze(1) * sums.even.numerator_ND)
        if sums.even.has_own:
            own_N = own_N + torch.where(own.is_here_N, even_N * own.r_N, 0.0)
    dx_ND.add_((own_N.unsqueeze(1) * own.w_ND).to(kind))
    if shaped.along is not None:
        along_N = torch.where(own.is_here_N, by_logit_N * shaped.along, 0.0) / _length(rows).clamp_min(1e-12)
        if loop.margin.rows == "raw":
            along_N = along_N * own.length_N
        dx_ND.add_((along_N.unsqueeze(1) * rows.x_ND).to(kind))
    if not loop.margin.wants_lengths:
        return Gradients(dx_ND)
    by_length_N = torch.zeros_like(by_logit_N)
    if shaped.by_length is not None:
        by_length_N += by_logit_N * shaped.by_length
    if shaped.term_by_length is not None:
        by_length_N += shaped.term_by_length / len(by_length_N)
    by_length_N = torch.where(own.is_here_N, by_length_N, 0.0)  # once: the ranks' shares are summed
    return Gradients(torch.cat([dx_ND, by_length_N.to(kind).unsqueeze(1)], 1))


def _reference_weight(between: Between, sums: Sums) -> Tensor:
    """Return exp(reference - lse), with the reference of this rank's own sums."""
    assert between.lse_N is not None
    reference_N = sums.largest_N if between.row_shift_N is not None else torch.full_like(between.lse_N, between.shift)
    return (reference_N - between.lse_N).exp()


def _result(
    loop: BlockLoop,
    rows: Rows,
    active: Active,
    part: Part,
    shaped: Shaped,
    between: Between,
    totals: Totals,
    weight_N: Tensor,
    is_broken: Tensor,
) -> HeadResult:
    is_weighted = shaped.weight is not None or rows.weight_N is not None
    parts = {between.name: (between.loss_N * weight_N if is_weighted else between.loss_N).mean()}
    if shaped.term is not None:
        parts["margin"] = shaped.term.mean()
    assert part.own is not None, "known after the exchange"
    hardest_N = totals.largest_N / part.scale if totals.nearest_N is None else totals.nearest_N
    if loop.margin.rows != "unit":
        hardest_N = hardest_N / _length(rows).clamp_min(1e-12)
    if totals.center_length_N is not None:
        hardest_N = hardest_N / totals.center_length_N.clamp_min(1e-12)
    kind = rows.x_ND.dtype
    return HeadResult(
        loss=torch.stack(list(parts.values())).sum().to(kind),
        parts={name: value.to(kind) for name, value in parts.items()},
        refused=is_broken,
        target_cosine_N=part.own.cosine_N,
        hardest_negative_N=hardest_N,
        sampled=active.sample,
    )


def _length(rows: Rows) -> Tensor:
    assert rows.length_N is not None, "the head takes the lengths of raw rows"
    return rows.length_N


def _own_centers(loop: BlockLoop, rows: Rows) -> _Own:
    """Return the own centers, of several per class the nearest, and the cosines to them.

    In float64 because a loss of 1e-5 is the difference of logits near 64.
    """
    num_local = len(loop.state.rows) // loop.sub_centers
    is_here_N = (rows.local_N >= 0) & (rows.local_N < num_local)
    if not num_local:
        nothing_ND = torch.zeros_like(rows.x_ND, dtype=torch.float64)
        nothing_N = nothing_ND[:, 0]
        return _Own(is_here_N, nothing_N, nothing_N, nothing_N, nothing_ND)
    first_N = rows.local_N.clamp(0, num_local - 1) * loop.sub_centers
    rows_NK = first_N.unsqueeze(1) + torch.arange(loop.sub_centers, device=first_N.device)
    buffer = rows.x_ND.new_empty(rows_NK.numel(), rows.x_ND.shape[1])
    w_NKD = loop.state.read_centers(rows_NK.flatten(), buffer).view(*rows_NK.shape, -1).double()
    r_NK = torch.linalg.vector_norm(w_NKD, dim=2).clamp_min_(1e-12).reciprocal_()
    cosine_NK = torch.einsum("nkd,nd->nk", w_NKD, rows.x_ND.double()) * r_NK
    cosine_N, winner_N = cosine_NK.max(1)
    every_N = torch.arange(len(winner_N), device=winner_N.device)
    r_N, w_ND = r_NK[every_N, winner_N], w_NKD[every_N, winner_N]
    length_N = torch.where(is_here_N, 1 / r_N, 0.0)
    if loop.margin.rows != "unit":
        cosine_N = cosine_N / _length(rows).clamp_min(1e-12)
    if loop.margin.rows == "raw":
        r_N = torch.ones_like(r_N)
    return _Own(is_here_N, torch.where(is_here_N, cosine_N, 0.0), length_N, r_N, w_ND)


def _counted(active: Active) -> int:
    """Return how many classes of this rank the sums stand for."""
    return len(active) if active.weight is None else active.num_local


def _exchange(loop: BlockLoop, sums: Sums, own: _Own, active: Active, world: World) -> tuple[Tensor, Totals]:
    """Return over all ranks the target's cosine [N] and what the loss needs of the sums.

    One gather of [3, N] float64, or more rows where the kind of head has more sums, and the same arithmetic everywhere:
    equal bits on all ranks, and no NaN is lost.
    """
    added = {"cosine": own.cosine_N}
    if loop.margin.rows == "raw":
        added["center_length"] = own.length_N
    if sums.sigmoid_N is not None:
        added |= {"sigmoid": sums.sigmoid_N, "classes": torch.full_like(own.cosine_N, _counted(active))}
    if sums.even is not None:
        added |= {"even_z": sums.even.z_N, "even_count": sums.even.count_N}
    nearest = [] if sums.nearest_N is None else [sums.nearest_N]
    everyones = gather_stack(torch.stack([sums.largest_N, sums.total_N, *added.values(), *nearest]), world)
    overall_N = everyones[:, 0].amax(0)
    totals_WN = everyones[:, 1]
    if loop.margin.sums == "softmax" and not loop.is_bounded:
        totals_WN = totals_WN * (everyones[:, 0] - overall_N).exp()
    found = dict(zip(added, everyones[:, 2:].sum(0)))
    totals = Totals(
        largest_N=overall_N,
        total_N=totals_WN.sum(0),
        reference=SHIFT if loop.is_bounded else overall_N,
        nearest_N=everyones[:, -1].amax(0) if nearest else None,
        sigmoid_N=found.get("sigmoid"),
        num_classes_N=found.get("classes"),
        center_length_N=found.get("center_length"),
        even_z_N=found.get("even_z"),
        even_count_N=found.get("even_count"),
        even_has_own=sums.even is not None and sums.even.has_own,
    )
    return found["cosine"], totals
