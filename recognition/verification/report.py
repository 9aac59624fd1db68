"""Spell verification results: a table to read, a mapping for JSON, and plots as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from recognition.errors import ConfigError
from recognition.verification.groups import GroupTable
from recognition.verification.intervals import MIN_ABOVE, Interval
from recognition.verification.metrics import roc_curve
from recognition.verification.protocols import VerificationResult
from recognition.verification.sorted_scores import TarAtFar, tar_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_UNRESOLVED, _TOO_FEW, _UNKNOWN = "*", "†", "‡"
INTERVAL_NAMES = ("accuracy", "precision", "recall", "f1", "auc", "eer")


def result_table(results: Sequence[VerificationResult]) -> str:
    """Return one aligned line per result under a heading, with a footnote where a FAR is out of reach."""
    has_models = len({result.model for result in results}) > 1
    has_methods = any(result.method != "model" for result in results)
    heading = [
        *(["model"] if has_models else []),
        "set",
        *(["method"] if has_methods else []),
        "pairs",
        "same",
        "accuracy",
        "cosine",
        "L2²",
    ]
    heading += [f"TAR@FAR{_exponent(point.target)} (FAR)" for point in results[0].tar_at_far]
    heading += ["AUC", "EER", "norm"]
    rows = [_row(result, has_models, has_methods) for result in results]
    own = [result for result in results if result.method == "model"]
    for model in dict.fromkeys(result.model for result in own):
        of_model = [result for result in own if result.model == model]
        if len(of_model) > 1:
            rows.append(_mean_row(of_model, has_models, has_methods))
    lines = _aligned([heading, *rows], num_left=1 + has_models + has_methods)
    if any(not point.is_resolved for result in results for point in result.tar_at_far):
        lines.append(f"{_UNRESOLVED} too few pairs of different people for one false accept at this FAR: none allowed")
    return "\n".join(lines)


def result_mapping(result: VerificationResult) -> dict[str, Any]:
    """Return a result as plain values for JSON, every threshold both as a cosine and as a squared L2 distance."""
    return {
        "set": result.name,
        "method": result.method,
        "sha256": result.sha256,
        "num_pairs": result.num_pairs,
        "positive_rate": result.positive_rate,
        "accuracy": result.accuracy,
        "std": result.std,
        "threshold_cosine": result.threshold_cosine,
        "threshold_l2": result.threshold_l2,
        "tar_at_far": [_point_mapping(point) for point in result.tar_at_far],
        "auc": result.auc,
        "eer": result.eer,
        "xnorm": result.xnorm,
        **{name: number_of(result, name) for name in ("precision", "recall", "f1")},
        "num_people": result.num_people,
        "intervals": {name: [found.low, found.high] for name, found in result.intervals.items()},
    }


def require_matplotlib() -> None:
    """Raise ConfigError when plots were requested and cannot be drawn."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as err:
        raise ConfigError(
            f"--plots: matplotlib cannot be imported ({err}); expected the extra `eval`; pip install 'arcshard[eval]'"
        ) from err


def roc_plot(results: Sequence[VerificationResult]) -> bytes:
    """Draw TAR over FAR, one curve a result, with FAR on a logarithmic axis down to what the largest set can show."""
    figure, axes = _new_figure()
    for result in results:
        curve = roc_curve(result.cosines, result.is_same)
        label = result.name if result.method == "model" else f"{result.name}, {result.method}"
        axes.step(curve.far, curve.tar, where="post", label=f"{label} (AUC {result.auc:.4f})")
    finest = min(point.resolution for result in results for point in result.tar_at_far)
    axes.set_xscale("log")
    axes.set_xlim(finest, 1.0)
    axes.set_ylim(0.0, 1.01)
    axes.set_xlabel("false accept rate")
    axes.set_ylabel("true accept rate")
    axes.legend(loc="best")
    return _png(figure)


def score_plot(result: VerificationResult) -> bytes:
    """Draw how the cosines of same and of different pairs are distributed, and the threshold between them."""
    figure, axes = _new_figure()
    edges = np.linspace(float(result.cosines.min()) - 1e-6, float(result.cosines.max()) + 1e-6, 61)
    for same, label in ((False, "different people"), (True, "same person")):
        axes.hist(result.cosines[result.is_same == same], bins=list(edges), alpha=0.6, density=True, label=label)
    axes.axvline(result.threshold_cosine, color="black", linewidth=1, label=f"threshold {result.threshold_cosine:.3f}")
    axes.set_xlabel("cosine")
    axes.set_ylabel("density of pairs")
    axes.set_title(f"{result.name}: accuracy {result.accuracy:.4f}")
    axes.legend()
    return _png(figure)


def interval_table(results: Sequence[VerificationResult]) -> str:
    """Return a line per result with the 95 % interval of each number, and footnotes where there is none."""
    has_models = len({result.model for result in results}) > 1
    names = INTERVAL_NAMES + tuple(tar_name(point.target) for point in results[0].tar_at_far)
    labels = {"auc": "AUC", "eer": "EER", "f1": "F1", **{name: name.upper() for name in names if "@" in name}}
    rows = [
        [*(["model"] if has_models else []), "95 % interval", "people", *(labels.get(name, name) for name in names)]
    ]
    cells = [[_interval_cell(result, name) for name in names] for result in results]
    for result, row in zip(results, cells):
        people = "-" if result.num_people is None else f"{result.num_people:,}"
        rows.append([*([result.model] if has_models else []), result.name, people, *row])
    lines = _aligned(rows, num_left=1 + has_models)
    notes = {_TOO_FEW: f"no interval: fewer than {MIN_ABOVE} pairs of different people are above the threshold"}
    notes[_UNKNOWN] = "no interval: nobody says whom the pictures show (docs/evaluation.md)"
    return "\n".join(
        [*lines, *(f"{mark} {note}" for mark, note in notes.items() if any(mark in c for r in cells for c in r))]
    )


def group_lines(result: VerificationResult, table: GroupTable) -> str:
    """Return a line per group with its errors at the common threshold."""
    heading = f"{result.name} at {table.threshold:.4f} ({table.chosen_by})"
    rows = [[heading, "same", "FNMR", "different", "FMR"]]
    for row in table.rows:
        rows.append(
            [
                row.group,
                f"{row.num_same:,}",
                rate_cell(row.fnmr, row.fnmr_interval),
                f"{row.num_different:,}",
                rate_cell(row.fmr, row.fmr_interval),
            ]
        )
    return "\n".join(_aligned(rows, num_left=1))


def rate_cell(rate: float | None, interval: Interval | None) -> str:
    """Spell a rate with its interval, where they are known."""
    if rate is None:
        return "-"
    return f"{rate:.4f}" + ("" if interval is None else f" [{interval.low:.4f}, {interval.high:.4f}]")


def number_of(result: VerificationResult, name: str) -> float:
    """Return the number that an interval's name is of."""
    if name in ("precision", "recall", "f1"):
        return float(getattr(result.counts, name))
    points = {tar_name(point.target): point.tar for point in result.tar_at_far}
    return points[name] if name in points else float(getattr(result, name))


def _interval_cell(result: VerificationResult, name: str) -> str:
    interval = result.intervals.get(name)
    value = f"{number_of(result, name):.4f}"
    if interval is not None:
        return f"{value} [{interval.low:.4f}, {interval.high:.4f}]"
    return f"{value} {_UNKNOWN if result.num_people is None else _TOO_FEW}"


def _mean_row(results: Sequence[VerificationResult], has_models: bool, has_methods: bool) -> list[str]:
    """Return the row of the means over a model's sets."""

    def mean(values: Iterable[float]) -> str:
        return f"{np.mean(list(values)):.4f}"

    points = zip(*(result.tar_at_far for result in results))
    return [
        *([results[0].model] if has_models else []),
        "mean",
        *(["model"] if has_methods else []),
        f"{sum(result.num_pairs for result in results):,}",
        "",
        mean(result.accuracy for result in results),
        "",
        "",
        *(mean(point.tar for point in column) for column in points),
        mean(result.auc for result in results),
        mean(result.eer for result in results),
        "",
    ]


def _row(result: VerificationResult, has_models: bool, has_methods: bool) -> list[str]:
    return [
        *([result.model] if has_models else []),
        result.name,
        *([result.method] if has_methods else []),
        f"{result.num_pairs:,}",
        f"{result.positive_rate:.3f}",
        f"{result.accuracy:.4f} ± {result.std:.4f}",
        f"{result.threshold_cosine:.4f}",
        f"{result.threshold_l2:.4f}",
        *(_point_cell(point) for point in result.tar_at_far),
        f"{result.auc:.4f}",
        f"{result.eer:.4f}",
        "-" if result.xnorm is None else f"{result.xnorm:.2f}",
    ]


def _point_cell(point: TarAtFar) -> str:
    far = "0" if point.far == 0 else _exponent(point.far)
    return f"{point.tar:.4f} ({far}){'' if point.is_resolved else _UNRESOLVED}"


def _point_mapping(point: TarAtFar) -> dict[str, float | bool]:
    return {
        "target": point.target,
        "tar": point.tar,
        "far": point.far,
        "threshold_cosine": point.threshold,
        "threshold_l2": 2.0 - 2.0 * point.threshold,
        "resolution": point.resolution,
        "is_resolved": point.is_resolved,
    }


def _exponent(rate: float) -> str:
    """Spell a rate as 1e-3 or 3.3e-4."""
    mantissa, _, exponent = f"{rate:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def _aligned(rows: Sequence[Sequence[str]], *, num_left: int) -> list[str]:
    """Pad cells to columns two spaces apart, the first `num_left` to the left and the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column < num_left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]


def _new_figure() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    figure = Figure(figsize=(7, 5), layout="constrained")
    return figure, figure.add_subplot()


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
