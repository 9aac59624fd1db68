"""From the sums over all classes to each image's loss and what pass 2 needs: softmax, or a sum of binary losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from recognition.heads.block_loop import SHIFT, BlockLoop
from recognition.heads.margins import Shaped
from recognition.heads.margins.binary import BinaryMargin
from recognition.heads.tallies import Part, Totals


@dataclass(frozen=True)
class Between:
    """What is known of each image between the passes, float64 [N], before the images' weights and s / N."""

    name: str
    """Of the loss, for reports."""
    loss_N: Tensor
    by_logit_N: Tensor
    """d loss / d z_t."""
    own_value_N: Tensor
    """The same divided by `row_weight_N`: E_t / f' of the block loop."""
    row_weight_N: Tensor
    """a of pass 2, without s / N."""
    sum_weight_N: Tensor | None
    """What the sums of pass 1 are weighted by; None: exp(reference - lse), and a rank's reference is its own."""
    lse_N: Tensor | None = None
    shift: float = 0.0
    row_shift_N: Tensor | None = None
    """What pass 2 shifts by where it is not `shift`."""
    even_N: Tensor | None = None
    """What label smoothing takes from every E of pass 2."""
    even_share_N: Tensor | None = None
    """The same as a share of the loss: smoothing / classes."""
    scalar_gradient: Tensor | None = None
    """d loss / d b, 0-dim, of the mean over the batch."""


def softmax(loop: BlockLoop, part: Part, totals: Totals, shaped: Shaped, smoothing: float) -> Between:
    """Return log(exp(z_t) + exp(lse_neg)) - z_t and its gradient: exact also where it is 1e-5 and far below.

    With label smoothing e over K classes: lse - (1 - e) z_t - e/K sum(z), the sums over the classes that took part.
    """
    z_N = shaped.logit * part.scale
    lse_negatives_N = totals.lse_negatives_N
    lse_N = torch.logaddexp(lse_negatives_N, z_N)
    loss_N = functional.softplus(lse_negatives_N - z_N, threshold=1e4)
    by_logit_N = -(lse_negatives_N - lse_N).exp()  # p_t - 1
    # What pass 2 shifts by: with a running maximum by lse itself, which is at least any z.
    shift_N = torch.full_like(lse_N, SHIFT) if loop.is_bounded else lse_N
    own_value_N, even_N, even_share_N = -(lse_negatives_N - shift_N).exp(), None, None
    if smoothing:
        assert totals.even_z_N is not None, "summed where labels are smoothed"
        assert totals.even_count_N is not None, "summed where labels are smoothed"
        sum_N, count_N = totals.even_z_N, totals.even_count_N
        if totals.even_has_own:  # with what its tile has in the own class's place
            sum_N, count_N = sum_N - _unshaped(loop, part), count_N - 1
        even_share_N = smoothing / (count_N + 1)
        loss_N = loss_N + smoothing * z_N - even_share_N * (sum_N + z_N)
        by_logit_N = by_logit_N + smoothing - even_share_N
        own_value_N = by_logit_N * (lse_N - shift_N).exp()
        even_N = even_share_N * (lse_N - shift_N).exp()
    return Between(
        "softmax",
        loss_N,
        by_logit_N,
        own_value_N,
        row_weight_N=(shift_N - lse_N).exp(),
        sum_weight_N=None,
        lse_N=lse_N,
        shift=SHIFT,
        row_shift_N=None if loop.is_bounded else lse_N,
        even_N=even_N,
        even_share_N=even_share_N,
    )


def _unshaped(loop: BlockLoop, part: Part) -> Tensor:
    """Return the z that the own classes would have as any other."""
    own = part.own
    assert own is not None, "known after the exchange"
    if loop.margin.rows == "unit":
        return own.cosine_N * part.scale
    assert own.length_N is not None, "the head takes the lengths of raw rows"
    z_N = own.cosine_N * own.length_N
    return z_N if own.center_length_N is None else z_N * own.center_length_N


def binary(loop: BlockLoop, part: Part, totals: Totals, shaped: Shaped, weight_N: Tensor) -> Between:
    """Return own_share softplus(-z_t) + other_share times the sum of softplus(z), and its gradient."""
    margin = loop.margin
    assert isinstance(margin, BinaryMargin), "sums of softplus are of margins that say how they weigh"
    assert totals.sigmoid_N is not None, "summed with softplus"
    assert totals.num_classes_N is not None, "summed with softplus"
    others_N = torch.full_like(shaped.logit, margin.other_share(loop.scale))
    if margin.counts_all_classes:
        others_N = others_N * ((margin.num_classes - 1) / (totals.num_classes_N - 1).clamp_min(1))
    own_share = margin.own_share(loop.scale)
    z_N = shaped.logit * part.scale
    by_logit_N = -own_share * torch.sigmoid(-z_N)
    by_scalar_N = margin.sign * (by_logit_N + others_N * totals.sigmoid_N)
    return Between(
        "binary",
        own_share * functional.softplus(-z_N, threshold=40.0) + others_N * totals.total_N,
        by_logit_N,
        by_logit_N / others_N,
        row_weight_N=others_N,
        sum_weight_N=others_N,
        scalar_gradient=(by_scalar_N * weight_N).mean(),
    )
