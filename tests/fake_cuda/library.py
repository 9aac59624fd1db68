"""Build and load the CUDA device of device.cpp, before torch is imported."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

_IMPLEMENTED: list[Any] = []  # what is registered with torch lasts as long as its library object
_SOURCE = Path(__file__).with_name("device.cpp")
TORCH = "2.13"
"""The torch whose headers the source was written for; what ATen asks a device changes from one to the next."""


def reason_to_skip() -> str | None:
    """Return why there is no fake CUDA on this machine, None when there is. Imports no torch."""
    version = importlib.metadata.version("torch")
    if not version.startswith(TORCH + "."):
        return f"torch is {version}; the fake CUDA device is of torch {TORCH}"
    if shutil.which("g++") is None:
        return "no g++ on this machine; the fake CUDA device is C++"
    if not list((_torch_folder() / "lib").glob("libtorch_cpu.so")) or list(
        (_torch_folder() / "lib").glob("libtorch_cuda*")
    ):
        return "this torch is no CPU build for Linux; the fake CUDA device takes the real one's place"
    return None


def build() -> Path:
    """Return the shared library, compiled once for this source and this torch."""
    torch = _torch_folder()
    mark = hashlib.sha256(_SOURCE.read_bytes() + str(torch).encode()).hexdigest()[:16]
    target = Path(tempfile.gettempdir()) / f"arcshard_fake_cuda_{mark}.so"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "fake.so"
        flags = ["-std=c++17", "-O0", "-shared", "-fPIC", "-isystem", str(torch / "include"), f"-L{torch / 'lib'}"]
        command = ["g++", *flags, str(_SOURCE), "-o", str(made), "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{torch / 'lib'}"]
        subprocess.run(command, check=True)
        shutil.copy2(made, f"{target}.part")
    Path(f"{target}.part").replace(target)
    return target


def load() -> None:
    """Make `cuda:0` to `cuda:7` exist in this process, as devices without memory."""
    ctypes.CDLL(str(build()))
    import torch

    from tests.fake_cuda import streams

    torch.cuda.Stream = streams.FakeStream  # type: ignore[assignment,misc]
    torch.cuda.stream, torch.cuda.current_stream = streams.enter, streams.current  # type: ignore[assignment]
    _IMPLEMENTED.append(torch.library.Library("aten", "IMPL", "Meta"))
    # What the Python side asks instead of ATen. An H200's answers.
    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: 8
    torch.cuda.current_device = lambda: 0
    torch.cuda.is_bf16_supported = lambda including_emulation=True: True
    torch.cuda.get_device_capability = lambda device=None: (9, 0)
    torch.cuda.is_current_stream_capturing = lambda: False
    torch.nn.Module.to = _moved  # type: ignore[method-assign,assignment]
    for name in ("_fused_sgd_", "_fused_adamw_"):  # torch has no rule for what they return, which is nothing
        _IMPLEMENTED[-1].impl(name, lambda *args, **kwargs: None)
    for name, rule in _NORM_RULES.items():
        _IMPLEMENTED[-1].impl(name, rule)


def _like_channels(x: Any, count: int) -> Any:
    return tuple(x.new_empty(x.shape[1], dtype=_precise(x)) for _ in range(count))


def _like(x: Any) -> Any:
    import torch

    return torch.empty_like(x)


def _precise(x: Any) -> Any:
    import torch

    return torch.promote_types(x.dtype, torch.float32)


_NORM_RULES: dict[str, Any] = {  # the kernels of nn.SyncBatchNorm, of which torch says nothing without CUDA
    "batch_norm_stats": lambda x, eps: _like_channels(x, 2),
    "batch_norm_gather_stats_with_counts": lambda x, *rest: _like_channels(x, 2),
    "batch_norm_elemt": lambda x, *rest: _like(x),
    "batch_norm_backward_reduce": lambda gradient, x, *rest: _like_channels(x, 4),
    "batch_norm_backward_elemt": lambda gradient, x, *rest: _like(x),
}


def _moved(module: Any, *args: Any, **kwargs: Any) -> Any:
    """Do what Module.to does by new parameters: torch's own swaps tensors, which those of FakeTensorMode refuse."""
    from torch import nn

    for each in module.modules():
        for name, value in each._parameters.items():
            if value is not None:
                each._parameters[name] = nn.Parameter(_changed(value.detach(), *args, **kwargs), value.requires_grad)
        for name, value in each._buffers.items():
            if value is not None:
                each._buffers[name] = _changed(value, *args, **kwargs)
    return module


def _changed(value: Any, *args: Any, **kwargs: Any) -> Any:
    return value if kwargs.get("memory_format") is not None and value.ndim != 4 else value.to(*args, **kwargs)


def _torch_folder() -> Path:
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None, "torch is installed"
    return Path(spec.origin).parent
