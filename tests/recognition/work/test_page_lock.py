"""A refusal to page-lock memory is a warning, and stays the only thing that comes of it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from recognition.work.page_lock import lock_pages


class Cuda:
    """CUDA's last error as far as it matters here: set by a refusal, raised and unset by the next kernel."""

    last_error = 0

    def cudaHostRegister(self, pointer: int, size: int, flags: int) -> int:
        self.last_error = 304
        return self.last_error

    def launch(self, *args: Any, **settings: Any) -> None:
        error, self.last_error = self.last_error, 0
        if error:
            raise RuntimeError(f"CUDA error {error}")


def test_the_error_of_a_refusal_is_taken_up_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cuda = Cuda()
    memory = torch.empty(1 << 20, dtype=torch.uint8)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: cuda)
    monkeypatch.setattr(torch, "zeros", cuda.launch)
    with caplog.at_level(logging.WARNING):
        lock_pages(memory, memory)
    assert "cannot page-lock 1.0 MiB (CUDA error 304); copies will wait" in caplog.text
    cuda.launch()  # the first kernel of the step
