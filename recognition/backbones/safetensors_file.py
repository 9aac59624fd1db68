"""Weights as a safetensors file with our metadata in its header; nothing in such a file can run."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from recognition.errors import CheckpointError

SUFFIX = ".safetensors"
_MAX_HEADER_BYTES = 1 << 23  # a thousand tensors take 100 kB; the library would parse 100 MB


def write_safetensors(path: Path, state: Mapping[str, Tensor], *, metadata: Mapping[str, str]) -> None:
    """Write contiguous CPU tensors to `path` with `metadata` in the header; equal content gives equal bytes.

    Raises OSError: the library's own writer has an error of its own for a full disk.
    """
    path.write_bytes(save(dict(state), metadata=dict(metadata)))


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a file, which are pages of it, and its metadata.

    CheckpointError when it cannot be read, is no plain file, or its header is longer than that of any network.
    """
    try:
        _check_header(path)
        with safe_open(path, framework="pt") as handle:
            names: list[str] = list(handle.keys())  # the handle is no mapping
            return {name: handle.get_tensor(name) for name in names}, handle.metadata() or {}
    # What the library raises for a type of numbers that torch lacks has no common class.
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as err:
        reason = (err.strerror if isinstance(err, OSError) else "") or " ".join(str(err).split())
        raise CheckpointError(
            f"{path}: cannot be read as weights ({reason[:120]}); expected a safetensors file; take another file"
        ) from err


def _check_header(path: Path) -> None:
    # Not waiting for a writer, should it be a pipe.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as handle:
        if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
            raise ValueError("it is no plain file")
        start = handle.read(8)
    if len(start) < 8:
        raise ValueError("it is cut off")
    (length,) = struct.unpack("<Q", start)
    if length > _MAX_HEADER_BYTES:
        raise ValueError(f"its header claims {length:,} bytes")
