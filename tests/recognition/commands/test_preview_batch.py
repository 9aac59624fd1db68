from pathlib import Path

import cv2
import numpy as np
import pytest

from recognition.commands.preview_batch import main

SYNTHETIC = ["data.rec=synthetic", "data.num_classes=5", "data.num_image=50", "data.image_size=32"]


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "run.yaml").write_text("seed: 3\n")
    return str(tmp_path / "run.yaml")


def test_rows_are_the_stored_images_and_their_epochs(config: str, tmp_path: Path, capsys) -> None:
    out = tmp_path / "preview.png"
    command = [config, str(out), *SYNTHETIC, "augment.preset=adaface", "--images", "6", "--epochs", "3"]
    assert main(command) == 0
    assert capsys.readouterr().out == f"wrote {out}: 4 rows of 6 images\n"
    picture = cv2.imread(str(out))
    assert picture.shape == (4 * 36, 92 + 6 * 36, 3)
    rows = picture.reshape(4, 36, -1, 3)[:, :, 92:]
    assert not np.array_equal(rows[1], rows[2])
    assert main(command) == 1
    assert "exists already; expected a new path; pass --overwrite" in capsys.readouterr().err


def test_without_augmentation_every_epoch_shows_the_images_as_stored_or_mirrored(config: str, tmp_path: Path) -> None:
    out = tmp_path / "preview.png"
    assert main([config, str(out), *SYNTHETIC, "--images", "8", "--epochs", "2"]) == 0
    tiles = cv2.imread(str(out))[:, 92:].reshape(3, 36, 8, 36, 3).swapaxes(1, 2)
    for row in tiles[1:]:
        mirrored = [np.array_equal(tile, stored[:, ::-1]) for tile, stored in zip(row, tiles[0], strict=True)]
        kept = [np.array_equal(tile, stored) for tile, stored in zip(row, tiles[0], strict=True)]
        assert all(a or b for a, b in zip(mirrored, kept, strict=True))
        assert any(mirrored)
        assert any(kept)


def test_sheet_shows_each_operation(config: str, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    assert main([config, str(out), *SYNTHETIC, "--sheet", "--images", "4"]) == 0
    rows = cv2.imread(str(out)).reshape(11, 36, -1, 3)[:, :, 92:]
    assert all(not np.array_equal(row, rows[0]) for row in rows[1:])
