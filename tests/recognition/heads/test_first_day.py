"""What a GPU's first day would meet, shown on a CPU by stand-ins: no compiler, an older torch, unseen writes."""

from __future__ import annotations

import gc
import logging
import sys
import types
import weakref
from typing import Any

import pytest
import torch

from recognition.heads import kernel_choice, products
from recognition.heads.unit import unit_and_length
from tests.helpers.heads import batch, make_head, optimizer_of, take_step

CUDA = torch.device("cuda", 0)


def plain_kernels(**changes: Any) -> types.ModuleType:
    """Return a stand-in for fused_triton whose `update_` writes past torch, as Triton does."""
    module = types.ModuleType("fused_triton")

    def update_(centers: torch.Tensor, *rest: Any, **settings: Any) -> None:
        centers.numpy()[:] += 1

    members = {"try_all": lambda device: None, "update_": update_} | changes
    for name, value in members.items():
        setattr(module, name, value)
    return module


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return how to put a stand-in for the kernels in place."""

    def put(module: types.ModuleType) -> None:
        kernel_choice._tried_kernels.cache_clear()
        monkeypatch.setattr(kernel_choice, "_has_triton", lambda: True)
        monkeypatch.setitem(sys.modules, "recognition.heads.fused_triton", module)
        monkeypatch.setattr(sys.modules["recognition.heads"], "fused_triton", module, raising=False)

    yield put
    kernel_choice._tried_kernels.cache_clear()


def test_without_a_compiler_plain_operations_take_the_kernels_place(
    triton: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(device: torch.device) -> None:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nmore")

    triton(plain_kernels(try_all=fail))
    with caplog.at_level(logging.WARNING):
        heads = [make_head(20, mode="kernels") for _ in range(2)]
    assert all(head._loop.kernels is None for head in heads)
    assert len(caplog.records) == 1
    assert "RuntimeError: Failed to find C compiler" in caplog.text
    assert "head.kernels=false" in caplog.text
    take_step(heads[0], optimizer_of(heads[0]), batch(heads[0], 4))


def test_a_backward_after_the_kernels_have_moved_the_centers_is_refused(triton: Any) -> None:
    triton(plain_kernels())
    head = make_head(20, mode="kernels")
    assert head._loop.kernels is not None
    kernels, head._loop.kernels = head._loop.kernels, None
    optimizer = optimizer_of(head)
    late, loss = (head(*batch(head, 4, number)) for number in range(2))
    loss.backward()
    head._loop.kernels = types.SimpleNamespace(
        update_=kernels.update_,
        exponentials=lambda t, norms, *rest, out, **settings: out.zero_() is None or torch.zeros_like(norms),
    )
    optimizer.step()
    with pytest.raises(RuntimeError, match="backward after the centers have moved"):
        late.backward()


def test_a_row_of_length_one_has_no_gradient_along_itself() -> None:
    # x * (1 / x) is below 1 for some x: then the length is, and a clamp's gradient is 0 there (at 1 itself too, from
    # torch 2.14 on).
    entries = torch.arange(1.0, 200.0)
    rows = torch.diag(entries).requires_grad_()
    assert (entries * entries.reciprocal() < 1).any()
    unit, _ = unit_and_length(rows)
    unit.diagonal().sum().backward()
    assert rows.grad is not None
    assert float(rows.grad.diagonal().abs().max()) < 1e-6


def test_bf16_sums_fall_back_where_addmm_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = torch.randn(6, 5), torch.randn(5, 4)
    asked = []

    class OnCuda(torch.Tensor):
        device = CUDA

    def mm(a: torch.Tensor, b: torch.Tensor, *, out_dtype: torch.dtype) -> torch.Tensor:
        asked.append((a.dtype, b.dtype, out_dtype))
        return torch.matmul(a.float(), b.float()).as_subclass(torch.Tensor)

    monkeypatch.setattr(torch, "mm", mm)
    monkeypatch.setattr(products, "adds_in_float32", lambda device: False)
    expected = left.bfloat16().float() @ right.bfloat16().float()
    for keep in (0.0, 0.5):
        total = torch.full((6, 4), torch.nan if keep == 0 else 2.0)
        products.accumulate_(total, left.as_subclass(OnCuda), right.as_subclass(OnCuda), "bf16", keep=keep)
        assert torch.allclose(total, expected + (2.0 * keep if keep else 0.0))
    assert asked == [(torch.bfloat16, torch.bfloat16, torch.float32)] * 2


@pytest.mark.skipif("dtype" not in torch.ops.aten.addmm.overloads(), reason="this torch has no such operation")
def test_the_sum_is_asked_of_the_operation_and_not_of_its_name() -> None:
    assert "dtype" in torch.ops.aten.addmm.overloads()
    products.adds_in_float32.cache_clear()
    # This CPU build knows the overload and cannot compute it, as CUDA builds before 2.10.
    assert not products.adds_in_float32(torch.device("cpu"))


@pytest.mark.parametrize(
    ("asked", "device", "capability", "found"),
    [
        ("auto", "cpu", None, "float32"),
        ("auto", "cuda", (8, 0), "bf16"),
        ("auto", "cuda", (9, 0), "bf16"),
        ("auto", "cuda", (7, 5), "float32"),
        ("auto", "cuda", None, "bf16"),  # planned for, not here
        ("tf32", "cuda", (9, 0), "tf32"),
        ("float32", "cuda", (9, 0), "float32"),
    ],
)
def test_auto_is_bf16_from_ampere_on(
    asked: Any, device: str, capability: Any, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(products, "has_float32_sums", lambda: True)  # from torch 2.8 on
    assert products.resolve_products(asked, torch.device(device)) == found


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch before 2.9 has one switch for all products"
)
@pytest.mark.parametrize(("kind", "precision"), [("float32", "ieee"), ("bf16", "ieee"), ("tf32", "tf32")])
def test_a_heads_products_are_its_own_whatever_the_process_uses(kind: Any, precision: str) -> None:
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "tf32"
    try:
        with products.product_precision(kind, CUDA):
            assert matmul.fp32_precision == precision
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


def test_an_older_torch_turns_no_tf32_on_for_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda, "matmul", object())  # before 2.9: one switch for all
    set_to = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", set_to.append)
    with products.product_precision("bf16", CUDA):
        pass
    assert set_to[0] == "highest"


def test_a_step_of_autograd_leaves_nothing_for_the_garbage_collector() -> None:
    head = make_head(20, update="autograd")
    optimizer = optimizer_of(head)
    gc.collect()
    gc.disable()
    try:
        embeddings, labels = batch(head, 4)
        loss = head(embeddings, labels)
        node = weakref.ref(loss.grad_fn)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        del loss, embeddings, labels
        assert node() is None
    finally:
        gc.enable()
