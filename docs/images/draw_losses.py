"""Draw the two pictures of docs/losses.md as SVG files beside this one: own logits against the angle, and their slopes.

python docs/images/draw_losses.py
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path

import torch
from torch import Tensor

from recognition.heads.margins import (
    AdaFace,
    ArcFace,
    ASoftmax,
    CircleLoss,
    CombinedMargin,
    CosFace,
    Facts,
    MagFace,
    Margin,
    NoMargin,
    OwnRows,
    SphereFace,
    SphereFace2,
    SphereFaceR,
)

FOLDER = Path(__file__).resolve().parent
COLORS = ("#555555", "#d1495b", "#2e6fbb", "#2a8c55", "#c98a12", "#8a4aa0")
WIDTH, HEIGHT, LEFT, TOP, GAP = 330, 260, 48, 54, 66
Curve = Callable[[Tensor], tuple[Tensor, Tensor]]


def curve(margin: Margin, *, length: float = 20.0, steps: float = 0.0, share: float = 1.0) -> Curve:
    """Return (f, f') of `margin` as functions of the cosine, for embeddings of a length."""

    def shaped(cosine: Tensor) -> tuple[Tensor, Tensor]:
        bound = margin.bind(Facts(10_000, 30.0, 1.0, 0, None))
        state = {"mean": 20.0, "std": 5.0, "b": 0.0, "steps": steps, "draws": 0.0}
        tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in state.items()}
        rows = OwnRows(cosine, torch.zeros(len(cosine)).long(), torch.full_like(cosine, length))
        found = bound.target(tensors, rows)
        return found.logit * share, found.by_cosine * share

    return shaped


PANELS: Mapping[str, Mapping[str, Curve]] = {
    "added margins": {
        "none": curve(NoMargin()),
        "arcface 0.5": curve(ArcFace(0.5, "exact")),
        "arcface 0.5, easy": curve(ArcFace(0.5, "exact", easy_margin=True)),
        "cosface 0.35": curve(CosFace(0.35)),
        "combined 0.9, 0.4, 0.15": curve(CombinedMargin(0.9, 0.4, 0.15, "exact")),
    },
    "multiplied margins": {
        "none": curve(NoMargin()),
        "sphereface 1.5, linear": curve(SphereFace(1.5, "exact")),
        "sphereface 1.5, psi": curve(SphereFace(1.5, "exact", "psi")),
        "spherefacer v1, 1.5": curve(SphereFaceR("v1", 1.5, "exact")),
        "asoftmax 4, |e| = 1, lambda 5": curve(ASoftmax(), length=1.0, steps=1e9),
        "psi, m = 4": curve(SphereFace(4.0, "exact", "psi")),
    },
    "margins that depend on more": {
        "none": curve(NoMargin()),
        "adaface, short": curve(AdaFace(h=1.0), length=10.0),
        "adaface, long": curve(AdaFace(h=1.0), length=30.0),
        "magface, |e| = 110": curve(MagFace(easy_margin=False), length=110.0),
        "circle 0.25": curve(CircleLoss(0.25, "exact")),
        "sphereface2": curve(SphereFace2(gradient="exact")),
    },
}


def picture(values: Callable[[Curve], Tensor], low: float, high: float, title: str) -> str:
    """Return an SVG with a panel for each group; `values` gives a curve's numbers over the degrees 1 to 179."""
    width = len(PANELS) * (WIDTH + GAP) + 10
    shapes = [f'<text x="{LEFT}" y="18" class="title">{escape(title)}</text>']
    for number, (group, curves) in enumerate(PANELS.items()):
        left = LEFT + number * (WIDTH + GAP)
        shapes += _axes(left, group, low, high)
        for color, (name, function) in zip(COLORS, curves.items()):
            shapes.append(_line(left, values(function), low, high, color))
            row = TOP + HEIGHT + 44 + 17 * list(curves).index(name)
            key = f'x1="{left}" y1="{row - 4}" x2="{left + 22}" y2="{row - 4}"'
            shapes.append(f'<line {key} stroke="{color}" class="c"/>')
            shapes.append(f'<text x="{left + 28}" y="{row}">{escape(name)}</text>')
    height = TOP + HEIGHT + 60 + 17 * max(map(len, PANELS.values()))
    style = "text { font: 13px Helvetica, Arial, sans-serif; fill: #222 } "
    style += ".title { font-weight: bold; font-size: 15px } "
    style += ".c { fill: none; stroke-width: 2 } .axis { stroke: #999 } .grid { stroke: #e4e4e4 }"
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">'
    page = '<rect width="100%" height="100%" fill="#fff"/>'
    return "\n".join([opening, f"<style>{style}</style>", page, *shapes, "</svg>\n"])


def _axes(left: int, group: str, low: float, high: float) -> list[str]:
    bottom = TOP + HEIGHT
    shapes = [f'<text x="{left}" y="{TOP - 9}" class="title">{group}</text>']
    for degrees in range(0, 181, 30):
        x = left + WIDTH * degrees / 180
        shapes.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}" class="grid"/>')
        shapes.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{degrees}</text>')
    for value in range(math.ceil(low), math.floor(high) + 1):
        y = bottom - HEIGHT * (value - low) / (high - low)
        shapes.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + WIDTH}" y2="{y:.1f}" class="grid"/>')
        shapes.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value}</text>')
    corner = f"{left},{TOP} {left},{bottom} {left + WIDTH},{bottom}"
    return [*shapes, f'<polyline points="{corner}" class="axis" fill="none"/>']


def _line(left: int, values: Tensor, low: float, high: float, color: str) -> str:
    shown = values.clamp(low, high)
    points = [
        f"{left + WIDTH * degrees / 180:.1f},{TOP + HEIGHT - HEIGHT * (value - low) / (high - low):.1f}"
        for degrees, value in zip(range(1, 180), shown.tolist())
    ]
    return f'<polyline points="{" ".join(points)}" stroke="{color}" class="c"/>'


def _cosines() -> Tensor:
    return torch.cos(torch.deg2rad(torch.arange(1, 180, dtype=torch.float64)))


def draw_logits() -> str:
    """Return the picture of own logits."""
    title = "Own logit before the scale, against the angle in degrees"
    return picture(lambda function: function(_cosines())[0], -3, 1, title)


def draw_slopes() -> str:
    """Return the picture of their slopes by the angle, of the formulas."""
    sines = torch.sin(torch.acos(_cosines()))
    title = "What pulls: minus the slope of the own logit by the angle, of the formula"
    return picture(lambda function: function(_cosines())[1] * sines, -1, 4, title)


PICTURES = {"losses_logits.svg": draw_logits, "losses_slopes.svg": draw_slopes}


def main() -> int:
    """Write the files."""
    for name, draw in PICTURES.items():
        (FOLDER / name).write_text(draw(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
