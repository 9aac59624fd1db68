"""A picture of the scores that the thresholds were read off."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from recognition.cleaning.calibration import BINS, Calibration, Separation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANELS = (
    ("pairs", "Cosine of two pictures", ("within", "duplicates")),
    ("pictures", "Mean cosine of a picture to an identity", ("far", "misplaced")),
    ("halves", "Mean cosine between two identities, or between halves of one", ("merge",)),
)
_COLUMNS = 120


def can_draw() -> bool:
    """Return whether matplotlib is there."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_scores(calibration: Calibration, thresholds: Mapping[str, float]) -> bytes:
    """Return a PNG of the three pairs of histograms, each with the thresholds that act on such scores."""
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    figure = Figure(figsize=(8, 9), layout="constrained")
    for axes, (name, title, steps) in zip(figure.subplots(len(_PANELS)), _PANELS):
        _draw(axes, getattr(calibration, name))
        for step, style in zip(steps, ("-", "--")):
            if step in thresholds:
                label = f"{step}: {thresholds[step]:.4f}"
                axes.axvline(thresholds[step], color="black", linestyle=style, linewidth=1, label=label)
        axes.set_title(title)
        axes.set_ylabel("share")
        axes.legend(loc="upper left")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _draw(axes: Axes, scores: Separation) -> None:
    filled = np.flatnonzero(scores.within + scores.between)
    low, high = filled[0], filled[-1] + 1
    width = -(-(high - low) // _COLUMNS)  # bins a column, the same for all: the counts of unequal ones make a comb
    edges = np.arange(low, high + width, width)
    for counts, label, color in (
        (scores.between, "different identities", "tab:orange"),
        (scores.within, "one identity, as labeled", "tab:blue"),
    ):
        shares = np.add.reduceat(counts, edges[:-1]) / max(1, counts.sum())
        axes.stairs(shares, edges * 2 / BINS - 1, fill=True, alpha=0.5, label=label, color=color)
