"""HEIC and AVIF photos: readers that not every environment has. Torch-free."""

from __future__ import annotations

import re
from typing import Any

import cv2
import numpy as np

from recognition.errors import DataError
from recognition.images.damage import damaged
from recognition.images.jpeg import decode_with_opencv


def decode_heic(encoded: bytes, place: str) -> np.ndarray:
    """Decode the main picture into uint8 [H, W, 3] RGB, upright; DataError names the package that is missing."""
    reader = _pillow_heif(place)
    try:
        # libheif turns the picture as its own boxes say; the EXIF tag repeats that and is not applied again.
        picture = reader.open_heif(encoded, convert_hdr_to_8bit=True)
        rgb = np.array(picture.to_pillow().convert("RGB"))
    except (ValueError, RuntimeError, OSError, EOFError, SyntaxError) as err:
        raise damaged(place, f"does not decode ({err})") from err
    return rgb


def decode_avif(encoded: bytes, place: str) -> np.ndarray:
    """Decode the first picture into uint8 [H, W, 3] RGB; DataError when this OpenCV is built without AVIF."""
    if not re.search(r"AVIF:\s+(?!NO\b)\S", cv2.getBuildInformation()):
        raise DataError(
            f"{place}: is an AVIF, which this build of OpenCV does not read; expected a newer one; "
            "run: pip install --upgrade opencv-python-headless"
        )
    return decode_with_opencv(encoded, place)


def _pillow_heif(place: str) -> Any:
    try:
        import pillow_heif
    except ImportError as err:
        raise DataError(
            f"{place}: is an HEIC, and the package that reads it is not installed; expected pillow-heif; "
            "run: pip install pillow-heif"
        ) from err
    return pillow_heif
