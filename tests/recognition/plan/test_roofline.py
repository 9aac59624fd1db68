"""What a step of the head moves and launches, as traced, and the model of its time."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from recognition.commands.plan import main
from recognition.plan.roofline import GPUS, Figures, figures_of, floor_of, seconds_of
from recognition.plan.traffic import Problem, Trace, Work, _Noting, trace_step

pytestmark = pytest.mark.skipif(
    "dtype" not in torch.ops.aten.addmm.overloads(), reason="torch before 2.8 has no float32 sum of 16-bit products"
)

H200 = GPUS[0]
FLOAT32 = Problem(1024, 1_250_000)  # 10 million identities over 8 ranks
SMALL = replace(FLOAT32, centers_format="bf16", momentum_format="int8")


def test_an_operation_counts_its_operands_and_its_products() -> None:
    trace, problem = Trace(), Problem(32, 100, embedding_size=8)
    left, right = torch.empty(32, 8, device="meta"), torch.empty(8, 100, device="meta")
    e = torch.empty(32, 100, dtype=torch.bfloat16, device="meta")
    w = torch.empty(100, 8, dtype=torch.bfloat16, device="meta")
    total = torch.empty(32, 8, device="meta")
    with _Noting(trace, problem):
        torch.mm(left, right, out=torch.empty(32, 100, device="meta"))
        left.mul_(2.0)
        right.T[:3].relu()
        torch.addmm(total, e, w, out_dtype=torch.float32, out=total)
    product, scaled, clipped, summed = trace.works
    assert product.num_bytes == 4 * (32 * 8 + 8 * 100 + 32 * 100)
    assert product.flops == 2 * 32 * 8 * 100
    assert scaled.num_bytes == 4 * 32 * 8  # in place: once
    assert clipped.num_bytes == 2 * 4 * 3 * 8
    assert summed.num_bytes == 4 * 32 * 8 + 2 * (32 * 100 + 100 * 8)
    assert summed.chunk_bytes == 2 * 32 * 100
    assert summed.flops == 2 * 32 * 100 * 8


def test_a_kernel_takes_the_longer_of_its_products_and_its_bytes() -> None:
    gpu = replace(H200, flops=1e12, bytes_per_s=1e9)
    works = [
        Work("bytes", 2_000_000, 0, 0, "bf16", is_fused=False),
        Work("bytes in L2", 2_000_000, 1_000_000, 0, "bf16", is_fused=False),
        Work("products", 0, 0, 3_000_000_000, "bf16", is_fused=False),
        Work("products of ours", 0, 0, 3_000_000_000, "bf16", is_fused=True),
    ]
    assert seconds_of(Trace(works), gpu) == pytest.approx(2e-3 + 1e-3 + 3e-3 + 4e-3 + 4 * 2e-6)


@pytest.mark.parametrize(
    ("problem", "most_gb", "most_gb_past_l2"),
    [
        (FLOAT32, 26, 17),
        (SMALL, 17, 8),
        # A second moment more, read and written, and counts.
        (replace(FLOAT32, optimizer="adamw"), 26 + 5.2, 17 + 5.2),
        (replace(SMALL, optimizer="adamw"), 17 + 1.4, 8 + 1.4),
    ],
    ids=["float32", "bf16 and int8", "AdamW, float32", "AdamW, bf16 and int8"],
)
def test_the_kernels_move_little_and_are_few(problem: Problem, most_gb: float, most_gb_past_l2: float) -> None:
    trace = trace_step(problem, "fused")
    assert trace.num_bytes / 1e9 <= most_gb
    assert trace.num_bytes_past_l2 / 1e9 <= most_gb_past_l2
    chunks = sum(work.name == "logits" for work in trace.works)
    per_chunk = [work for work in trace.works if work.name in ("logits", "aten.addmm")]
    assert len(per_chunk) == 2 * chunks
    assert trace.num_launches <= 400
    products = sum(work.flops for work in trace.works) / (2 * problem.rows * problem.classes * problem.embedding_size)
    assert products == pytest.approx(4)


@pytest.mark.parametrize(("rows", "most"), [(1024, 2.0), (8192, 1.8)])
def test_the_model_of_the_kernels_is_near_the_floor(rows: int, most: float) -> None:
    problem = replace(FLOAT32, rows=rows)
    for variant in ("chunks", "on chip"):
        seconds = seconds_of(trace_step(problem, "fused", variant=variant), H200)  # type: ignore[arg-type]
        assert 1.0 < seconds / floor_of(problem, H200) <= most


@pytest.mark.slow
def test_the_model_gives_the_loop_before_what_another_model_gave() -> None:
    # 26 % of the floor, worked out by hand from its bytes before the kernels existed.
    assert seconds_of(trace_step(FLOAT32, "tiles"), H200) == pytest.approx(0.019, rel=0.15)


@pytest.mark.parametrize("path", ["fused", "tiles"])
def test_many_classes_are_a_straight_line(path: str) -> None:
    problem = replace(FLOAT32, classes=600_000)
    trace = trace_step(problem, path)  # type: ignore[arg-type]
    exact = Figures(trace.num_launches, trace.num_bytes, trace.num_bytes_past_l2, seconds_of(trace, H200))
    for name, value in vars(figures_of(problem, H200, path)).items():  # type: ignore[arg-type]
        assert value == pytest.approx(vars(exact)[name], rel=0.03), name  # the last chunk of each is a shorter one


@pytest.mark.slow
def test_the_command_prints_each_gpu_and_what_bounds_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--roofline", "--identities", "10e6", "--network", "r50", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["gpu"], row["batch"]) for row in rows] == [
        (gpu, batch) for gpu in ("H200", "A100-80", "4090") for batch in (1024, 8192)
    ]
    for row in rows:
        times = {name: row[f"{name}_s"] for name in ("head", "backbone", "network", "decode")}
        assert times[row["bound"]] == max(times.values())
    assert main(["--roofline", "--identities", "1e6", "--network", "r50"]) == 0
    assert capsys.readouterr().out.count("| 1,000,000 |") == 6
