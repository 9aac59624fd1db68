"""How likely each decision is wrong, read off the same score histograms as the thresholds.

A score is either of a picture with its own person, or of a stranger. How often each of the two gives it is read off the
smoothed histograms; the rest is Bayes' rule. A lower score never makes a stranger less likely. Errors that no score
tells are counted in a trial (held_back.py).
"""

from __future__ import annotations

import numpy as np

from recognition.cleaning.calibration import BINS, Separation
from recognition.cleaning.context import Context, HeldBack
from recognition.cleaning.decisions import DROP, KEEP, REASONS, Decisions


def decision_risks(context: Context, decisions: Decisions, score: np.ndarray) -> np.ndarray:
    """Return the probability float64 [n] that each decision is wrong; nan where no score says it.

    Kept pictures may be strangers, those dropped by `within` and `far` may not be, and those that were moved or merged
    may be so to their new identity. Near-duplicates, and identities that are small or in a test set, are no error.
    """
    risks = np.full(len(score), np.nan)
    calibration = context.calibration
    if calibration is None:
        return risks
    stranger = _stranger_by_score(calibration.pictures)
    num_identities = len(np.unique(decisions.identity))

    def at(table: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return np.asarray(table[_bins(score[rows])])

    reason = decisions.reason
    kept = (decisions.action == KEEP) & (reason == REASONS.index("kept")) & ~np.isnan(score)
    kept_floor, dropped_floor = _floors(context.held_back, calibration.pictures.wrong_share * len(score))
    risks[kept] = at(stranger, kept) + kept_floor / max(1, kept.sum())
    for name in ("minority_cluster", "far_from_center"):
        dropped = (decisions.action == DROP) & (reason == REASONS.index(name)) & ~np.isnan(score)
        risks[dropped] = np.maximum(1 - at(stranger, dropped), dropped_floor)
    for name, separation in (("other_identity", calibration.pictures), ("merged", calibration.halves)):
        moved = (decisions.action != DROP) & (reason == REASONS.index(name)) & ~np.isnan(score)
        if moved.any():
            risks[moved] = at(_stranger_of_many(separation, num_identities), moved)
    for name in ("near_duplicate", "in_test_set", "small_identity"):
        risks[reason == REASONS.index(name)] = 0
    return np.asarray(np.clip(risks, 0, 1))


def _floors(held_back: HeldBack | None, num_wrong: float) -> tuple[float, float]:
    """Return how many wrong pictures stay unseen, and the share of the dropped that should not be, by the trial.

    Where two of a person's few pictures are wrong, or two wrong ones agree, the scores do not tell: the decision looks
    certain. The trial counts such errors among labels that it knows.
    """
    if held_back is None:
        return 0.0, 0.0
    unseen = num_wrong * held_back.kept_surely / held_back.put
    # The fewer wrong pictures there are besides, the fewer right ones they take along.
    return unseen, min(1.0, num_wrong / held_back.put) * held_back.lost / max(1, held_back.dropped)


def _stranger_by_score(separation: Separation) -> np.ndarray:
    """Return for each bin the probability [BINS] that a score within identities is a stranger's."""
    within, between = _density(separation.within), _density(separation.between)
    num, wrong_share = max(1, int(separation.within.sum())), separation.wrong_share
    # A standard deviation of the number of strangers: scores that chance alone explains are nobody's error.
    wrong_share += np.sqrt(max(1.0, wrong_share * num)) / num
    # Not limited to `within` first: of a few strangers' scores some lie closer than others, and pooling evens that out.
    likely: np.ndarray = np.minimum(_falling(wrong_share * between, within, most=np.inf), 1)
    return likely


def _stranger_of_many(separation: Separation, num_identities: int) -> np.ndarray:
    """Return for each bin the probability [BINS] that the best of so many identities is a stranger's.

    That a picture belongs to none of them is taken to be as likely as that it belongs to one.
    """
    within, between = _density(separation.within), _density(separation.between)
    right = np.maximum(within - separation.wrong_share * between, 0)
    right /= max(right.sum(), 1e-12)
    return _falling(num_identities * between, num_identities * between + right)


def _density(counts: np.ndarray) -> np.ndarray:
    """Return the share of scores in each bin, smoothed by Silverman's rule, float64 [BINS] with the sum 1."""
    total = max(1, int(counts.sum()))
    cumulated = np.cumsum(counts) / total
    quartiles = [int(np.argmax(cumulated >= share)) for share in (0.25, 0.75)]
    width = max(1.0, 0.9 * (quartiles[1] - quartiles[0]) / 1.34 * total**-0.2)
    reach = min(BINS // 2, int(4 * width) + 1)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    density: np.ndarray = np.convolve(counts / total, kernel / kernel.sum(), mode="same")
    return density


def _falling(parts: np.ndarray, wholes: np.ndarray, *, most: float = 1.0) -> np.ndarray:
    """Return the non-increasing sequence nearest to parts / wholes [n], each weighed by its whole (pool adjacent
    violators). Where nothing is known it goes on as before it, from `most` at the lowest scores."""
    merged: list[list[float]] = []  # part, whole, number of bins
    for part, whole in zip(parts.tolist(), wholes.tolist()):
        merged.append([part, whole, 1])
        while len(merged) > 1 and merged[-1][0] * merged[-2][1] >= merged[-2][0] * merged[-1][1]:
            last = merged.pop()
            merged[-1] = [a + b for a, b in zip(merged[-1], last)]
    ratios, value = [], most
    for part, whole, number in merged:
        value = min(value, part / whole) if whole > 1e-12 else value
        ratios.append(np.full(int(number), value))
    return np.concatenate(ratios)


def _bins(scores: np.ndarray) -> np.ndarray:
    places: np.ndarray = np.clip(((scores + 1) * (BINS / 2)).astype(np.int64), 0, BINS - 1)
    return places
