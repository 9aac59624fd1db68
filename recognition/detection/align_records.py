"""align.jsonl: what became of each photo, read without trust, and which face each crop shows. Torch-free."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recognition.detection.photo_aligner import faces_of_record
from recognition.errors import DataError
from recognition.work.inputs import require_plain
from recognition.work.strict_json import parse_json

RECORDS = "align.jsonl"
_MAX_LINE = 1 << 24  # characters; a line has all faces of a photo


@dataclass(frozen=True)
class Origin:
    """Where a crop comes from: the photo, its size, all faces found in it, and which of them the crop shows."""

    photo: str
    width: int
    height: int
    boxes: list[list[float]]
    crops: list[str | None]
    """What each face was cut out as."""
    face: int

    @property
    def size_text(self) -> str:
        """The sizes in words: the shorter side of the face's box, and the photo, in pixels."""
        left, top, right, bottom = self.boxes[self.face]
        return f"face {min(right - left, bottom - top):,.0f} px of {self.width:,} × {self.height:,}"


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of an align.jsonl; DataError that names the first that is none."""
    require_plain(path)
    try:
        with open(path, encoding="utf-8-sig") as handle:
            for number, line in enumerate(iter(lambda: handle.readline(_MAX_LINE), ""), 1):
                yield _parse(f"{path}:{number}", line)
    except (OSError, UnicodeDecodeError) as err:
        raise DataError(f"{path}: cannot be read ({err}); expected an align.jsonl; give another file") from err


def find_origins(faces: Path, wanted: Collection[str]) -> dict[str, Origin]:
    """Return crop -> origin for those of the crops `wanted` that their folder's align.jsonl names, if it has one."""
    path = faces / RECORDS
    if not path.exists():
        return {}
    found: dict[str, Origin] = {}
    for record in read_records(path):
        crops = [face.get("crop") for face in record["faces"]]
        for face, crop in enumerate(crops):
            if crop in wanted and "width" in record:
                boxes = [[float(value) for value in face["box"]] for face in record["faces"]]
                found[crop] = Origin(record["photo"], record["width"], record["height"], boxes, crops, face)
    return found


def _parse(place: str, line: str) -> dict[str, Any]:
    try:
        record: dict[str, Any] = parse_json(line)
        faces_of_record(record)
        if not all(isinstance(record[key], str) for key in ("photo", "status")):
            raise TypeError("photo and status are not text")
        if not all(isinstance(face.get("crop"), (str, type(None))) for face in record["faces"]):
            raise TypeError("a crop is not text")
        names = [record["photo"], *(face["crop"] for face in record["faces"] if face.get("crop") is not None)]
        if not all(name and not name.startswith("/") and ".." not in name.split("/") for name in names):
            raise ValueError("a name leads out of its folder")
        sides = [record[key] for key in ("width", "height") if key in record]
        if not all(type(side) is int and 0 < side < 1 << 20 for side in sides) or len(sides) == 1:
            raise ValueError("width and height are no size of a photo")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, AttributeError) as err:
        raise DataError(
            f"{place}: {line.strip()[:80]!r}; expected a line of an align.jsonl; let align_faces.py write it"
        ) from err
    return record
