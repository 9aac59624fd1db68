"""What a run asks of CUDA's libraries; torch keeps these settings on a CPU build too."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from recognition.config.schema import TrainConfig
from recognition.training.cuda_settings import settle_cuda

CUDA = torch.device("cuda", 0)


HAS_PRECISION = hasattr(torch.backends.cuda.matmul, "fp32_precision")


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before, precision = (cudnn.benchmark, cudnn.deterministic), getattr(matmul, "fp32_precision", None)
    yield
    cudnn.benchmark, cudnn.deterministic = before
    if precision is not None:
        matmul.fp32_precision = precision
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]


@pytest.mark.parametrize("is_promised", [True, False])
def test_one_order_of_sums_where_it_is_promised_else_the_fastest(is_promised: bool) -> None:
    settle_cuda(TrainConfig(deterministic=is_promised), CUDA)
    assert torch.backends.cudnn.deterministic == is_promised
    assert torch.backends.cudnn.benchmark != is_promised
    assert torch.are_deterministic_algorithms_enabled() == is_promised
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if is_promised else None)


@pytest.mark.skipif(not HAS_PRECISION, reason="torch before 2.9 has one switch for all products")
@pytest.mark.parametrize(("precision", "expected"), [("bf16", "tf32"), ("fp16", "tf32"), ("off", "ieee")])
def test_the_dense_layer_is_in_tf32_unless_all_is_to_be_float32(precision: str, expected: str) -> None:
    settle_cuda(TrainConfig(precision=precision), CUDA)  # type: ignore[arg-type]
    assert torch.backends.cuda.matmul.fp32_precision == expected


def test_a_cpu_is_left_as_it_is() -> None:
    def settings() -> tuple[bool, str]:
        precision = torch.backends.cuda.matmul.fp32_precision if HAS_PRECISION else torch.get_float32_matmul_precision()
        return torch.backends.cudnn.benchmark, precision

    before = settings()
    settle_cuda(TrainConfig(deterministic=True), torch.device("cpu"))
    assert not torch.are_deterministic_algorithms_enabled()
    assert settings() == before
