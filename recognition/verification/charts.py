"""Charts as SVG text for the report page: lines and steps on linear, logarithmic and normal-deviate axes. Torch-free.

Drawn here and not by matplotlib: the text stays text (escaped, searchable, sharp in print), a chart takes a few
kilobytes, and a name that is no markup of any library cannot break one.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

from recognition.verification.sorted_scores import Floats

WIDTH, HEIGHT = 460, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 40
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
"""Okabe and Ito's, which color-blind readers tell apart; dashes tell them apart in black and white."""
_DASHES = ("", "6 3", "2 2", "8 3 2 3", "1 3", "12 4", "4 1")
_NORMAL = NormalDist()
_FEW = 2000
"""Points of a curve that are all placed."""


@dataclass(frozen=True)
class Axis:
    """One axis: what it shows, between which values, and how it is spaced."""

    label: str
    low: float
    high: float
    scale: Literal["linear", "log", "normal"] = "linear"

    def place(self, values: Floats) -> Floats:
        """Return where values lie on the axis, from 0 to 1; those outside lie at its ends."""
        clipped = np.clip(values, self.low, self.high)
        low, high = self._spaced(np.array([self.low, self.high]))
        placed: Floats = (self._spaced(clipped) - low) / ((high - low) or 1.0)
        return placed

    def values(self, places: Floats) -> Floats:
        """Return the values at places from 0 to 1."""
        low, high = self._spaced(np.array([self.low, self.high]))
        spaced = low + places * (high - low)
        if self.scale == "log":
            return np.asarray(10.0**spaced)
        if self.scale == "normal":
            return np.array([_NORMAL.cdf(each) for each in spaced])
        return np.asarray(spaced)

    def ticks(self) -> list[float]:
        """Return the values that are written beside the axis."""
        if self.scale == "log":
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            return [10.0**power for power in powers]
        if self.scale == "normal":
            known = (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5, 0.8)
            return [value for value in known if self.low <= value <= self.high]
        step = _round_step((self.high - self.low) / 5)
        first = math.ceil(self.low / step - 1e-9)
        return [step * number for number in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def _spaced(self, values: Floats) -> Floats:
        if self.scale == "log":
            return np.asarray(np.log10(values))
        if self.scale == "normal":
            return np.array([_NORMAL.inv_cdf(value) for value in values])
        return values


@dataclass(frozen=True, eq=False)
class Series:
    """One curve."""

    name: str
    x: Floats
    y: Floats
    is_step: bool = False
    """The value holds until the next point."""


def line_chart(title: str, series: Sequence[Series], x: Axis, y: Axis, *, marks: Sequence[float] = ()) -> str:
    """Return an SVG of curves with a legend below; `marks` are vertical lines at values of x."""
    rows = [_frame(x, y)]
    for mark in marks:
        at = _LEFT + float(x.place(np.array([mark]))[0]) * (WIDTH - _LEFT - _RIGHT)
        rows.append(f'<path d="M{at:.1f} {_TOP}V{HEIGHT - _BOTTOM}" class="mark"/>')
    for number, curve in enumerate(series):
        rows.append(f'<path d="{_path(curve, x, y)}" {_stroke(number)}/>')
    legend = "".join(
        f'<li><svg viewBox="0 0 24 8" class="key"><path d="M0 4H24" {_stroke(number)}/></svg>'
        f"<bdi>{html.escape(shown(curve.name))}</bdi></li>"
        for number, curve in enumerate(series)
    )
    drawn = "".join(rows)
    return (
        f'<figure><figcaption>{html.escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(title)}">{drawn}</svg><ul class="legend">{legend}</ul></figure>'
    )


def shown(text: str) -> str:
    """Return a name with what is invisible or turns the direction of text spelled out."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def spread(values: Floats, *, margin: float = 0.03) -> tuple[float, float]:
    """Return the ends of an axis that shows all finite values."""
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    room = (high - low) * margin or max(abs(high), 1.0) * margin
    return low - room, high + room


def _frame(x: Axis, y: Axis) -> str:
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    parts = [f'<rect x="{_LEFT}" y="{_TOP}" width="{right - _LEFT}" height="{bottom - _TOP}" class="frame"/>']
    for tick in x.ticks():
        at = _LEFT + float(x.place(np.array([tick]))[0]) * (right - _LEFT)
        parts.append(f'<path d="M{at:.1f} {_TOP}V{bottom}" class="grid"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 15}" text-anchor="middle">{_number(tick)}</text>')
    for tick in y.ticks():
        at = bottom - float(y.place(np.array([tick]))[0]) * (bottom - _TOP)
        parts.append(f'<path d="M{_LEFT} {at:.1f}H{right}" class="grid"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{at + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    middle_x, middle_y = (_LEFT + right) / 2, (_TOP + bottom) / 2
    parts.append(f'<text x="{middle_x}" y="{HEIGHT - 6}" text-anchor="middle">{html.escape(x.label)}</text>')
    turn = f'transform="rotate(-90 12 {middle_y})"'
    parts.append(f'<text x="12" y="{middle_y}" text-anchor="middle" {turn}>{html.escape(y.label)}</text>')
    return "".join(parts)


def _path(curve: Series, x: Axis, y: Axis) -> str:
    known = np.isfinite(curve.x) & np.isfinite(curve.y)
    seen = _seen(curve.x[known], curve.y[known], x, y)
    across = np.round(_LEFT + x.place(curve.x[known][seen]) * (WIDTH - _LEFT - _RIGHT), 1)
    up = np.round(HEIGHT - _BOTTOM - y.place(curve.y[known][seen]) * (HEIGHT - _TOP - _BOTTOM), 1)
    if not len(across):
        return ""
    # What falls onto one tenth of a pixel is one point: ten million scores draw like five hundred.
    moves = np.flatnonzero(np.append(True, (np.diff(across) != 0) | (np.diff(up) != 0)))
    points = [f"M{across[moves[0]]:g} {up[moves[0]]:g}"]
    for place in moves[1:]:
        points.append(f"H{across[place]:g}V{up[place]:g}" if curve.is_step else f"L{across[place]:g} {up[place]:g}")
    return "".join(points)


def _seen(across: Floats, up: Floats, x: Axis, y: Axis) -> npt.NDArray[np.int64]:
    """Return the points of a curve at which it enters another fifth of a pixel, of many; or else all.

    A curve of millions of points, as ROC and DET are, rises or falls all the way, so that a search finds them.
    """
    if len(across) <= _FEW:
        return np.arange(len(across))
    falls = up[-1] < up[0]
    found = [np.array([0, len(across) - 1])]
    for values, axis in ((across, x), (-up if falls else up, y)):
        edges = axis.values(np.linspace(0.0, 1.0, _FEW))
        edges = np.sort(-edges) if axis is y and falls else edges
        at = np.searchsorted(values, edges)
        found += [np.clip(at, 0, len(values) - 1), np.clip(at - 1, 0, len(values) - 1)]
    return np.unique(np.concatenate(found))


def _stroke(number: int) -> str:
    dash = _DASHES[number % len(_DASHES)]
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'class="line" stroke="{COLORS[number % len(COLORS)]}"{dashes}'


def _round_step(step: float) -> float:
    """Return 1, 2 or 5 times a power of ten, the next at or above a step."""
    power = 10.0 ** math.floor(math.log10(step)) if step > 0 else 1.0
    return next(times * power for times in (1, 2, 5, 10) if times * power >= step * (1 - 1e-9))


def _number(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 10000 or abs(value) < 0.001:
        mantissa, _, exponent = f"{value:.0e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:g}" if abs(value) < 100 else f"{value:.0f}"
