import pytest
import torch

from recognition.distributed.world import World
from recognition.training.shortage import MemoryShortage, shortages_told

WORLD = World(rank=3, size=4, local_rank=3, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore."), "CUDA out of memory. Tried"),
        (MemoryError("Unable to allocate 1.0 PiB"), "Unable to allocate 1.0 PiB"),
        (MemoryError(), "no memory is left"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "ALLOC_FAILED"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "CUDNN_STATUS_ALLOC_FAILED"),
        (RuntimeError("NCCL error: unhandled cuda error\nLast error:\nFailed to CUDA calloc 6291456 bytes"), "NCCL"),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), "CUDA error: out of memory"),
        (RuntimeError("Triton Error [CUDA]: out of memory"), "Triton Error [CUDA]: out of memory"),
    ],
)
def test_a_shortage_is_one_line_that_says_what_to_lower(error: Exception, found: str) -> None:
    answer = r"rank 3 on cpu: .*--check.*train\.batch_size"
    with pytest.raises(MemoryShortage, match=answer) as told, shortages_told(WORLD):
        raise error
    assert found in str(told.value)
    assert "More" not in str(told.value)


def test_what_torch_cannot_allocate_is_told() -> None:
    with pytest.raises(MemoryShortage, match="tried to allocate 400000000000000 bytes"), shortages_told(WORLD):
        torch.empty(10**14)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), shortages_told(WORLD):
        raise RuntimeError("shapes differ")
