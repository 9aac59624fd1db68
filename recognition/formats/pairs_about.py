"""What is known of a verification .bin beside its pictures: OUT.json beside OUT.bin. Torch-free.

The .bin is the field's, byte for byte, and says neither whom a picture shows nor how it was aligned. The .json does:
it is written by pack_bin.py, and belongs to the .bin whose SHA-256 it holds (docs/formats.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from recognition.errors import DataError
from recognition.work.inputs import require_plain

FORMAT = 1
KEY = "arcshard_pairs"
MAX_FILE_BYTES = 1 << 28
_COLUMNS = ("names", "people", "groups")


@dataclass(frozen=True)
class PairsAbout:
    """What is known of the 2n pictures of a set, those of pair i being 2i and 2i + 1; None for what is not."""

    names: tuple[str, ...] | None = None
    """Paths below the folder they came from."""
    people: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None
    """Of the people, such as RFW's races."""
    fold_sizes: tuple[int, ...] | None = None
    alignment: Mapping[str, Any] | None = None
    """The align.json of the pictures' folder."""
    list_sha256: str | None = None
    """Of the list of pairs."""


def about_path(path: Path) -> Path:
    """Return the place of the .json that describes a .bin."""
    return path.with_suffix(".json")


def render_about(about: PairsAbout, *, sha256: str) -> str:
    """Return the .json of the .bin with that SHA-256; a picture that is in several pairs is described once."""
    values: dict[str, Any] = {KEY: FORMAT, "sha256": sha256, "list_sha256": about.list_sha256}
    columns = {name: column for name in _COLUMNS if (column := getattr(about, name)) is not None}
    if columns:
        numbers: dict[tuple[str, ...], int] = {}
        values["images"] = [numbers.setdefault(picture, len(numbers)) for picture in zip(*columns.values())]
        values |= {name: [picture[i] for picture in numbers] for i, name in enumerate(columns)}
    values |= {"fold_sizes": about.fold_sizes, "alignment": about.alignment}
    return json.dumps(values, separators=(",", ":")) + "\n"


def read_about(path: Path, *, sha256: str, num_pairs: int) -> PairsAbout:
    """Return what the .json beside a .bin says; nothing where there is none, or one of another program.

    Raises DataError when it describes another .bin, or does not hold what pack_bin.py writes.
    """
    place = about_path(path)
    if not place.exists():
        return PairsAbout()
    values = _load(place)
    if not isinstance(values, dict) or KEY not in values:
        return PairsAbout()
    if values[KEY] != FORMAT:
        raise _refused(place, f"format {values[KEY]!r:.40}", f"format {FORMAT}")
    if values.get("sha256") != sha256:
        raise DataError(
            f"{place}: describes another {path.name} (SHA-256 {values.get('sha256')!s:.12}); expected {sha256:.12}; "
            "pack again, or remove it"
        )
    return PairsAbout(
        **_columns(place, values, 2 * num_pairs),
        fold_sizes=_fold_sizes(place, values.get("fold_sizes"), num_pairs),
        alignment=_mapping(place, values.get("alignment")),
        list_sha256=values.get("list_sha256") if isinstance(values.get("list_sha256"), str) else None,
    )


def is_about(place: Path) -> bool:
    """Return whether a file is what pack_bin.py writes beside a .bin."""
    try:
        values = _load(place)
    except DataError:
        return False
    return isinstance(values, dict) and KEY in values


def _load(place: Path) -> Any:
    require_plain(place)
    try:
        if place.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"{place}: over {MAX_FILE_BYTES >> 20} MiB; expected what pack_bin.py writes; remove it")
        return json.loads(place.read_bytes())
    except (OSError, ValueError, RecursionError) as err:
        reason = str(err).partition("\n")[0]
        raise DataError(f"{place}: cannot be read ({reason:.80}); expected JSON; pack again, or remove it") from err


def _columns(place: Path, values: Mapping[str, Any], num_images: int) -> dict[str, tuple[str, ...] | None]:
    """Return each column at the length of the set."""
    found: dict[str, tuple[str, ...] | None] = dict.fromkeys(_COLUMNS)
    images = values.get("images")
    for name in _COLUMNS:
        column = values.get(name)
        if column is None:
            continue
        if not _are(column, str) or not _are(images, int) or len(images) != num_images:
            raise _refused(place, f"{name} and images", f"texts, and {num_images:,} numbers of them")
        if not all(0 <= image < len(column) for image in images):
            raise _refused(place, f"an image outside of the {len(column):,} {name}", "one of them")
        found[name] = tuple(column[image] for image in images)
    return found


def _fold_sizes(place: Path, sizes: Any, num_pairs: int) -> tuple[int, ...] | None:
    if sizes is None:
        return None
    if not _are(sizes, int) or min(sizes, default=0) < 1 or sum(sizes) != num_pairs:
        raise _refused(place, f"fold_sizes {sizes!r:.60}", f"whole numbers with the sum {num_pairs:,}")
    return tuple(sizes)


def _mapping(place: Path, value: Any) -> Mapping[str, Any] | None:
    if value is not None and not isinstance(value, dict):
        raise _refused(place, f"alignment {value!r:.60}", "a mapping")
    return value


def _are(values: Any, kind: type) -> TypeGuard[list[Any]]:
    return isinstance(values, list) and all(type(value) is kind for value in values)


def _refused(place: Path, found: str, expected: str) -> DataError:
    return DataError(f"{place}: holds {found}; expected {expected}; pack again, or remove it")


def sizes_of_folds(folds: Sequence[int]) -> tuple[int, ...]:
    """Return how many pairs in a row have one fold's number."""
    sizes: list[int] = []
    for i, fold in enumerate(folds):
        if i and fold == folds[i - 1]:
            sizes[-1] += 1
        else:
            sizes.append(1)
    return tuple(sizes)
