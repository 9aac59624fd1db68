"""Both passes by kernels with their products inside, in Triton's interpreter: against plain operations, and the oracle.

Most tests give products float32: the arithmetic is the same, and seen to 1e-5. What bf16 changes is bounded apart.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch

from recognition.heads.fused.path import why_not
from tests.helpers import head_oracle
from tests.helpers.fused_heads import BF16, assert_same, fused_head, give_path, need_triton, plain_head, spoil, trained
from tests.helpers.head_cases import CASES, LR, MOMENTUM, WEIGHT_DECAY, Case
from tests.helpers.heads import ALONE, batch, bits, make_head, optimizer_of, snapshot, take_step


@pytest.fixture(scope="module", autouse=True)
def triton() -> None:
    need_triton()


pytestmark = pytest.mark.slow

FORMATS = list(itertools.product(("float32", "bf16"), ("float32", "bf16", "int8", "none")))


@pytest.mark.parametrize(("centers", "momentum"), FORMATS)
def test_kernels_train_as_plain_operations_in_every_format(centers: Any, momentum: Any) -> None:
    formats = {"centers_format": centers, "momentum_format": momentum}
    # Where a value was rounded the other way a second step starts from another one.
    is_exact = centers == "float32" and momentum in ("float32", "none")
    tolerance = 1e-5 if is_exact else 1e-3
    assert_same(plain_head(75, **formats), fused_head(75, **formats), 9, tolerance, steps=3 if is_exact else 2)


@pytest.mark.parametrize(
    ("num_classes", "dim", "size", "changes"),
    [
        (2, 128, 1, {}),
        (31, 256, 17, {"block_size": 7}),
        (33, 512, 5, {}),
        (40, 768, 33, {}),
        (65, 128, 16, {"block_size": 64}),
        (75, 128, 9, {"interclass_filtering_threshold": 0.2}),
        (75, 128, 9, {"scale": 30.0, "seed": 9}),
        (97, 128, 9, {"sample_rate": 0.5}),
        (97, 128, 9, {"sample_rate": 0.3, "negatives": "nearest"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("variant", ["chunks", "on chip"])
def test_kernels_train_as_plain_operations_in_odd_shapes(
    num_classes: int, dim: int, size: int, changes: dict[str, Any], variant: str
) -> None:
    assert_same(plain_head(num_classes, dim, **changes), fused_head(num_classes, dim, variant=variant, **changes), size)


def test_sampled_rows_in_small_formats() -> None:
    changes = {"sample_rate": 0.5, "centers_format": "bf16", "momentum_format": "int8"}
    assert_same(plain_head(97, **changes), fused_head(97, **changes), 9, 1e-3, steps=2)


def test_several_backwards_are_one_pass_2() -> None:
    assert_same(plain_head(75), fused_head(75), 9, accumulated=3, steps=2)


def test_backwards_with_different_samples_take_the_plain_pass_2() -> None:
    changes = {"sample_rate": 0.4, "negatives": "nearest"}
    assert_same(plain_head(75, **changes), fused_head(75, **changes), 9, accumulated=2, steps=2)


def test_an_evaluation_forms_the_same_loss_without_a_gradient() -> None:
    heads = [head.eval() for head in (plain_head(75), fused_head(75))]
    with torch.no_grad():
        losses = [float(head(*batch(head, 9))) for head in heads]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_float32_becomes_bf16_as_on_a_gpu() -> None:
    """To the nearest, ties to even; the interpreter's own cast cuts off."""
    from tests.helpers.rounding_kernel import round_to

    lower = torch.randint(0, 1 << 16, (4096,), generator=torch.Generator().manual_seed(1))
    lower[:64], lower[64:128] = 1 << 15, (1 << 15) + 1  # ties, and just above them
    upper = torch.randint(0, 1 << 16, (4096,), generator=torch.Generator().manual_seed(2))
    upper[128:132] = torch.tensor([0x7F80, 0xFF80, 0x0000, 0x7F7F])  # infinite, NaN, below the normal, overflow
    values = (upper << 16 | lower).to(torch.int32).view(torch.float32)
    out = torch.zeros(4096, dtype=torch.bfloat16)
    round_to(values, out)
    expected = values.to(torch.bfloat16)
    assert torch.equal(out.isnan(), expected.isnan())
    assert torch.equal(out[~out.isnan()].view(torch.int16), expected[~out.isnan()].view(torch.int16))


@pytest.mark.parametrize("variant", ["chunks", "on chip"])
@pytest.mark.parametrize("changes", [{}, {"centers_format": "bf16", "momentum_format": "int8"}], ids=str)
def test_what_bf16_changes_is_bounded(changes: dict[str, Any], variant: Any) -> None:
    plain, fused = plain_head(75, **changes), fused_head(75, **changes)
    give_path(fused, torch.bfloat16, variant)
    (loss,), gradient = trained(plain, 9, steps=1, lr=0.1)
    (other,), other_gradient = trained(fused, 9, steps=1, lr=0.1)
    assert loss == pytest.approx(other, rel=BF16)
    assert float((gradient - other_gradient).abs().max() / gradient.abs().max()) < BF16
    difference = (plain.centers - fused.centers).float().abs().max() / plain.centers.float().abs().max()
    assert float(difference) < BF16


@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("changes", [{}, {"centers_format": "bf16", "momentum_format": "int8"}], ids=str)
def test_shadow_and_norms_follow_the_centers(changes: dict[str, Any], low: torch.dtype) -> None:
    head = fused_head(75, **changes)
    give_path(head, low)
    fused = head._loop.fused
    assert fused is not None
    trained(head, 9)
    for _ in range(2):
        lengths = torch.linalg.vector_norm(head.centers.float(), dim=1)
        assert torch.allclose(head.state.inverse_norm * lengths, torch.ones(75), atol=1e-6)
        spacing = 0.0 if low == torch.float32 else BF16
        assert torch.allclose(fused.shadow.float(), head.centers.float(), rtol=spacing, atol=0)
        head.set_centers(0, torch.randn(75, 128).to(head.centers.dtype))  # by somebody else
        take_step(head, optimizer_of(head), batch(head, 9))


@pytest.mark.parametrize("variant", ["chunks", "on chip"])
@pytest.mark.parametrize("place", ["center", "image", "factor"])
def test_a_refused_step_leaves_every_bit(place: str, variant: Any) -> None:
    head = fused_head(75, variant=variant, centers_format="bf16", momentum_format="int8")
    trained(head, 9)
    rows, labels = batch(head, 9)
    factor = spoil(head, rows, place)
    before = snapshot(head)
    _, gradient, refused = take_step(head, optimizer_of(head), (rows, labels), factor=factor)
    assert refused
    assert place == "image" or not gradient.any()  # a NaN's own row stays one
    for name, kept in head.state_rows().items():
        assert torch.equal(bits(kept), bits(before[name])), name


ELIGIBLE = [
    case
    for case in CASES
    if case.dtype == torch.float64
    and case.margin in ("combined", "adaface", "by_class")
    and case.problem.scale <= 64
    and "autograd" not in case.name
    and case.problem.sub_centers == 1
    and case.changes.get("unsampled") != "coast"
    and not case.name.startswith("logq")  # weighted sums are plain operations
]
assert len(ELIGIBLE) > 20


@pytest.mark.parametrize("variant", ["chunks", "on chip"])
@pytest.mark.parametrize("case", ELIGIBLE, ids=lambda case: case.name)
def test_steps_equal_the_float64_oracle(case: Case, variant: Any) -> None:
    case = replace(case, dtype=torch.float32, embedding_size=128)
    case = replace(case, changes={**case.changes, "mode": "kernels", "products": "bf16"})
    head = case.head(ALONE)
    if (reason := why_not(head._loop)) is not None:
        assert head._loop.fused is None
        assert "bounded by 64" in reason  # m3 of a margin may raise the bound past it
        return
    give_path(head, variant=variant)
    optimizer = head.optimizer(lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    losses, gradients, steps = [], [], []
    for forwards in case.steps():
        steps.append([])
        for weight, (embeddings, labels) in zip(case.forwards, forwards, strict=True):
            leaf = embeddings.clone().requires_grad_()
            loss = head(leaf, labels)
            (loss * weight).backward()
            assert head.result is not None
            allowed = None
            if head.result.sampled is not None:
                allowed = torch.zeros(case.num_classes, dtype=torch.bool)
                allowed[head.result.sampled] = True
            losses.append(loss.item())
            gradients.append(leaf.grad)
            steps[-1].append(head_oracle.Forward(embeddings, labels, allowed, weight))
        optimizer.step()
        optimizer.zero_grad()
    truth = head_oracle.train(steps, case.centers(), case.problem, lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    close(torch.tensor(losses), torch.tensor(truth.losses))
    for found, expected in zip(gradients, truth.embedding_gradients, strict=True):
        close(found, expected)
    close(head.state_rows()["centers"], truth.centers)
    close(head.state_rows()["momentum"], truth.momentum)


def close(found: Any, expected: torch.Tensor) -> None:
    error = (found.double() - expected).abs().max() / expected.abs().max()
    assert error <= 1e-5, f"relative error {error:.2e}"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dim": 24}, "embedding size 24 is none of 128, 256, 512, 768"),
        ({"products": "float32"}, "products are float32, not bf16"),
        ({"sub_centers": 2}, "not a softmax over one center a class"),
        ({"scale": 100.0}, "not a softmax over one center a class"),
        ({"unsampled": "coast", "sample_rate": 0.5}, None),
    ],
    ids=str,
)
def test_other_heads_take_the_plain_path_and_say_so(
    changes: dict[str, Any], words: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"dim": 128, "products": "bf16", **changes}
    with caplog.at_level("INFO"):
        head = make_head(75, mode="kernels", **changes)
    assert head._loop.fused is None
    assert words is None or words in caplog.text


def test_kernels_that_do_not_run_are_left_out_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*tensors: Any, **rest: Any) -> None:
        raise RuntimeError("out of resource: shared memory\nmore")

    from recognition.heads.fused import pass2

    monkeypatch.setattr(pass2, "descend_", fail)
    with caplog.at_level("WARNING"):
        head = make_head(75, 128, mode="kernels", products="bf16")
    assert head._loop.fused is None
    assert head._loop.kernels is not None  # those between cuBLAS's products
    assert "its kernels do not run here (RuntimeError: out of resource: shared memory)" in caplog.text
