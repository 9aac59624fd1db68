"""AdamW under the head: against torch's own on a dense head, its formats, its counts, and what it does not go with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from recognition.distributed.world import World
from recognition.errors import CheckpointError, ConfigError
from recognition.heads.saving import load_head, save_head
from tests.helpers import head_oracle
from tests.helpers.heads import adamw_of, batch, bits, make_head, optimizer_of, snapshot, take_step
from tests.helpers.worlds import run_world, world_sizes

NUM_CLASSES, DIM, BATCH, STEPS = 60, 16, 12, 50
LR, DECAY = 0.003, 0.05


def _rows(step: int) -> tuple[Tensor, Tensor]:
    """The global batch of a step: embeddings around directions that the centers do not know yet."""
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(0, NUM_CLASSES, (BATCH,), generator=generator)
    noise = torch.randn(BATCH, DIM, generator=generator, dtype=torch.float64)
    return _drawn(1)[labels] + 0.2 * noise, labels


def _drawn(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(NUM_CLASSES, DIM, generator=generator, dtype=torch.float64) * 0.3


def _train_both(world: World) -> dict[torch.dtype, dict[str, Any]]:
    return {dtype: _train_sharded(world, dtype) for dtype in (torch.float64, torch.float32)}


def _train_sharded(world: World, dtype: torch.dtype) -> dict[str, Any]:
    head = make_head(NUM_CLASSES, DIM, world=world, dtype=dtype, block_size=11, scale=16.0)
    head.set_centers(0, _drawn(2).to(dtype))
    optimizer = head.optimizer(kind="adamw", lr=LR, weight_decay=DECAY)
    each, losses = BATCH // world.size, []
    for step in range(STEPS):
        embeddings, labels = (part[world.rank * each : (world.rank + 1) * each] for part in _rows(step))
        losses.append(take_step(head, optimizer, (embeddings.to(dtype).requires_grad_(), labels))[0])
    return {"losses": losses, **snapshot(head)}


def _train_dense() -> tuple[list[float], dict[str, Tensor]]:
    weights = torch.nn.Parameter(_drawn(2))
    optimizer = torch.optim.AdamW([weights], lr=LR, weight_decay=DECAY)
    losses = []
    for step in range(STEPS):
        embeddings, labels = _rows(step)
        rows, _ = head_oracle.row_losses(embeddings, weights, labels, head_oracle.Problem(scale=16.0))
        optimizer.zero_grad()
        rows.mean().backward()
        optimizer.step()
        losses.append(rows.mean().item())
    return losses, {"centers": weights.detach(), **optimizer.state[weights]}


@pytest.mark.slow
@pytest.mark.parametrize("size", world_sizes(1, 2, 3))
def test_fifty_steps_are_those_of_torchs_adamw_on_a_dense_head(size: int) -> None:
    losses, dense = _train_dense()
    assert losses[-1] < 0.8 * losses[0]
    ranks = run_world(size, _train_both)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 5e-5)):
        found = [rank[dtype] for rank in ranks]
        assert found[0]["losses"] == pytest.approx(losses, rel=tolerance)
        for ours, theirs in (("centers", "centers"), ("momentum", "exp_avg"), ("second_moment", "exp_avg_sq")):
            held = torch.cat([rank[ours] for rank in found]).double()
            error = ((held - dense[theirs]).norm() / dense[theirs].norm()).item()
            assert error <= tolerance, f"{ours}: {error:.1e}"
            print(f"W = {size}, {dtype}, {ours}: {error:.1e}")
        assert bool((torch.cat([rank["updates"] for rank in found]) == STEPS).all())


def _train(head: Any, steps: int, lr: float = 0.01) -> list[float]:
    optimizer = adamw_of(head, lr=lr)
    embeddings, labels = batch(head, BATCH)
    return [
        take_step(head, optimizer, (embeddings.detach().clone().requires_grad_(), labels))[0] for _ in range(steps)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        ({"momentum_format": "bf16"}, 0.03),
        ({"momentum_format": "int8"}, 0.1),
        ({"centers_format": "bf16", "momentum_format": "int8"}, 0.1),
    ],
    ids=str,
)
def test_small_formats_follow_float32(changes: dict[str, Any], tolerance: float) -> None:
    exact, small = make_head(50), make_head(50, **changes)
    exact_losses = _train(exact, 60)
    _train(small, 60)
    assert exact_losses[-1] < 0.5 * exact_losses[0]
    moved = exact.state_rows()["centers"] - make_head(50).state_rows()["centers"]
    error = small.state_rows()["centers"].float() - exact.state_rows()["centers"]
    assert (error.norm() / moved.norm()).item() < tolerance


def test_rows_outside_the_sample_keep_their_bits_and_their_count() -> None:
    head = make_head(400, sample_rate=0.1, centers_format="bf16", momentum_format="int8")
    optimizer = adamw_of(head)
    counts = torch.zeros(400, dtype=torch.int32)
    for step in range(3):
        before = snapshot(head)
        take_step(head, optimizer, batch(head, BATCH, step))
        assert head.result is not None
        assert head.result.sampled is not None
        inside = torch.zeros(400, dtype=torch.bool)
        inside[head.result.sampled] = True
        counts += inside
        for name, stored in head.state_rows().items():
            assert torch.equal(bits(stored[~inside]), bits(before[name][~inside])), name
            assert not torch.equal(bits(stored[inside]), bits(before[name][inside])), name
    assert torch.equal(head.state_rows()["updates"], counts)


def test_a_row_moves_as_if_it_had_been_in_every_step_it_was_sampled_in() -> None:
    """The first step of a row is lr long, in whichever step of the run it comes; by the run's count it would not be."""
    head = make_head(100, sample_rate=0.02)
    optimizer = head.optimizer(kind="adamw", lr=0.001)
    for step in range(40):
        embeddings, _ = batch(head, 2, step)
        before = head.centers.clone()
        take_step(head, optimizer, (embeddings, torch.tensor([2 * step, 2 * step + 1])))
        moved = (head.centers - before)[2 * step : 2 * step + 2].abs()
        assert moved.median().item() == pytest.approx(0.001, rel=1e-3)


@pytest.mark.parametrize("momentum_format", ["bf16", "int8"])
def test_a_stored_second_moment_is_never_zero_where_it_was_not(momentum_format: Any) -> None:
    head = make_head(8, momentum_format=momentum_format)
    adamw_of(head)
    wide = torch.logspace(-12, 0, 16).repeat(8, 1)
    wide[:, 3] = 0.0
    rows, counts = slice(0, 8), torch.ones(8, dtype=torch.int32)
    for number in range(200):
        head.state.write_second(rows, wide.clone(), counts, step=number, refused=None)
        found, _ = head.state.read_second(rows, torch.empty(8, 16))
        assert torch.equal(found > 0, wide > 0)


@pytest.mark.parametrize("momentum_format", ["bf16", "int8"])
def test_increments_below_the_resolution_add_up(momentum_format: Any) -> None:
    """A thousandth of the difference is added in each step, as with beta2 = 0.999; the nearest value would stay.

    An element strays by about 4 %, the mean of 64 by 0.5 %.
    """
    head = make_head(64, momentum_format=momentum_format)
    adamw_of(head)
    rows, counts, buffer = slice(0, 64), torch.ones(64, dtype=torch.int32), torch.empty(64, 16)
    head.state.write_second(rows, torch.full((64, 16), 0.01), counts, step=0, refused=None)
    exact = torch.full((64, 16), 0.01)
    towards = torch.linspace(0.002, 0.05, 16).repeat(64, 1)
    for number in range(1, 1500):
        exact.lerp_(towards, 0.001)
        found, _ = head.state.read_second(rows, buffer)
        head.state.write_second(rows, found.lerp_(towards, 0.001), counts, step=number, refused=None)
    found, _ = head.state.read_second(rows, buffer)
    assert torch.allclose(found.mean(0), exact[0], rtol=0.03)


def test_another_kind_begins_with_moments_of_zero() -> None:
    head = make_head(50)
    _train(head, 2)
    assert head.state_rows()["momentum"].any()
    adamw_of(head)
    assert head.state_rows()["momentum"].any(), "the same kind goes on"
    optimizer_of(head)
    assert set(head.state_rows()) == {"centers", "momentum"}
    assert not head.state_rows()["momentum"].any()


@pytest.mark.parametrize("changes", [{}, {"centers_format": "bf16", "momentum_format": "int8"}], ids=str)
def test_a_saved_head_goes_on_to_the_bit(changes: dict[str, Any], tmp_path: Any) -> None:
    through, stopped = (make_head(50, sample_rate=0.5, **changes) for _ in range(2))
    optimizer = adamw_of(through)
    for step in range(4):
        take_step(through, optimizer, batch(through, BATCH, step))
    before = adamw_of(stopped)
    for step in range(2):
        take_step(stopped, before, batch(stopped, BATCH, step))
    save_head(stopped, tmp_path)
    by_folder, by_dict = (make_head(50, sample_rate=0.5, seed=9, **changes) for _ in range(2))
    for head in (by_folder, by_dict):
        adamw_of(head)
        head.state.seed = through.state.seed
    load_head(by_folder, tmp_path)
    by_dict.load_state_dict(stopped.state_dict())
    for head in (by_folder, by_dict):
        optimizer = adamw_of(head)
        for step in range(2, 4):
            take_step(head, optimizer, batch(head, BATCH, step))
        for name, rows in through.state_rows().items():
            assert torch.equal(bits(head.state_rows()[name]), bits(rows)), name


def test_the_state_of_another_optimizer_is_refused_in_one_line(tmp_path: Any) -> None:
    sgd, adamw = make_head(50), make_head(50)
    optimizers = {"sgd": optimizer_of(sgd), "adamw": adamw_of(adamw)}
    for head, name, other in ((sgd, "adamw", adamw), (adamw, "sgd", sgd)):
        save_head(head, tmp_path / name)
        with pytest.raises(CheckpointError, match=f"were moved by {head.state.kind}; expected {name}") as caught:
            load_head(other, tmp_path / name)
        assert "\n" not in str(caught.value)
        with pytest.raises(CheckpointError, match=f"make head.optimizer.kind='{head.state.kind}'"):
            other.load_state_dict(head.state_dict())
        with pytest.raises(CheckpointError, match=rf"head.optimizer\(kind='{head.state.kind}', ...\)"):
            optimizers[name].load_state_dict(optimizers[head.state.kind].state_dict())


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"momentum_format": "none"}, {}, "found AdamW and a head that keeps no moments"),
        ({}, {"momentum": 0.9}, "found momentum=0.9 with AdamW"),
        ({}, {"betas": (0.9, 1.0)}, r"found betas=\(0.9, 1.0\) and eps=1e-08"),
        ({}, {"eps": 0.0}, "and eps above 0"),
        ({}, {"lr": None}, "found no lr"),
        ({}, {"kind": "sgd", "eps": 1e-8}, "found betas or eps with SGD"),
        ({}, {"kind": "adam"}, "found kind='adam'; expected 'sgd' or 'adamw'"),
        ({"update": "autograd"}, {}, "found update 'autograd'"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(changes: Any, settings: Any, message: str) -> None:
    head = make_head(50, **changes)
    with pytest.raises(ConfigError, match=message):
        head.optimizer(**{"kind": "adamw", "lr": 0.1, **settings})


def test_a_rate_of_zero_moves_no_center() -> None:
    head = make_head(50)
    optimizer = head.optimizer(kind="adamw", lr=0.0, weight_decay=0.1)
    before = snapshot(head)["centers"]
    take_step(head, optimizer, batch(head, BATCH))
    assert torch.equal(head.centers, before)
    assert head.state_rows()["second_moment"].any()


def test_it_casts_and_copies_with_its_counts() -> None:
    head = make_head(50)
    optimizer = adamw_of(head)
    take_step(head, optimizer, batch(head, BATCH))
    wide = head.double()
    rows = wide.state_rows()
    assert rows["second_moment"].dtype == torch.float64
    assert rows["updates"].dtype == torch.int32
    take_step(wide, adamw_of(wide), batch(wide, BATCH))
    assert bool((rows["updates"] == 2).all())
