"""Whether a quality score of faces foretells errors: the error-versus-reject curve. Torch-free.

A pair is as good as the worse of its two pictures. When the share r of the worst pairs of one person is left out, the
false rejects among the others fall the faster the better the score (Grother and Tabassi, "Performance of biometric
quality measures", IEEE PAMI 29, 2007).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recognition.verification.sorted_scores import Bools, Floats

MOST_REJECTED = 0.95


@dataclass(frozen=True, eq=False)
class RejectCurve:
    """False rejects among the pairs that are kept."""

    rejected: Floats
    """Share of the pairs of one person that are left out, ascending from 0."""
    fnmr: Floats


def error_versus_reject(scores: Floats, is_same: Bools, quality: npt.ArrayLike, threshold: float) -> RejectCurve:
    """Return the curve at one threshold (accept at or above it); `quality` [2n] is that of each picture.

    Pairs of equal quality are left out together. The curve ends where 5 % of the pairs are kept.
    """
    each = np.asarray(quality, dtype=np.float64)
    worse = np.minimum(each[0::2], each[1::2])[is_same]
    wrong = (scores < threshold)[is_same]
    order = np.argsort(worse, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(worse[order]) != 0))  # the first of each run of equal qualities
    num = len(order)
    wrong_from = np.cumsum(wrong[order][::-1])[::-1]
    kept = starts[starts <= MOST_REJECTED * num]
    return RejectCurve(kept / num, wrong_from[kept] / (num - kept))


def area_under(curve: RejectCurve) -> float:
    """Return the area under the curve as steps, over that of leaving out nothing; below 1 the score foretells."""
    widths = np.diff(np.append(curve.rejected, MOST_REJECTED))
    flat = float(curve.fnmr[0]) * MOST_REJECTED
    return float(np.sum(widths * curve.fnmr) / flat) if flat else 1.0
