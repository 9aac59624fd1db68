"""Open ONNX files with onnxruntime, which is an extra. Torch-free."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from recognition.errors import CheckpointError, ConfigError


def open_onnx(path: Path, *, threads: int = 1) -> Any:
    """Open an ONNX file on the CPU; ConfigError without onnxruntime, CheckpointError when it cannot be read."""
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError as err:
        raise ConfigError(f"onnxruntime: cannot be imported ({err}); run: pip install onnxruntime") from err
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected an ONNX file; check the path")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as err:  # onnxruntime raises kinds of its own, one per cause
        raise CheckpointError(f"{path}: cannot be read as ONNX ({str(err).splitlines()[0]}); check the file") from err
