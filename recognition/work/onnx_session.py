"""Open ONNX files: the one place for both onnxruntime and the onnx package, which are extras. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recognition.errors import CheckpointError
from recognition.work.extras import import_extra

_FATAL = 4  # onnxruntime's: it prints nothing of its own beside the error that is raised


def open_onnx(path: Path, *, threads: int = 1) -> Any:
    """Open an ONNX file on the CPU; ConfigError without onnxruntime, CheckpointError when it cannot be read."""
    onnxruntime = import_extra("onnxruntime")
    _check_file(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _FATAL
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as err:  # onnxruntime raises kinds of its own, one per cause
        raise CheckpointError(f"{path}: cannot be read as ONNX ({str(err).splitlines()[0]}); check the file") from err


def read_graph(path: Path) -> Any:
    """Return the ModelProto of an ONNX file, without weights that lie in other files; errors as for `open_onnx`."""
    onnx = import_extra("onnx")
    _check_file(path)
    try:
        return onnx.load(str(path), load_external_data=False)
    except Exception as err:  # protobuf's parsers raise kinds of their own
        raise CheckpointError(f"{path}: cannot be read as ONNX ({str(err).splitlines()[0]}); check the file") from err


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected an ONNX file; check the path")
