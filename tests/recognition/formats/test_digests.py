"""Checksums find what no decoder does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recognition.commands import check_rec, pack_rec
from recognition.images.codec import encode_jpeg


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    for person in ("a", "b"):
        for number in range(2):
            path = tmp_path / "faces" / person / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
            path.write_bytes(encode_jpeg(noise))
    assert pack_rec.main([str(tmp_path / "faces"), str(tmp_path / "set" / "train"), "--digests", "--quiet"]) == 0
    return tmp_path / "set" / "train.rec"


def test_every_flipped_bit_is_named(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_rec.main([str(packed), "--quiet"]) == 0
    whole = packed.read_bytes()
    at = whole.index(b"\xff\xda") + 40
    for bit in range(0, 8 * 60, 37):
        damaged = bytearray(whole)
        damaged[at + bit // 8] ^= 1 << bit % 8
        packed.write_bytes(damaged)
        assert check_rec.main([str(packed), "--quiet"]) == 1
        assert (
            "record 1 at offset 0: has the checksum" in (out := capsys.readouterr().out)
            and "expected the" in out
            and "of train.crc" in out
        )


def test_a_file_of_another_set_or_none_is_told(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crc = packed.with_suffix(".crc")
    lines = crc.read_text().splitlines()
    assert len(lines) == 4 + 2 + 1 and lines[0].startswith("1\t") and lines[-1].startswith("0\t")
    crc.write_text("\n".join(lines[1:]) + "\n")
    assert check_rec.main([str(packed), "--quiet"]) == 1
    assert "has 6 checksums for 7 records" in (out := capsys.readouterr().out) and "is not in train.crc" in out
    crc.write_text("1\tnothing\n")
    assert check_rec.main([str(packed), "--quiet"]) == 1
    assert "train.crc:1: '1\\tnothing'; expected `key TAB crc32`" in capsys.readouterr().err


def test_packing_anew_without_checksums_removes_the_old_ones(packed: Path) -> None:
    faces = packed.parent.parent / "faces"
    assert pack_rec.main([str(faces), str(packed), "--quiet"]) == 1
    assert pack_rec.main([str(faces), str(packed), "--quiet", "--overwrite"]) == 0
    assert not packed.with_suffix(".crc").exists() and check_rec.main([str(packed), "--quiet"]) == 0
