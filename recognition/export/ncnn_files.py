"""ncnn's two files, .param and .bin, by way of pnnx."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import torch
from torch import nn

from recognition.errors import CheckpointError
from recognition.work.extras import import_extra

_TRACED, _PARAM, _BIN = "model.pt", "model.ncnn.param", "model.ncnn.bin"
_LONGEST_S = 3600
INPUT, OUTPUT = "in0", "out0"
"""The names of the blobs, which pnnx gives."""


def convert_to_ncnn(module: nn.Module, side: int, folder: Path, *, half: bool, place: Path) -> tuple[Path, Path]:
    """Write the network into `folder`, in evaluation mode, for one image [3, side, side]; return .param and .bin.

    `half` stores the weights as float16. Raises ConfigError without pnnx, CheckpointError when it fails.
    """
    program = Path(import_extra("pnnx").__file__).parent / "pnnx"
    example = torch.zeros(1, 3, side, side)
    with torch.no_grad():
        torch.jit.trace(module, example, check_trace=False).save(str(folder / _TRACED))
    command = [str(program), _TRACED, f"inputshape=[1,3,{side},{side}]f32", f"fp16={int(half)}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=_LONGEST_S)
    files = folder / _PARAM, folder / _BIN
    if done.returncode or not all(file.is_file() and file.stat().st_size for file in files):
        reason = (done.stderr.strip().splitlines() or ["no file"])[-1]
        raise CheckpointError(
            f"{place}: pnnx cannot convert the network (exit {done.returncode}, {reason[:200]}); expected operators "
            "that ncnn has; export to .onnx"
        )
    return files


class NcnnNetwork:
    """ncnn's files on one thread of the CPU, in float32 whatever the weights are stored in."""

    def __init__(self, param: Path, weights: Path) -> None:
        self._ncnn = import_extra("ncnn")
        self._network = self._ncnn.Net()
        for name in ("use_vulkan_compute", "use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
            setattr(self._network.opt, name, False)
        self._network.opt.use_bf16_storage = False
        self._network.opt.num_threads = 1
        if self._network.load_param(str(param)) or self._network.load_model(str(weights)):
            raise CheckpointError(f"{param}: ncnn does not read it; expected what pnnx writes; report this")

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return embeddings [n, D] for images float32 [n, 3, S, S], one after the other."""
        return np.stack([self._one(image) for image in images])

    def _one(self, image: np.ndarray) -> np.ndarray:
        extractor = self._network.create_extractor()
        extractor.input(INPUT, self._ncnn.Mat(np.ascontiguousarray(image)))
        code, found = extractor.extract(OUTPUT)
        if code:
            raise CheckpointError(f"ncnn: does not run the network (code {code}); expected embeddings; export to .onnx")
        return np.array(found).reshape(-1)
