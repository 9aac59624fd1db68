"""One picture of what an alignment did: crops with their score, and photos without one with their status."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from recognition.errors import DataError
from recognition.images.photos import decode_photo, read_photo
from recognition.work.files import staged

TILE_PX, CAPTION_PX, COLUMNS = 112, 28, 12
MAX_TILES = 96
_GOOD, _BAD = (230, 230, 230), (255, 120, 90)
_LETTERS = 17  # of the font's size that fit a tile


def draw_sheet(records: Path, photos: Path, crops: Path, path: Path) -> None:
    """Write a PNG of at most `MAX_TILES` lines of an align.jsonl.

    A third shows photos without a crop, a third the crops of the least score, and the rest is spread over all.
    """
    chosen = _choose(list(_lines(records)))
    tiles = [_tile(line, photos, crops) for line in chosen]
    if not tiles:
        return
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % COLUMNS)
    rows = [np.hstack(tiles[i : i + COLUMNS]) for i in range(0, len(tiles), COLUMNS)]
    done, encoded = cv2.imencode(".png", cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))
    assert done, "cv2 could not encode a uint8 RGB array"
    with staged(path) as (temporary,):
        temporary.write_bytes(encoded.tobytes())


def _lines(records: Path) -> Iterator[dict[str, Any]]:
    """Yield what a tile needs of every photo: name, status, score and crop of its first face, if any."""
    with open(records, encoding="utf-8") as handle:
        for text in handle:
            line = json.loads(text)
            face: dict[str, Any] = next((face for face in line["faces"] if "crop" in face), {})
            yield {
                "photo": line["photo"],
                "status": line["status"],
                **{key: face.get(key) for key in ("crop", "score")},
            }


def _choose(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    bare = [line for line in lines if line["crop"] is None]
    cut = [line for line in lines if line["crop"] is not None]
    if len(lines) <= MAX_TILES:
        return bare + sorted(cut, key=_score)
    third = MAX_TILES // 3
    bare = _spread(bare, third)
    unsure = sorted(cut, key=_score)[:third]
    rest = [line for line in cut if line not in unsure] if len(cut) <= 10 * MAX_TILES else cut
    return bare + unsure + _spread(rest, MAX_TILES - len(bare) - len(unsure))


def _score(line: dict[str, Any]) -> float:
    return float(line["score"])


def _spread(lines: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    if len(lines) <= number:
        return lines
    return [lines[i] for i in np.linspace(0, len(lines) - 1, number).astype(int)]


def _tile(line: dict[str, Any], photos: Path, crops: Path) -> np.ndarray:
    tile = np.zeros((TILE_PX + CAPTION_PX, TILE_PX, 3), np.uint8)
    path = photos / line["photo"] if line["crop"] is None else crops / line["crop"]
    try:
        rgb = decode_photo(read_photo(path), place=str(path))
        scale = TILE_PX / max(rgb.shape[:2])
        size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
        tile[: size[1], : size[0]] = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    except DataError:  # its status says so
        pass
    words = line["status"].replace("_", " ")
    words = words if line["score"] is None else f"{words} {line['score']:.3f}"
    name = line["photo"].rpartition("/")[2].encode("ascii", "replace").decode()
    for number, (text, color) in enumerate(((words, _GOOD if line["status"] == "ok" else _BAD), (name, _GOOD))):
        at = (1, TILE_PX + 11 + 13 * number)
        cv2.putText(tile, text[:_LETTERS], at, cv2.FONT_HERSHEY_SIMPLEX, 0.36, color, 1, cv2.LINE_AA)
    return tile
