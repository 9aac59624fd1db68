"""Products in bfloat16 sum into float32, or are refused."""

from __future__ import annotations

import types

import pytest
import torch

from recognition.errors import ConfigError
from recognition.heads.products import check_products, multiply, product_precision


def test_bf16_products_are_refused_where_cuda_would_round_their_result(monkeypatch: pytest.MonkeyPatch) -> None:
    old = types.SimpleNamespace(overloads=lambda: ["default", "out"])
    monkeypatch.setattr(torch.ops.aten, "mm", old)
    check_products("bf16", torch.device("cpu"))
    check_products("float32", torch.device("cuda"))
    with pytest.raises(ConfigError, match=r"head\.products: found 'bf16' with torch .* 2\.8 or newer"):
        check_products("bf16", torch.device("cuda"))


@pytest.mark.parametrize("kind", ["float32", "bf16"])
def test_the_sums_of_a_product_are_float32(kind: str) -> None:
    # 513 needs ten bits; a bfloat16 has eight.
    left, right = torch.full((4, 512), 1.0), torch.full((512, 4), 1.0)
    right[0] = 2.0
    with product_precision(kind, torch.device("cpu")):  # type: ignore[arg-type]
        out = multiply(left, right, torch.empty(4, 4), kind)  # type: ignore[arg-type]
    assert torch.equal(out, torch.full((4, 4), 513.0))
