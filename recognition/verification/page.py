"""The report as one HTML file: no script, nothing loaded from anywhere, every name only ever text.

Thumbnails are tiles of a few JPEGs inside the file (the review page's sheets), of which each place shows a part.
"""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from recognition.images.codec import decode_rgb
from recognition.images.sheets import COLUMNS, TILE_PX, TILES, Plan, join_tiles
from recognition.verification.charts import Axis, Series, line_chart, shown, spread
from recognition.verification.groups import GroupTable
from recognition.verification.hardest import HardPair, hardest_accepts, hardest_rejects, most_confused
from recognition.verification.intervals import MIN_ABOVE
from recognition.verification.overlap import Overlap
from recognition.verification.protocols import PairSet, VerificationResult
from recognition.verification.quality import RejectCurve, area_under
from recognition.verification.report import INTERVAL_NAMES, number_of, rate_cell
from recognition.verification.sorted_scores import RocCurve, SortedScores, tar_name

_LABELS = {"accuracy": "accuracy", "precision": "precision", "recall": "recall", "f1": "F1", "auc": "AUC", "eer": "EER"}


@dataclass(frozen=True, eq=False)
class JudgedSet:
    """All that a report shows of one model on one set."""

    pair_set: PairSet
    result: VerificationResult
    groups: GroupTable | None = None
    overlap: Overlap | None = None
    rejects: Mapping[str, RejectCurve] = field(default_factory=dict)
    """Name of a quality score -> its error-versus-reject curve."""

    @property
    def name(self) -> str:
        """The set's, with the model's where several are compared."""
        return f"{self.result.name}, {self.result.model}" if self.result.model else self.result.name


def render_page(
    title: str, judged: Sequence[JudgedSet], *, cards: Sequence[Mapping[str, str]], run_charts: Sequence[str] = ()
) -> str:
    """Return the page; `cards` are the facts of each model, `run_charts` SVGs made by charts.py."""
    style = (importlib.resources.files("recognition.verification") / "page_style" / "report.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'"
    body = "".join(
        (
            f"<h1>{_text(title)}</h1>",
            '<p class="soft">Verification report. Brackets hold 95 % of 200 draws of people.</p>',
            _results(judged),
            _curves(judged),
            *(_set_section(each) for each in judged),
            _overlaps(judged),
            f'<h2>The run</h2><div class="charts">{"".join(run_charts)}</div>' if run_charts else "",
            "<h2>Model card</h2>",
            *(_card(card) for card in cards),
        )
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">'
        f"<title>{_text(title)}</title><style>{style}</style></head><body>{body}</body></html>\n"
    )


def _text(text: str) -> str:
    """Return a name as text of the page: markup is escaped, and what would turn or hide other text is spelled out."""
    return html.escape(shown(text))


def _name(text: str) -> str:
    return f"<bdi>{_text(text)}</bdi>"


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """Return a table of cells that are HTML already."""
    head = "".join(f"<th>{cell}</th>" for cell in heading)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    top = f"<thead><tr>{head}</tr></thead>" if heading else ""
    return f'<div class="scroll"><table class="{kind}">{top}<tbody>{body}</tbody></table></div>'


def _results(judged: Sequence[JudgedSet]) -> str:
    points = judged[0].result.tar_at_far
    names = [*INTERVAL_NAMES, *(tar_name(point.target) for point in points)]
    labels = [_LABELS.get(name) or name.upper().replace("E-", "e-") for name in names]
    rows = [
        [_name(each.name), *_counts(each.result), *(_number(each.result, name) for name in names)] for each in judged
    ]
    notes = []
    if any(each.result.num_people is None for each in judged):
        notes.append("‡ no interval: nobody says whom the pictures show.")
    if any(each.result.num_people is not None and len(each.result.intervals) < len(names) for each in judged):
        notes.append(f"† no interval: fewer than {MIN_ABOVE} pairs of different people are above the threshold.")
    table = _table(["set", "pairs", "people", "threshold", *labels], rows)
    return f'<h2>Results</h2>{table}<p class="note">{" ".join(notes)}</p>'


def _counts(result: VerificationResult) -> list[str]:
    people = "unknown" if result.num_people is None else f"{result.num_people:,}"
    return [f"{result.num_pairs:,}", people, f"{result.threshold_cosine:.4f}"]


def _number(result: VerificationResult, name: str) -> str:
    interval = result.intervals.get(name)
    if interval is not None:
        return f"{number_of(result, name):.4f}<small>[{interval.low:.3f}, {interval.high:.3f}]</small>"
    return f"{number_of(result, name):.4f} {'‡' if result.num_people is None else '†'}"


def _curves(judged: Sequence[JudgedSet]) -> str:
    found = [(each, SortedScores.of(each.result.cosines, each.result.is_same)) for each in judged]
    curves: list[tuple[str, RocCurve]] = [(each.name, ordered.roc()) for each, ordered in found]
    finest = min(1 / len(ordered.negatives) for _, ordered in found)
    least = min(1e-3, finest)
    far = Axis("false accept rate", least, 1.0, "log")
    roc = [Series(name, curve.far, curve.tar, is_step=True) for name, curve in curves]
    det = [Series(name, curve.far, curve.fnmr, is_step=True) for name, curve in curves]
    ends = (max(finest / 2, 1e-6), 0.9)
    charts = [
        line_chart("ROC", roc, far, Axis("true accept rate", 0.0, 1.0)),
        line_chart("DET", det, Axis("false accept rate", *ends, "normal"), Axis("false reject rate", *ends, "normal")),
        *(_histogram(each) for each in judged),
    ]
    return f'<h2>Curves</h2><div class="charts">{"".join(charts)}</div>'


def _histogram(each: JudgedSet) -> str:
    result = each.result
    low, high = spread(result.cosines)
    edges = np.linspace(low, high, 61)
    series = []
    for is_same, name in ((False, "different people"), (True, "same person")):
        shares = np.histogram(result.cosines[result.is_same == is_same], edges)[0].astype(np.float64)
        shares /= max(shares.sum(), 1.0)
        series.append(Series(name, edges, np.append(shares, 0.0), is_step=True))
    top = max(float(curve.y.max()) for curve in series)
    x, y = Axis("score", low, high), Axis("share of the pairs", 0.0, top * 1.05)
    return line_chart(f"Scores: {shown(each.name)}", series, x, y, marks=[result.threshold_cosine])


def _set_section(each: JudgedSet) -> str:
    parts = [f"<h2>{_name(each.name)}</h2>"]
    if each.pair_set.images:
        parts.append(_hardest(each))
    if each.groups is not None:
        parts.append(_groups(each.groups))
    if each.rejects:
        parts.append(_rejects(each))
    return "".join(parts) if len(parts) > 1 else ""


def _hardest(each: JudgedSet) -> str:
    accepts, rejects = hardest_accepts(each.result), hardest_rejects(each.result)
    confused = most_confused(each.result, each.pair_set)
    faces = _Faces(each.pair_set, [*accepts, *rejects, *(people.highest for people in confused)])
    parts = [faces.store]
    for title, pairs in (
        ("Different people that look most alike to the model", accepts),
        ("Pictures of one person that look least alike", rejects),
    ):
        parts.append(f'<h3>{title}</h3><div class="pairs">{"".join(faces.pair(pair) for pair in pairs)}</div>')
    if confused:
        first = confused[0]
        parts.append(
            f"<h3>People confused most</h3><p>{_name(first.first)} and {_name(first.second)}: "
            f"{first.num_accepted} of {first.num_pairs} pairs accepted.</p>"
        )
        cards = (
            faces.pair(people.highest, f"{people.num_accepted} of {people.num_pairs} pairs accepted")
            for people in confused
        )
        parts.append(f'<div class="pairs">{"".join(cards)}</div>')
    return "".join(parts)


class _Faces:
    """The thumbnails of a set's pairs."""

    def __init__(self, pair_set: PairSet, pairs: Sequence[HardPair]) -> None:
        self._pair_set = pair_set
        # Two sets may have one name: the store's names are by content.
        self._prefix = "s" + hashlib.sha256(f"{pair_set.path}{pair_set.sha256}{id(self)}".encode()).hexdigest()[:12]
        plan, self._tiles = Plan(), dict[int, int]()
        for pair in pairs:
            images = [2 * pair.pair, 2 * pair.pair + 1]
            self._tiles |= dict(zip(images, plan.place([str(image) for image in images])))
        self.store = "".join(self._sheet(number, sheet) for number, sheet in enumerate(plan.sheets))

    def pair(self, pair: HardPair, more: str = "") -> str:
        """Return the card of a pair: both faces, names and score."""
        names = self._pair_set.about.names
        images = (2 * pair.pair, 2 * pair.pair + 1)
        labels = [f"image {image}" if names is None else names[image] for image in images]
        faces = "".join(self._face(image) for image in images)
        text = "".join(_name(label) for label in labels)
        extra = f'<div class="soft">{_text(more)}</div>' if more else ""
        wrong = " wrong" if pair.is_wrong else ""
        return (
            f'<div class="pair{wrong}"><div class="faces">{faces}</div>'
            f'<div class="score">{pair.score:.4f}</div>{text}{extra}</div>'
        )

    def _sheet(self, number: int, pictures: Sequence[str]) -> str:
        images = [int(picture) for picture in pictures]
        pixels = (
            decode_rgb(self._pair_set.images[image], place=f"{self._pair_set.path}: image {image}") for image in images
        )
        encoded = base64.b64encode(join_tiles(pixels)).decode()
        side = COLUMNS * TILE_PX
        return (
            f'<svg class="store" aria-hidden="true"><defs><image id="{self._prefix}-{number}" width="{side}" '
            f'height="{side}" href="data:image/jpeg;base64,{encoded}"/></defs></svg>'
        )

    def _face(self, image: int) -> str:
        sheet, place = divmod(self._tiles[image], TILES)
        top, left = (TILE_PX * index for index in divmod(place, COLUMNS))
        return (
            f'<svg viewBox="{left} {top} {TILE_PX} {TILE_PX}" role="img" aria-label="face">'
            f'<use href="#{self._prefix}-{sheet}"/></svg>'
        )


def _groups(table: GroupTable) -> str:
    rows = [
        [
            _name(row.group),
            f"{row.num_same:,}",
            rate_cell(row.fnmr, row.fnmr_interval),
            f"{row.num_different:,}",
            rate_cell(row.fmr, row.fmr_interval),
        ]
        for row in table.rows
    ]
    what = f"One threshold for all: {table.threshold:.4f}, that of {_text(table.chosen_by)}."
    heading = ["group", "same", "false rejects (FNMR)", "different", "false accepts (FMR)"]
    return f"<h3>Groups</h3><p>{what}</p>{_table(heading, rows)}"


def _rejects(each: JudgedSet) -> str:
    series = [
        Series(f"{name} (area {area_under(curve):.3f})", curve.rejected, curve.fnmr, is_step=True)
        for name, curve in each.rejects.items()
    ]
    top = max(max(float(curve.y.max()) for curve in series), 1e-3)
    chart = line_chart(
        "Error versus reject",
        series,
        Axis("share of the pairs of one person left out, worst quality first", 0.0, 1.0),
        Axis("false reject rate", 0.0, top * 1.05),
    )
    return (
        f'<h3>Quality</h3><div class="charts">{chart}</div><p class="note">The curve falls where the quality score '
        "foretells rejects; an area below 1 is better than leaving out pairs by chance.</p>"
    )


def _overlaps(judged: Sequence[JudgedSet]) -> str:
    known = {each.result.name: each.overlap for each in judged if each.overlap is not None}
    if not known:
        return "<h2>Training and test</h2><p>Not compared: name the training set with --against.</p>"
    lines = []
    for name, overlap in known.items():
        if overlap.people is None:
            people = "whom one of the two shows is unknown"
        elif overlap.people:
            some = ", ".join(_name(person) for person in overlap.people[:10])
            people = f"{len(overlap.people):,} people are in both ({some}{', ...' if len(overlap.people) > 10 else ''})"
        else:
            people = "no person's name is in both"
        pictures = f"{overlap.num_duplicates:,} of {overlap.num_pictures:,} pictures are in both, or nearly the same"
        is_shared = bool(overlap.people) or overlap.num_duplicates > 0
        verdict = "<strong>The numbers above are too good: </strong>" if is_shared else ""
        lines.append(f"<p>{verdict}{_name(name)}: {people}; {pictures}.</p>")
    return f"<h2>Training and test</h2>{''.join(lines)}"


def _card(card: Mapping[str, str]) -> str:
    return _table([], [[_text(name), _name(value)] for name, value in card.items()], "card")
