"""Whether the fused kernels take a block's elementwise part: where they apply, and Triton can build them."""

from __future__ import annotations

import functools
import importlib.util
import logging
from typing import Any

import torch

from recognition.heads.block_loop import BlockLoop

logger = logging.getLogger(__name__)


def load_kernels(loop: BlockLoop) -> Any:
    """Return the module of kernels between products where they apply and Triton can build them, else None.

    Triton is in every CUDA build of torch, and needs a C compiler and Python's headers when a kernel first runs.
    """
    if not (loop.fits_kernels and loop.state.dtype == torch.float32 and _has_triton()):
        return None
    return _tried_kernels(loop.state.centers.device)


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
