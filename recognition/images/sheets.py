"""Pictures as tiles of a few large JPEGs, which a browser opens faster than thousands of small ones. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from recognition.images.codec import encode_jpeg
from recognition.images.photos import decode_photo, read_photo

TILE_PX = 112
"""A multiple of the 16 pixels in which JPEG stores color, so that tiles share no block."""

COLUMNS = 8
TILES = COLUMNS * COLUMNS
"""On a sheet: 0.8 megapixels, decoded between two frames. Sheets 16 times as large stalled scrolling for 117 ms."""

_QUALITY = 85


@dataclass
class Plan:
    """Which picture lies on which sheet: tile number = sheet * TILES + place, row by row."""

    sheets: list[list[str]] = field(default_factory=lambda: [[]])

    def place(self, pictures: Sequence[str]) -> list[int]:
        """Give the pictures, at most TILES, tiles on one sheet and return these; a sheet holds each only once."""
        assert len(set(pictures)) <= TILES, "more pictures at once than a sheet holds"
        sheet = self.sheets[-1]
        missing = [picture for picture in dict.fromkeys(pictures) if picture not in sheet]
        if len(sheet) + len(missing) > TILES:
            sheet, missing = [], list(dict.fromkeys(pictures))
            self.sheets.append(sheet)
        sheet.extend(missing)
        first = (len(self.sheets) - 1) * TILES
        return [first + sheet.index(picture) for picture in pictures]


def draw_sheet(faces: Path, pictures: Sequence[str]) -> bytes:
    """Return a JPEG of the pictures below `faces` as tiles in rows of COLUMNS, gray where none is left.

    Raises DataError when a picture is missing or does not decode.
    """
    return join_tiles(_read(faces / picture) for picture in pictures)


def join_tiles(pictures: Iterable[np.ndarray]) -> bytes:
    """Return a JPEG of at most TILES pictures, uint8 [H, W, 3] RGB, as tiles in rows of COLUMNS."""
    side = COLUMNS * TILE_PX
    sheet = np.full((side, side, 3), 128, np.uint8)
    for number, rgb in enumerate(pictures):
        top, left = (TILE_PX * index for index in divmod(number, COLUMNS))
        sheet[top : top + TILE_PX, left : left + TILE_PX] = fit_tile(rgb)
    return encode_jpeg(sheet, _QUALITY)


def _read(path: Path) -> np.ndarray:
    return decode_photo(read_photo(path), place=str(path))


def fit_tile(rgb: np.ndarray) -> np.ndarray:
    """Return a picture scaled to fit a tile, uint8 [TILE_PX, TILE_PX, 3] RGB, with gray bars where it is not square."""
    height, width = rgb.shape[:2]
    scale = TILE_PX / max(height, width)
    if scale != 1:
        smaller = (max(1, round(width * scale)), max(1, round(height * scale)))
        rgb = cv2.resize(rgb, smaller, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = ((TILE_PX - length) // 2 for length in rgb.shape[:2])
    tile = np.full((TILE_PX, TILE_PX, 3), 128, np.uint8)
    tile[top : top + rgb.shape[0], left : left + rgb.shape[1]] = rgb
    return tile
