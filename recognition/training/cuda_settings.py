"""What a run asks of CUDA's libraries for the whole process."""

from __future__ import annotations

import torch

from recognition.config.schema import TrainConfig
from recognition.distributed.world import fix_cublas_order


def settle_cuda(train: TrainConfig, device: torch.device) -> None:
    """Choose cuDNN's and cuBLAS's algorithms, and TF32 for the network's dense layer; nothing on a CPU.

    With `train.deterministic` an operation without an order of its own is an error, which names it. Else cuDNN tries
    its algorithms out and takes the fastest, and no equality of bits is promised. TF32's ten bits are those that fp16
    has, in the one layer that leaves autocast; with train.precision off it stays IEEE float32.
    """
    if device.type != "cuda":
        return
    torch.backends.cudnn.benchmark = not train.deterministic
    torch.backends.cudnn.deterministic = train.deterministic
    if train.deterministic:
        fix_cublas_order()
        torch.use_deterministic_algorithms(True)
        # Nothing here reads memory that it has not written.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):
        matmul.fp32_precision = "ieee" if train.precision == "off" else "tf32"
    else:  # torch before 2.9
        matmul.allow_tf32 = train.precision != "off"
