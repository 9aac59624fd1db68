"""Cut crops again that a reviewer wants to show another face of their photo. Torch-free."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recognition.console import progress
from recognition.detection.align_records import RECORDS, find_origins, read_records
from recognition.detection.alignment import align
from recognition.detection.crop_folder import CropFolder
from recognition.detection.photo_aligner import faces_of_record
from recognition.errors import DataError
from recognition.formats.image_list import Folder
from recognition.formats.pair_pictures import read_alignment
from recognition.images.codec import encode_jpeg
from recognition.images.photos import decode_photo, read_photo
from recognition.work.files import write_by_way_of


@dataclass
class Recut:
    """What became of the choices: crops cut again, crops that show that face already, and photos that are not there any
    more or have other bytes, with the reason of the first of them."""

    num_cut: int = 0
    num_before: int = 0
    lost: list[str] = field(default_factory=list)


def apply_choices(
    photos: Path, folder: CropFolder, choices: Mapping[str, int], place: Path, *, quiet: bool = True
) -> Recut:
    """Cut each crop of `choices` (crop -> number of a face of its photo) out of the folder's photos again.

    The records then say so. A killed call is repeated as it was. Raises DataError, naming `place`, for a crop or a face
    that is not there, or that another crop shows.
    """
    if not folder.work.is_finished:
        raise DataError(f"{folder.output}: holds no {RECORDS}; expected crops of align_faces.py; check the path")
    _check(folder.output, choices, place)
    settings = read_alignment(folder.output) or {}
    size, quality = int(settings.get("size", 112)), int(settings.get("quality", 95))
    outcome = Recut()
    with folder.work.hold():
        folder.staging.mkdir(exist_ok=True)
        new = folder.staging / RECORDS
        try:
            with open(new, "w", encoding="utf-8") as handle:
                records = list(read_records(folder.records))
                for record in progress(records, total=len(records), unit="photo", label="cut", quiet=quiet):
                    for crop, old in [(face["crop"], i) for i, face in enumerate(record["faces"]) if "crop" in face]:
                        if crop in choices:
                            _recut(photos, folder, record, (crop, old, choices[crop]), (size, quality), outcome)
                    handle.write(json.dumps(record) + "\n")
            os.replace(new, folder.records)
        finally:
            folder.work.remove()
    return outcome


def check_choices(faces: Path, choices: Mapping[str, int], place: Path) -> None:
    """Raise DataError, naming `place`, unless the crops below `faces` show the faces that were chosen."""
    origins = find_origins(faces, choices.keys()) if choices else {}
    for crop, face in choices.items():
        if crop not in origins or origins[crop].face != face:
            raise DataError(
                f"{place}: {crop!r} is to show face {face} of its photo, and does not; expected the crops chosen; run "
                f"align_faces.py PHOTOS {faces} --choices {place} first"
            )


def _check(faces: Path, choices: Mapping[str, int], place: Path) -> None:
    origins = find_origins(faces, choices.keys())
    below = Folder(faces)
    for crop, face in choices.items():
        if crop not in origins or below.path(crop) is None:
            raise DataError(f"{place}: no crop {crop!r}; expected crops of {faces}; review this set")
        origin = origins[crop]
        if face >= len(origin.boxes):
            raise DataError(
                f"{place}: {crop!r}: face {face} of {len(origin.boxes)} in its photo; expected one of these; choose "
                "again"
            )
        other = origin.crops[face]
        if other not in (None, crop):
            raise DataError(f"{place}: {crop!r}: face {face} is {other!r} already; expected another; drop one of them")


def _recut(
    photos: Path,
    folder: CropFolder,
    record: dict[str, Any],
    choice: tuple[str, int, int],
    how: tuple[int, int],
    outcome: Recut,
) -> None:
    """Cut one crop (its name, the face it shows and the one chosen) and change its record; or count why not."""
    crop, old, new = choice
    size, quality = how
    if old == new:
        outcome.num_before += 1
        return
    try:
        path = photos / record["photo"]
        encoded = read_photo(path)
        if zlib.crc32(encoded) != record.get("crc32"):
            raise DataError(f"{path}: is another photo than the one aligned; expected the same bytes; align it again")
        cut = align(decode_photo(encoded, place=str(path)), faces_of_record(record).landmarks[new], size)
    except DataError as err:
        outcome.lost.append(str(err))
        return
    write_by_way_of(folder.staging / "crop.part", folder.output / crop, encode_jpeg(cut, quality))
    del record["faces"][old]["crop"]
    record["faces"][new]["crop"] = crop
    outcome.num_cut += 1
