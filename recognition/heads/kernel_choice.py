"""Whether the fused kernels take a block's elementwise part: where they apply, and Triton can build them."""

from __future__ import annotations

import functools
import importlib.util
import logging
from typing import Any

import torch

logger = logging.getLogger(__name__)


def load_kernels(*, is_bounded: bool, is_plain: bool, dtype: torch.dtype, device: torch.device) -> Any:
    """Return the module of fused kernels where they apply and Triton can build them, else None.

    Triton is in every CUDA build of torch, and needs a C compiler and Python's headers when a kernel first runs.
    """
    if not (is_bounded and is_plain and dtype == torch.float32 and _has_triton()):
        return None
    return _tried_kernels(device)


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _tried_kernels(device: torch.device) -> Any:
    """Return the kernels if each of them runs on a tile of a few elements; warn once and return None if not."""
    try:
        from recognition.heads import fused_triton  # it cannot be imported without Triton

        fused_triton.try_all(device)
    except Exception as err:  # a compiler's, a driver's, Triton's own: none of them may stop a run
        found = str(err).strip().partition("\n")[0][:200]
        logger.warning(
            "head: Triton cannot run its kernels on %s (%s: %s); expected a C compiler and Python.h; plain operations "
            "take their place; install gcc and python3-dev, or set head.kernels=false to try no more",
            device,
            type(err).__name__,
            found,
        )
        return None
    return fused_triton
