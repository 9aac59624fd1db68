"""The review page: a folder that a browser opens by itself, without a server. Torch-free.

Its HTML, CSS and scripts (in page/) are copied as they are; everything that comes from the data reaches it in data.js
and identities.js, and is only ever shown as text. They are scripts because a page opened as a file cannot fetch.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from recognition.cleaning.borderline import Survey
from recognition.cleaning.decision_file import Decision
from recognition.cleaning.review_photos import PagePhotos
from recognition.images.sheets import COLUMNS, TILES, Plan, draw_sheet
from recognition.work.threads import ordered_map

INDEX, DATA, IDENTITIES, SHEETS = "index.html", "data.js", "identities.js", "sheets"
_NEAR = 4


def own_identities(found: Survey) -> set[str]:
    """Return the identities whose center faces the rows do not bring with them: those that a picture would leave."""
    return {row.identity for row in found.shown if row.to is not None}


def page_data(
    found: Survey,
    centers: Mapping[str, tuple[str, ...]],
    *,
    title: str,
    sizes: Mapping[str, str] | None = None,
    photos: PagePhotos | None = None,
) -> tuple[dict[str, Any], Plan]:
    """Return the content of data.js and the plan of the sheets that its tile numbers refer to.

    A row is [picture, identity, decision, to or null, reason, score, doubt, step, tile, tiles of the center of its
    identity, tiles of the center of `to`, the identities it might belong to, risk or null, [twin, its tile, the
    picture's size, the twin's] or null, [number of the photo's file, face shown, boxes as shares of the photo's sides:
    left, top, width, height, whether another crop shows it] or null]. The key is a hash of all the rows.
    """
    plan = Plan()
    rows = [[*_row(row, centers, found, plan), row.risk] for row in found.shown]
    for fields, row in zip(rows, found.shown):
        fields.append(_twin(row, fields[8], sizes or {}, plan))
        fields.append(None if photos is None else photos.entry(row.picture))
    key = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    data = {
        "version": 1,
        "key": key,
        "title": title,
        "kinds": dict(found.kinds),
        "num_identities": len(found.identities),
        "num_doubtful": len(found.rows),
        "num_dropped": found.num_dropped,
        "risk": found.risk,
        "sheet_columns": COLUMNS,
        "sheet_tiles": TILES,
        "rows": rows,
    }
    return data, plan


def write_page(folder: Path, data: Mapping[str, Any], identities: Iterable[str]) -> None:
    """Write everything but the sheets into `folder`."""
    template = importlib.resources.files("recognition.cleaning") / "page"
    for source in template.iterdir():
        (folder / source.name).write_bytes(source.read_bytes())
    (folder / DATA).write_text(_script("REVIEW_DATA", data), encoding="ascii")
    (folder / IDENTITIES).write_text(_script("REVIEW_IDENTITIES", sorted(identities)), encoding="ascii")


def write_sheets(folder: Path, faces: Path, plan: Plan, *, workers: int) -> Iterable[int]:
    """Write the sheets into `folder` / SHEETS, yielding the number of pictures on each as it is done."""
    (folder / SHEETS).mkdir()
    drawn = ordered_map(partial(draw_sheet, faces), plan.sheets, workers=workers)
    for number, (encoded, pictures) in enumerate(zip(drawn, plan.sheets)):
        (folder / SHEETS / f"{number}.jpg").write_bytes(encoded)
        yield len(pictures)


def _row(row: Decision, centers: Mapping[str, tuple[str, ...]], found: Survey, plan: Plan) -> list[Any]:
    beside = [picture for picture in row.beside if picture != row.picture]
    left = [picture for picture in centers.get(row.identity, ()) if picture != row.picture]
    own, target = (beside, []) if row.to is None else (left, beside)
    twin = [] if row.twin is None else [row.twin]
    tile, *others = plan.place([row.picture, *own, *target, *twin])
    near = [name for name, _ in found.links.get(row.identity, {}).items()]
    near = sorted(near, key=lambda name: (name != row.to, -found.links[row.identity][name], name))[:_NEAR]
    return [
        row.picture,
        row.identity,
        row.decision,
        row.to,
        row.reason,
        row.score,
        row.doubt,
        row.step,
        tile,
        others[: len(own)],
        others[len(own) : len(own) + len(target)],
        near,
    ]


def _twin(row: Decision, tile: int, sizes: Mapping[str, str], plan: Plan) -> list[Any] | None:
    """Return what the page shows of the picture that stays in place of this one; it lies on the sheet of `tile`."""
    if row.twin is None:
        return None
    sheet = tile // TILES
    place = sheet * TILES + plan.sheets[sheet].index(row.twin)
    return [row.twin, place, sizes.get(row.picture, ""), sizes.get(row.twin, "")]


def _script(name: str, content: Any) -> str:
    """Return a script that sets a global. Names are hostile: everything outside ASCII is escaped, and so is <."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'"use strict";\nwindow.{name} = {text};\n'
