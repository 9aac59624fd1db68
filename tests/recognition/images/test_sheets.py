"""Tiles on sheets: every picture where the plan says, fitted, and never missing in silence."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recognition.errors import DataError
from recognition.images.codec import decode_rgb, encode_jpeg
from recognition.images.sheets import COLUMNS, TILE_PX, TILES, Plan, draw_sheet

ROWS = st.lists(st.lists(st.integers(0, 200).map(str), min_size=1, max_size=7), max_size=80)


@given(ROWS)
def test_a_row_finds_its_pictures_together_on_one_sheet(rows: list[list[str]]) -> None:
    plan = Plan()
    for row in rows:
        tiles = plan.place(row)
        assert len({tile // TILES for tile in tiles}) == 1
        assert [plan.sheets[tile // TILES][tile % TILES] for tile in tiles] == row
    assert all(len(set(sheet)) == len(sheet) <= TILES for sheet in plan.sheets)


def _smooth(seed: int, height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)


def test_pictures_of_any_size_are_fitted_to_their_tiles(tmp_path: Path) -> None:
    sizes = [(112, 112), (200, 100), (30, 60), (1, 1), (1, 400)] * 2
    pictures = [_smooth(seed, *size) for seed, size in enumerate(sizes)]
    for number, picture in enumerate(pictures):
        (tmp_path / f"{number}.jpg").write_bytes(encode_jpeg(picture, 100))
    sheet = decode_rgb(draw_sheet(tmp_path, [f"{number}.jpg" for number in range(10)]), place="sheet").astype(int)
    assert sheet.shape == (COLUMNS * TILE_PX, COLUMNS * TILE_PX, 3)
    for number, picture in enumerate(pictures):
        top, left = number // COLUMNS * TILE_PX, number % COLUMNS * TILE_PX
        tile = sheet[top : top + TILE_PX, left : left + TILE_PX]
        scale = TILE_PX / max(picture.shape[:2])
        height, width = (max(1, round(length * scale)) for length in picture.shape[:2])
        y, x = (TILE_PX - height) // 2, (TILE_PX - width) // 2
        expected = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        assert np.abs(tile[y : y + height, x : x + width] - expected).mean() < (6 if height > 1 else 40)
        bars = np.pad(np.ones((TILE_PX - 2, TILE_PX - 2), bool), 1)  # decoders smooth color over a block's edge
        bars[max(0, y - 16) : y + height + 16, max(0, x - 16) : x + width + 16] = False  # where JPEG blurs the edge
        assert np.abs(tile[bars] - 128).max(initial=0) < 8
    assert np.abs(sheet[2 * TILE_PX + 1 :] - 128).max() < 3, "gray where no picture is left"


def test_a_picture_that_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jpg: cannot be read .*; expected an image file"):
        draw_sheet(tmp_path, ["gone.jpg"])
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(DataError, match=r"text\.jpg: not an image"):
        draw_sheet(tmp_path, ["text.jpg"])
