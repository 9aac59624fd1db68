"""Open ONNX files: the one place for both onnxruntime and the onnx package, which are extras. Torch-free.

A file is looked at first (`onnx_guard`); what its graph then computes is bounded here, in memory by a limit on the
address space, and in time by what a network of its size costs.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recognition.errors import CheckpointError
from recognition.work.extras import import_extra
from recognition.work.memory_limit import limited_memory
from recognition.work.onnx_guard import check_onnx

_FATAL = 4  # onnxruntime's: it prints nothing of its own beside the error that is raised
_SPARE_BYTES = 384 << 20
_BYTES_PER_FILE_BYTE = 6  # the parsed file, its weights, and these packed for the processor
_BYTES_PER_INPUT_BYTE = 160  # a deep network at 112 pixels keeps some 85 times its input
_SPARE_S = 2.0
_S_PER_WEIGHT_BYTE_AND_ELEMENT = 5e-11  # a convolution of four bytes at every place, at half a GFLOP/s
_POLL_S = 0.1


class OnnxSession:
    """An opened ONNX file; `run` raises CheckpointError for whatever goes wrong in it."""

    def __init__(self, session: Any, path: Path, run_options: Any) -> None:
        self._session, self._path, self._run_options = session, path, run_options
        self._file_bytes = path.stat().st_size

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, names: Sequence[str] | None, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the outputs `names` (all, where None) for the inputs."""
        num_bytes = sum(array.nbytes for array in inputs.values())
        elements = sum(array.size for array in inputs.values())
        options = self._run_options()
        seconds = _SPARE_S + _S_PER_WEIGHT_BYTE_AND_ELEMENT * self._file_bytes * elements
        is_late = threading.Event()
        try:
            memory = _SPARE_BYTES + _BYTES_PER_INPUT_BYTE * num_bytes + self._file_bytes
            with limited_memory(memory), _ended_after(seconds, options, is_late):
                found: list[np.ndarray] = self._session.run(names, dict(inputs), options)
        except Exception as err:  # onnxruntime raises kinds of its own, one per cause
            shapes = ", ".join(str(list(array.shape)) for array in inputs.values())
            reason = f"over {seconds:,.0f} s of processor time" if is_late.is_set() else _reason(err)
            raise CheckpointError(
                f"{self._path}: does not run on {shapes} ({reason}); expected a network for these; export it for their "
                "size, or use another file"
            ) from err
        return found


def open_onnx(path: Path, *, threads: int = 1) -> OnnxSession:
    """Open an ONNX file on the CPU; ConfigError without onnxruntime, CheckpointError when it cannot be read."""
    onnxruntime = import_extra("onnxruntime")
    _check_file(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _FATAL
    try:
        with limited_memory(_SPARE_BYTES + _BYTES_PER_FILE_BYTE * path.stat().st_size):
            session = onnxruntime.InferenceSession(
                str(path),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=["ConstantFolding"],  # it computes here, where nothing ends it
            )
    except Exception as err:  # onnxruntime raises kinds of its own, one per cause
        raise CheckpointError(f"{path}: cannot be read as ONNX ({_reason(err)}); check the file") from err
    return OnnxSession(session, path, onnxruntime.RunOptions)


def read_graph(path: Path) -> Any:
    """Return the ModelProto of an ONNX file, without weights that lie in other files; errors as for `open_onnx`."""
    onnx = import_extra("onnx")
    _check_file(path)
    try:
        return onnx.load(str(path), load_external_data=False)
    except Exception as err:  # protobuf's parsers raise kinds of their own
        raise CheckpointError(f"{path}: cannot be read as ONNX ({_reason(err)}); check the file") from err


def _check_file(path: Path) -> None:
    if not path.exists():
        raise CheckpointError(f"{path}: no such file; expected an ONNX file; check the path")
    check_onnx(path)


@contextlib.contextmanager
def _ended_after(seconds: float, options: Any, is_late: threading.Event) -> Iterator[None]:
    """Have onnxruntime end after the operator in which this thread's processor time is over."""
    clock = getattr(time, "pthread_getcpuclockid", None)
    if clock is None:
        yield
        return
    thread = clock(threading.get_ident())
    start = time.clock_gettime(thread)
    is_done = threading.Event()

    def watch() -> None:
        while not is_done.wait(_POLL_S):
            if time.clock_gettime(thread) - start > seconds:
                is_late.set()
                options.terminate = True
                return

    watcher = threading.Thread(target=watch, name="onnx", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_done.set()
        watcher.join()


def _reason(err: BaseException) -> str:
    return (" ".join(str(err).split()) or type(err).__name__)[:200]
