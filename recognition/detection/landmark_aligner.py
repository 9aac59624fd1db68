"""One photo and its five landmarks -> the aligned crop on disk, and a record of what happened. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recognition.detection.alignment import align
from recognition.detection.crop_folder import CropFolder
from recognition.detection.landmark_fit import MAX_MISFIT_PX, landmark_trouble
from recognition.errors import DataError
from recognition.images.codec import encode_jpeg
from recognition.images.photos import decode_photo, read_photo
from recognition.work.files import write_by_way_of

STATUSES = ("ok", "missing", "unreadable", "misfit", "outside", "too_small")


@dataclass(frozen=True)
class LandmarkedPhoto:
    """A photo below the input folder, its landmarks [5, 2] in pixels, its line in their file, and its crop's path."""

    path: str
    landmarks: np.ndarray = field(repr=False)
    line: int = 0
    crop: str = ""


@dataclass(frozen=True)
class LandmarkAligner:
    """Aligns photos below `photos` by landmarks that are known."""

    photos: Path
    folder: CropFolder
    size: int
    quality: int
    max_misfit_px: float = MAX_MISFIT_PX

    def __call__(self, photo: LandmarkedPhoto) -> dict[str, Any]:
        """Write one crop and return its line of landmarks.jsonl. Bad photos are recorded, not raised."""
        path = self.photos / photo.path
        if not path.exists():
            return {"status": "missing", "reason": f"{path}: no such file"}
        try:
            rgb = decode_photo(read_photo(path), place=str(path))
        except DataError as err:
            return {"status": "unreadable", "reason": str(err)}
        size = (rgb.shape[0], rgb.shape[1])
        trouble = landmark_trouble(photo.landmarks, size, max_misfit_px=self.max_misfit_px)
        if trouble is not None:
            status, why = trouble
            return {"status": status, "reason": f"{photo.path}: {why}"}
        content = encode_jpeg(align(rgb, photo.landmarks, self.size), self.quality)
        write_by_way_of(self.folder.staging / f"{photo.line}.part", self.folder.output / photo.crop, content)
        return {"status": "ok", "crop": photo.crop}
