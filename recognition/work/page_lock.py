"""Page-locked memory for copies that run beside a GPU's computation."""

from __future__ import annotations

import contextlib
import logging
import weakref

import torch

from recognition.console import size

logger = logging.getLogger(__name__)


def lock_pages(memory: torch.Tensor, owner: object) -> None:
    """Page-lock `memory`, which torch did not allocate as such, for as long as `owner` lives; warn when it cannot be.

    torch's own page-locked allocations are rounded up to a power of two.
    """
    error = int(torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), memory.nbytes, 0))
    if error:
        _take_up_error()
        logger.warning("cannot page-lock %s (CUDA error %d); copies will wait", size(memory.nbytes), error)
    else:
        weakref.finalize(owner, _unlock_pages, memory)


def _take_up_error() -> None:
    """Let CUDA's last error be raised here: it stays set after a refusal, and the next kernel of all would raise it."""
    with contextlib.suppress(RuntimeError):
        torch.zeros(1, device="cuda")


def _unlock_pages(memory: torch.Tensor) -> None:
    torch.cuda.cudart().cudaHostUnregister(memory.data_ptr())
