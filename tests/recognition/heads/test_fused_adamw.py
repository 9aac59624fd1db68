"""Pass 2 by a kernel with the step of AdamW in it, in Triton's interpreter: against the block loop's own AdamW."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from recognition.heads.sharded_softmax import ShardedSoftmax
from tests.helpers.fused_heads import BF16, assert_same, fused_head, give_path, need_triton, plain_head, spoil, trained
from tests.helpers.heads import adamw_of, batch, bits, make_head, snapshot, take_step

pytestmark = pytest.mark.slow

ADAMW: dict[str, Any] = {"kind": "adamw", "lr": 0.01}
FORMATS = [
    {"centers_format": centers, "momentum_format": moments}
    for centers, moments in itertools.product(("float32", "bf16"), ("float32", "bf16", "int8"))
]
SMALL_STATE = FORMATS[-1]
TOLERANCE = 5e-5
"""Rounding errors of small gradients, over their own size."""


@pytest.fixture(autouse=True)
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Note what each launch of the kernel took part, and see that there was one."""
    need_triton()
    from recognition.heads.fused import pass2_adamw

    found: list[int] = []
    kernel = pass2_adamw.descend_

    def noted(*tensors: Any, **rest: Any) -> None:
        stored = tensors[4]
        found.append(len(stored.centers if stored.sample is None else stored.sample))
        kernel(*tensors, **rest)

    monkeypatch.setattr(pass2_adamw, "descend_", noted)
    yield found
    assert found


@pytest.mark.parametrize("sampled", [{}, {"sample_rate": 0.4}], ids=str)
@pytest.mark.parametrize("formats", FORMATS, ids=str)
def test_the_kernel_trains_as_plain_operations_in_every_format(
    formats: dict[str, Any], sampled: dict[str, Any], launches: list[int]
) -> None:
    plain, fused = (make(97, **formats, **sampled) for make in (plain_head, fused_head))
    is_exact = set(formats.values()) == {"float32"}
    # Where a value was rounded the other way a third step starts from another one.
    steps = 4 if is_exact else 2
    assert_same(plain, fused, 9, TOLERANCE if is_exact else 1e-3, steps=steps, **ADAMW)
    counts = fused.state_rows()["updates"]
    assert torch.equal(counts, plain.state_rows()["updates"])
    assert len(counts.unique()) == (steps + 1 if sampled else 1)
    assert len(launches) == steps + 1  # the first one tries the kernel


@pytest.mark.parametrize(
    ("num_classes", "dim", "size", "changes"),
    [
        (2, 128, 1, {}),
        (31, 256, 17, {"sample_rate": 0.5}),
        (33, 512, 5, {}),
        (40, 768, 33, {"sample_rate": 0.3, "negatives": "nearest"}),
        (65, 128, 16, {"scale": 30.0, "seed": 9}),
        (75, 128, 9, {"interclass_filtering_threshold": 0.2}),
    ],
    ids=str,
)
def test_the_kernel_trains_as_plain_operations_in_odd_shapes(
    num_classes: int, dim: int, size: int, changes: dict[str, Any]
) -> None:
    heads = [make(num_classes, dim, **changes) for make in (plain_head, fused_head)]
    assert_same(heads[0], heads[1], size, TOLERANCE, **ADAMW)


def test_several_backwards_are_one_pass_2() -> None:
    assert_same(plain_head(75), fused_head(75), 9, TOLERANCE, accumulated=3, steps=2, **ADAMW)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.5), (0.95, 0.0)], ids=str)
@pytest.mark.parametrize("formats", FORMATS, ids=str)
def test_without_a_gradient_moments_shrink_and_are_rounded_alike(
    formats: dict[str, Any], betas: tuple[float, float]
) -> None:
    """Moments of every size and zeros, counts up to a million: how they shrink, are rounded and corrected."""
    states = []
    for make in (plain_head, fused_head):
        head = make(75, 256, sample_rate=0.5, **formats)
        head.state.rows = range(1000, 1075)  # as of a later rank, by whose numbers rows are rounded
        optimizer = head.optimizer(kind="adamw", lr=0.01, weight_decay=0.05, betas=betas, eps=1e-6)
        fill_state(head)
        before = snapshot(head)
        for step in range(2):
            take_step(head, optimizer, batch(head, 9, step), factor=0.0)
        states.append(snapshot(head))
    plain, fused = states
    assert torch.equal(plain["updates"], fused["updates"])
    assert (plain["updates"] > 500_000).any()
    for name, rows in plain.items():
        difference = (rows.float() - fused[name].float()).abs()
        is_off = difference > 5e-6 * (rows.float().abs() + before[name].float().abs())  # last bits of factors differ
        if rows.dtype == torch.float32:
            assert not is_off.any(), name
        else:
            assert float(is_off.float().mean()) < 1e-3, name


def fill_state(head: ShardedSoftmax) -> None:
    """Give a head moments of all sizes, some of them zero, and counts of all sizes."""
    state, rows = head.state, torch.arange(len(head.state.rows))
    generator = torch.Generator().manual_seed(5)
    shape = head.centers.shape
    size = torch.logspace(-9, 0, shape[1])[torch.randperm(shape[1], generator=generator)]
    first = torch.randn(shape, generator=generator) * size
    second = (torch.randn(shape, generator=generator) * size).square_()
    first[:, ::7] = first[:, ::5] = second[:, ::5] = 0.0
    first[3] = second[3] = 0.0
    counts = torch.logspace(0, 6, len(rows)).to(torch.int32)[torch.randperm(len(rows), generator=generator)]
    state.write(rows, head.centers.float().clone(), first, step=0, refused=None)
    state.write_second(rows, second, counts, step=0, refused=None)


def test_small_moments_keep_their_mean_and_what_is_not_zero_stays_so() -> None:
    head = fused_head(64, momentum_format="int8")
    optimizer = head.optimizer(kind="adamw", lr=0.0, betas=(0.9, 0.999))
    rows, start = torch.arange(64), torch.logspace(-6, 0, 128).repeat(64, 1)
    start[:, 5] = 0.0
    head.state.write_second(rows, start.clone(), torch.ones(64, dtype=torch.int32), step=0, refused=None)
    before, _ = head.state.read_second(rows, torch.empty(64, 128))
    before = before.clone()
    for step in range(20):
        take_step(head, optimizer, batch(head, 2, step), factor=0.0)
    found, counts = head.state.read_second(rows, torch.empty(64, 128))
    assert torch.equal(found > 0, start > 0)
    assert bool((counts == 21).all())
    large = start[0] > 0.1
    ratio = found.mean(0)[large] / before.mean(0)[large]
    assert torch.allclose(ratio, torch.full_like(ratio, 0.999**20), rtol=0.01)  # to the nearest, all of 1 would stay


@pytest.mark.parametrize("formats", [FORMATS[0], SMALL_STATE], ids=str)
@pytest.mark.parametrize("place", ["center", "image", "factor"])
def test_a_refused_step_leaves_every_bit(place: str, formats: dict[str, Any]) -> None:
    head = fused_head(75, **formats)
    trained(head, 9, **ADAMW)
    rows, labels = batch(head, 9)
    factor = spoil(head, rows, place)
    before = snapshot(head)
    _, _, refused = take_step(head, adamw_of(head), (rows, labels), factor=factor)
    assert refused
    for name, kept in head.state_rows().items():
        assert torch.equal(bits(kept), bits(before[name])), name
    assert bool((head.state_rows()["updates"] == 3).all())


def test_what_bf16_changes_is_bounded() -> None:
    plain, fused = plain_head(75, 512), fused_head(75, 512)
    give_path(fused, torch.bfloat16)
    (loss,), _ = trained(plain, 9, steps=1, **ADAMW)
    (other,), _ = trained(fused, 9, steps=1, **ADAMW)
    assert loss == pytest.approx(other, rel=BF16)
    first, found = (head.state_rows()["momentum"] for head in (plain, fused))
    assert float((first - found).abs().max() / first.abs().max()) < BF16
    second, found = (head.state_rows()["second_moment"] for head in (plain, fused))
    assert float((second - found).abs().max() / second.abs().max()) < 2 * BF16  # of squares


@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("changes", [{}, SMALL_STATE], ids=str)
def test_shadow_and_norms_follow_the_centers(changes: dict[str, Any], low: torch.dtype) -> None:
    head = fused_head(75, **changes)
    give_path(head, low)
    trained(head, 9, **ADAMW)
    assert head._loop.fused is not None
    lengths = torch.linalg.vector_norm(head.centers.float(), dim=1)
    assert torch.allclose(head.state.inverse_norm * lengths, torch.ones(75), atol=1e-6)
    assert torch.equal(head._loop.fused.shadow.float(), head.centers.to(low).float())


def test_another_kind_of_optimizer_takes_its_own_kernel(launches: list[int]) -> None:
    plain, fused = plain_head(75), fused_head(75)
    counts = []
    for how in ({"lr": 0.1}, ADAMW, {"lr": 0.1}):
        assert_same(plain, fused, 9, 1e-3, steps=1, **how)
        counts.append(len(launches))
    assert counts == [0, 2, 2]  # the first launch tries it


def test_a_kernel_that_does_not_run_is_left_out_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, launches: list[int]
) -> None:
    def fail(*tensors: Any, **rest: Any) -> None:
        launches.append(0)
        raise RuntimeError("out of resource: shared memory\nmore")

    from recognition.heads.fused import pass2_adamw

    plain, fused = plain_head(75), make_head(75, 128, mode="kernels", products="bf16")
    give_path(fused)
    fused._loop.products = "float32"
    monkeypatch.setattr(pass2_adamw, "descend_", fail)
    with caplog.at_level("WARNING"):
        assert_same(plain, fused, 9, TOLERANCE, **ADAMW)
    assert launches == [0]
    assert caplog.text.count("AdamW's kernel does not run here (RuntimeError: out of resource: shared memory); ") == 1
