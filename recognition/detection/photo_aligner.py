"""One photo file -> its faces, the aligned crops on disk, and a record of what happened."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from recognition.detection.alignment import align
from recognition.detection.choice import Certainty, Policy, choose_faces
from recognition.detection.crop_names import crop_name
from recognition.detection.detectors import detect_within
from recognition.detection.faces import Detector, Faces, no_faces
from recognition.errors import DataError
from recognition.images.codec import encode_jpeg
from recognition.images.photos import decode_photo, read_photo
from recognition.work.files import write_by_way_of

Status = Literal["ok", "no_face", "several", "too_small", "unreadable"]
STATUSES: tuple[Status, ...] = ("ok", "no_face", "several", "too_small", "unreadable")


@dataclass(frozen=True)
class AlignSettings:
    """What decides which crops a photo gives. `min_size_px` bounds the shorter side of a face's box."""

    size: int = 112
    policy: Policy = "largest"
    min_size_px: float = 0.0
    min_score: float | None = None
    max_side_px: int = 1600
    quality: int = 95
    certainty: Certainty = field(default_factory=Certainty)  # of the detector's scores; `min_score` replaces its least


@dataclass(frozen=True)
class PhotoTask:
    """A photo below the input folder, where its crop goes below the output, and faces known from an earlier run."""

    photo: str
    crop: str
    known: dict[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class PhotoAligner:
    """Aligns photos below `photos` into `output`."""

    photos: Path
    output: Path
    staging: Path  # a folder on the output's file system, for crops not yet whole
    settings: AlignSettings
    detector: Detector

    def __call__(self, task: PhotoTask) -> dict[str, Any]:
        """Write the crops of one photo and return its line of align.jsonl. Bad photos are recorded, not raised."""
        try:
            encoded = read_photo(self.photos / task.photo, place=task.photo)
            rgb = decode_photo(encoded, place=task.photo)
        except DataError as err:
            return _unreadable(str(err))
        crc = zlib.crc32(encoded)
        faces = self._faces(task, rgb, crc)
        record: dict[str, Any] = {"crc32": crc, "width": rgb.shape[1], "height": rgb.shape[0]}
        status, chosen = self._choose(faces, (rgb.shape[0], rgb.shape[1]))
        listed = [face_record(faces, i) for i in range(len(faces))]
        try:
            crops = [align(rgb, faces.landmarks[index], self.settings.size) for index in chosen]
        except DataError as err:
            return _unreadable(f"{task.photo}: {err}")
        for number, (index, crop) in enumerate(zip(chosen, crops)):
            name = crop_name(task.crop, number)
            self._write(name, encode_jpeg(crop, self.settings.quality))
            listed[index]["crop"] = name
        return {"status": status, **record, "faces": listed}

    def _faces(self, task: PhotoTask, rgb: np.ndarray, crc: int) -> Faces:
        if task.known is not None and task.known.get("crc32") == crc:
            return faces_of_record(task.known)
        found = detect_within(self.detector, rgb, self.settings.max_side_px)
        # As they are written down, so that a second run from the file cuts the same crops.
        return faces_of_record({"faces": [face_record(found, i) for i in range(len(found))]})

    def _choose(self, faces: Faces, photo_size: tuple[int, int]) -> tuple[Status, np.ndarray]:
        """Return the status and the indices of the faces to cut out."""
        certainty, least = self.settings.certainty, self.settings.min_score
        sure = np.flatnonzero(faces.scores >= (certainty.least if least is None else least))
        if len(sure) == 0:
            return "no_face", sure
        sides = (faces.boxes[sure, 2:] - faces.boxes[sure, :2]).min(1)
        large = sure[sides >= self.settings.min_size_px]
        if len(large) == 0:
            return "too_small", large
        chosen = large[choose_faces(faces.select(large), self.settings.policy, photo_size, certainty)]
        return ("ok" if len(chosen) else "several"), chosen

    def _write(self, name: str, content: bytes) -> None:
        """Publish a crop by rename, not synced: it survives a kill, and syncing would cost more than the detection."""
        target = self.output / name
        temporary = self.staging / f"{os.getpid()}.part"
        write_by_way_of(temporary, target, content)


def face_record(faces: Faces, index: int) -> dict[str, Any]:
    """Return a face as it stands in align.jsonl: pixels with two decimals."""
    return {
        "box": [round(float(value), 2) for value in faces.boxes[index]],
        "landmarks": [[round(float(x), 2), round(float(y), 2)] for x, y in faces.landmarks[index]],
        "score": round(float(faces.scores[index]), 4),
    }


def faces_of_record(record: dict[str, Any]) -> Faces:
    """Return the faces of a line of align.jsonl; KeyError, TypeError or ValueError when they are not what it holds."""
    listed = record["faces"]
    if not listed:
        return no_faces()
    boxes, landmarks, scores = (
        np.array([face[key] for face in listed], np.float32).reshape(len(listed), *shape)
        for key, shape in (("box", (4,)), ("landmarks", (5, 2)), ("score", ()))
    )
    if not all(np.isfinite(numbers).all() for numbers in (boxes, landmarks, scores)):
        raise ValueError("numbers that are not finite")
    return Faces(boxes, landmarks, scores)


def _unreadable(reason: str) -> dict[str, Any]:
    return {"status": "unreadable", "reason": reason, "faces": []}
