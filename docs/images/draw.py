"""Draw the two pictures of docs/architecture.md as SVG files beside this one.

python docs/images/draw.py
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
FILL = {"data": "#e8f0fe", "network": "#e6f4ea", "head": "#fef3e0", "exchange": "#f3e3f7", "decide": "#fde8e8"}
EDGE = {"data": "#4a74c9", "network": "#3c8c55", "head": "#c07a16", "exchange": "#8a4aa0", "decide": "#c0392b"}
LINE_PX = 19


class Drawing:
    """Shapes in the order in which they were added; lengths in pixels."""

    def __init__(self, width: int, height: int) -> None:
        self._size = (width, height)
        self._shapes: list[str] = []

    def box(self, x: int, y: int, width: int, height: int, lines: list[str], kind: str) -> None:
        """Add a rounded box with centered lines; the first is bold, and a line that starts with = is a formula."""
        dash = ' stroke-dasharray="6 4"' if kind == "exchange" else ""
        self._shapes.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="7" fill="{FILL[kind]}" '
            f'stroke="{EDGE[kind]}" stroke-width="1.5"{dash}/>'
        )
        top = y + height / 2 - (len(lines) - 1) * LINE_PX / 2 + 5
        for index, line in enumerate(lines):
            style = "formula" if line.startswith("=") else "bold" if index == 0 else "plain"
            self.text(x + width / 2, top + index * LINE_PX, line.removeprefix("="), style, "middle")

    def text(self, x: float, y: float, line: str, style: str = "plain", anchor: str = "start") -> None:
        """Add one line of text whose baseline is at y."""
        self._shapes.append(f'<text x="{x:g}" y="{y:g}" class="{style}" text-anchor="{anchor}">{escape(line)}</text>')

    def arrow(self, *points: tuple[int, int]) -> None:
        """Add a line through the points with a head at its end."""
        path = " ".join(f"{x},{y}" for x, y in points)
        self._shapes.append(f'<polyline points="{path}" class="arrow" marker-end="url(#tip)"/>')

    def rectangle(self, x: int, y: int, width: int, height: int, fill: str, edge: str) -> None:
        """Add a plain rectangle."""
        self._shapes.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{fill}" stroke="{edge}" stroke-width="1"/>'
        )

    def svg(self) -> str:
        """Return the file's text."""
        width, height = self._size
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">',
                "<style>text { font: 14px Helvetica, Arial, sans-serif; fill: #222 } .bold { font-weight: bold }",
                ".formula { font-family: Menlo, Consolas, 'DejaVu Sans Mono', monospace; font-size: 13px }",
                ".title { font-weight: bold; font-size: 16px } .note { font-size: 13px; fill: #555 }",
                ".arrow { fill: none; stroke: #444; stroke-width: 1.6 }</style>",
                '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
                'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#444"/></marker></defs>',
                f'<rect width="{width}" height="{height}" fill="white"/>',
                *self._shapes,
                "</svg>",
                "",
            ]
        )


def training_step() -> str:
    """Draw what one step computes: the backbone's column on the left, the head's on the right, time downward."""
    d = Drawing(1000, 850)
    left, wide, right, broad = 20, 330, 400, 580
    d.text(left, 30, "Backbone: a copy on every rank", "title")
    d.text(right, 30, "Head: every rank has the centers of its own classes", "title")

    d.box(left, 50, wide, 56, ["A batch of this rank", "=images [B, S, S, 3], labels [B]"], "data")
    d.arrow((185, 106), (185, 130))
    d.box(left, 130, wide, 56, ["Augment, mirror, scale", "on the device, keyed by image and epoch"], "data")
    d.arrow((185, 186), (185, 210))
    d.box(left, 210, wide, 56, ["Backbone, autocast bf16", "=embeddings [B, D]"], "network")
    d.arrow((350, 238), (375, 238), (375, 78), (400, 78))

    d.box(right, 50, broad, 56, ["Unit rows in float32, autocast off", "=x [B, D]"], "head")
    d.arrow((690, 106), (690, 128))
    d.box(right, 128, broad, 40, ["all-gather: x [N, D] and labels [N] of all ranks"], "exchange")
    d.arrow((690, 168), (690, 190))
    first = [
        "Pass 1, block by block over this rank's classes",
        "=z = s r (x @ w.T) with r = 1 / |w|: a tile [N, n], the target masked",
        "=E = exp(z - 16): its row sums; the row maxima of z",
        "=numerator of dx += (E r) @ w",
    ]
    d.box(right, 190, broad, 96, first, "head")
    d.arrow((690, 286), (690, 308))
    d.box(right, 308, broad, 40, ["exchange: sum, maximum and target cosine of every image"], "exchange")
    d.arrow((690, 348), (690, 370))
    loss = [
        "The loss, equal on every rank; dx of this rank's classes is complete",
        "=lse of the negatives; loss = softplus(lse - z_t); dx [N, D]",
    ]
    d.box(right, 370, broad, 56, loss, "head")
    d.arrow((690, 426), (690, 448))
    d.box(right, 448, broad, 40, ["Accept or refuse the step: the same decision on every rank"], "decide")

    d.text(left, 444, "loss.backward()", "title")
    d.arrow((690, 488), (690, 514))
    d.box(
        right,
        514,
        broad,
        40,
        ["reduce-scatter: dx [B, D] of this rank's images, summed over ranks, times W"],
        "exchange",
    )
    d.arrow((400, 534), (375, 534), (375, 488), (350, 488))
    d.box(left, 460, wide, 56, ["Backward of the backbone", "the head only returns dx"], "network")
    d.arrow((185, 516), (185, 540))
    d.box(left, 540, wide, 40, ["DDP: mean of the gradients (divides by W)"], "exchange")
    d.arrow((185, 580), (185, 604))
    d.box(left, 604, wide, 40, ["Clip the norm of the gradient"], "network")

    d.text(205, 690, "optimizer.step(): one decision for both; the learning rate is read here", "title")
    d.arrow((185, 644), (185, 706))
    d.box(left, 706, wide, 96, ["SGD or AdamW", "moves the copy of the backbone,", "equally on every rank"], "network")
    second = [
        "Pass 2, block by block: z and E again",
        "=m = mu m + (E r).T @ (a x) + (decay - r² colsum) w",
        "=w = w - lr m",
        "in place, on the rank that owns the rows",
    ]
    d.box(right, 706, broad, 96, second, "head")
    d.text(
        left,
        832,
        "Dashed: ranks exchange data. Logits [N, C] and a gradient of the centers [C, D] never exist.",
        "note",
    )
    return d.svg()


def sharding() -> str:
    """Draw where everything is on four ranks: copies of the backbone, and rows of the centers."""
    d = Drawing(1000, 715)
    column, gap, start = 215, 30, 25
    for rank in range(4):
        x = start + rank * (column + gap)
        middle = x + column // 2
        d.text(middle, 28, f"rank {rank}", "title", "middle")
        d.box(x, 40, column, 40, ["=images [B, S, S, 3]"], "data")
        d.arrow((middle, 80), (middle, 98))
        d.box(x, 98, column, 56, ["Backbone", "the same weights everywhere"], "network")
        d.arrow((middle, 154), (middle, 184))
        d.arrow((middle, 224), (middle, 258))
        _draw_shard(d, x, 258, column, rank)
        d.arrow((middle, 436), (middle, 466))
        d.arrow((middle, 506), (middle, 532))
        d.arrow((middle, 588), (middle, 614))
        d.box(x, 532, column, 56, ["Loss, equal bits everywhere", "dx: the part of these classes"], "head")
    d.box(start, 184, 950, 40, ["all-gather: every rank gets the unit embeddings of all N = 4 B images"], "exchange")
    d.box(start, 466, 950, 40, ["exchange: three numbers per image and rank (sum, maximum, target cosine)"], "exchange")
    d.box(start, 614, 950, 40, ["reduce-scatter: every rank gets the sum of dx for its own B images"], "exchange")
    note = (
        "A center, its momentum and its update stay on the rank that owns the class; no gradient of a center is sent."
    )
    d.text(start, 690, note, "note")
    return d.svg()


def _draw_shard(d: Drawing, x: int, y: int, width: int, rank: int) -> None:
    """Draw a rank's rows of centers and momentum in blocks, the second of them at work."""
    quarter = ["0 ... C/4", "C/4 ... C/2", "C/2 ... 3C/4", "3C/4 ... C"][rank]
    d.rectangle(x, y, width, 178, FILL["head"], EDGE["head"])
    d.text(x + width / 2, y + 20, f"classes {quarter}", "bold", "middle")
    d.text(x + 60, y + 42, "centers", "note", "middle")
    d.text(x + 155, y + 42, "momentum", "note", "middle")
    for block in range(4):
        fill = "#f5b942" if block == 1 else "white"
        d.rectangle(x + 20, y + 50 + block * 24, 80, 24, fill, EDGE["head"])
        d.rectangle(x + 115, y + 50 + block * 24, 80, 24, fill, EDGE["head"])
    d.text(x + width / 2, y + 167, "one block at a time: [n, D]", "note", "middle")


PICTURES = {"training_step.svg": training_step, "sharding.svg": sharding}


def main() -> int:
    """Write both pictures; return the exit status."""
    for name, draw in PICTURES.items():
        (FOLDER / name).write_text(draw(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
