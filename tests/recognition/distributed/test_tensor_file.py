"""The files are those of safetensors, bit for bit, with the checksum of what reached the disk."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from recognition.distributed.tensor_file import (
    Canceled,
    FileFacts,
    check_tensor_file,
    open_tensor_file,
    write_tensor_file,
)
from recognition.errors import CheckpointError

TENSORS = {
    "wide": torch.arange(5, dtype=torch.float64),
    "weight": torch.randn(40, 3, 3, generator=torch.Generator().manual_seed(0)),
    "half": torch.arange(6).to(torch.float16),
    "brain": torch.arange(6).to(torch.bfloat16),
    "byte": torch.arange(-3, 4, dtype=torch.int8),
    "flag": torch.tensor([True, False]),
    "count": torch.tensor(7),
    "none": torch.zeros(0, 4),
}


def test_the_library_reads_and_would_have_written_the_same_file(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    facts = write_tensor_file(ours, TENSORS)
    save_file(TENSORS, theirs)
    assert ours.read_bytes() == theirs.read_bytes()
    assert facts == FileFacts(ours.stat().st_size, zlib.crc32(ours.read_bytes()))
    check_tensor_file(ours, facts)
    found = load_file(ours)
    assert found.keys() == TENSORS.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in TENSORS.items()
    )


def test_a_file_of_several_chunks_has_one_checksum(tmp_path: Path) -> None:
    tensor = torch.arange(3_000_000, dtype=torch.float32)
    facts = write_tensor_file(tmp_path / "large", {"x": tensor})
    assert facts.crc32 == zlib.crc32((tmp_path / "large").read_bytes())
    assert torch.equal(load_file(tmp_path / "large")["x"], tensor)


def test_a_canceled_writer_stops(tmp_path: Path) -> None:
    with pytest.raises(Canceled):
        write_tensor_file(tmp_path / "x", TENSORS, is_canceled=lambda: True)


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\xff" * 64, b"\x08\0\0\0\0\0\0\0{}      garbage"])
def test_what_is_no_such_file_is_one_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(CheckpointError, match="x: cannot be read as tensors"), open_tensor_file(tmp_path / "x"):
        pass
