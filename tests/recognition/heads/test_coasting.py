"""Rows outside a sample that coast, against loops that touch every row in every step, whatever happens to the run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recognition.distributed.checkpoint import Checkpoint
from recognition.distributed.world import World
from recognition.errors import CheckpointError, ConfigError
from recognition.heads.coasting import LONGEST
from recognition.heads.margins import CosFace
from recognition.heads.saving import StoredCenters, load_head, save_head
from recognition.heads.sharded_softmax import ShardedSoftmax
from recognition.heads.state import CenterState
from tests.helpers.heads import SGD, batch, make_head, optimizer_of, same_bits, snapshot, take_step
from tests.helpers.worlds import run_world

CPU = torch.device("cpu")
COAST: dict[str, Any] = {"sample_rate": 0.1, "unsampled": "coast"}
NUM_CLASSES, BATCH = 60, 4
SMALL: dict[str, Any] = {"centers_format": "bf16", "momentum_format": "int8"}
FORMATS: list[dict[str, Any]] = [{}, {"momentum_format": "bf16"}, SMALL, {"momentum_format": "none"}]


def rates(step: int) -> tuple[float, float, float]:
    """Return (lr, momentum, weight decay) of a step: a warm-up, a cosine, and a jump."""
    lr = 0.1 * min(1.0, (step + 1) / 100) * (0.55 + 0.45 * math.cos(step / 900)) * (0.1 if 500 < step < 600 else 1.0)
    return lr, 0.9 if step % 2000 < 1500 else 0.8, 5e-4


def drift(state: CenterState, num_steps: int) -> tuple[Tensor, Tensor]:
    """Take steps that sample nothing and refuse some; return the rows of a float64 loop over them."""
    w, m = state.centers.double(), torch.zeros(state.centers.shape, dtype=torch.float64)
    if state.momentum is not None:
        m = state.momentum.double()
    nothing = torch.empty(0, dtype=torch.int64)
    for step in range(num_steps):
        lr, mu, decay = rates(step)
        refused = torch.tensor(step % 7 == 3)
        state.follow_(nothing, lr=lr, momentum=mu, weight_decay=decay, step=step, refused=refused)
        if not refused:
            m = mu * m + decay * w
            w = w - lr * m
    return w, m


@pytest.mark.parametrize("num_steps", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_untouched_rows_equal_a_float64_loop(num_steps: int) -> None:
    state = CenterState(range(3, 40), 8, coasts=True, device=CPU, dtype=torch.float32, seed=1)
    assert state.momentum is not None
    state.momentum.copy_(torch.randn(37, 8, generator=torch.Generator().manual_seed(2)) * 0.01)
    w, m = drift(state, num_steps)
    found = [torch.empty(37, 8) for _ in range(2)]
    state.read_both(slice(0, 37), *found)
    # A rounding of float32 is 6e-8, and a row is rounded once in LONGEST steps.
    assert (found[0] - w).abs().max() <= 2e-7 * w.abs().max()
    assert (found[1] - m).abs().max() <= 2e-7 * m.abs().max()
    assert state.coast is not None
    assert int(state.coast.clock) == num_steps - len(range(3, num_steps, 7))


@pytest.mark.slow
def test_every_row_is_written_once_in_so_many_steps() -> None:
    state = CenterState(range(100, 100 + LONGEST + 50), 2, coasts=True, device=CPU, dtype=torch.float32, seed=1)
    assert state.coast is not None
    nothing, written = torch.empty(0, dtype=torch.int64), torch.zeros(LONGEST + 50, dtype=torch.int64)
    for step in range(2 * LONGEST):
        before = state.coast.reached.clone()
        state.follow_(nothing, lr=0.1, momentum=0.9, weight_decay=0.1, step=step, refused=None)
        written += state.coast.reached != before
        assert int(state.coast.clock - state.coast.reached.min()) <= LONGEST
    assert written.tolist() == [2] * (LONGEST + 50)


def dense_losses(head: ShardedSoftmax, samples: list[Tensor], lr: float, dtype: torch.dtype) -> list[float]:
    """Train a whole matrix of centers as PartialFC does: logits of a sample, a gradient for all rows, torch's SGD."""
    weight = torch.nn.Parameter(head.current_centers().to(dtype))
    sgd = torch.optim.SGD([weight], lr=lr, **SGD)
    losses = []
    for step, sample in enumerate(samples):
        embeddings, labels = batch(head, BATCH, step)
        x = torch.nn.functional.normalize(embeddings.detach().to(dtype))
        cosine = x @ torch.nn.functional.normalize(weight[sample]).T
        place = torch.searchsorted(sample, labels)
        margin = torch.zeros_like(cosine).scatter_(1, place.unsqueeze(1), 0.4)
        loss = torch.nn.functional.cross_entropy(64.0 * (cosine - margin), place)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        losses.append(loss.item())
    return losses


def train(head: ShardedSoftmax, steps: range, lr: float = 0.1) -> tuple[list[float], list[Tensor]]:
    """Return the losses, and the sample of each step."""
    optimizer, losses, samples = optimizer_of(head, lr), [], []
    for step in steps:
        losses.append(take_step(head, optimizer, batch(head, BATCH, step))[0])
        assert head.result is not None
        assert head.result.sampled is not None
        samples.append(head.result.sampled)
    return losses, samples


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_losses_are_those_of_a_trainer_that_moves_every_row(rate: float, dtype: torch.dtype) -> None:
    head, frozen = (
        make_head(NUM_CLASSES, margin=CosFace(0.4), sample_rate=rate, unsampled=unsampled)
        for unsampled in ("coast", "frozen")
    )
    losses, samples = train(head, range(300))
    expected = dense_losses(make_head(NUM_CLASSES, margin=CosFace(0.4)), samples, 0.1, dtype)
    # In float32 two orders of the same sums drift apart; 300 steps later by less than this.
    assert losses == pytest.approx(expected, rel=1e-5)
    assert train(frozen, range(300))[0] != pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("changes", FORMATS, ids=str)
def test_a_refused_step_leaves_every_bit_and_counts_as_none(changes: dict[str, Any]) -> None:
    heads = [make_head(NUM_CLASSES, mode=mode, **COAST, **changes) for mode in ("host", "device", "host")]
    for number, head in enumerate(heads):
        optimizer = optimizer_of(head)
        for step in range(12):
            if step == 6 and number < 2:
                before = {**snapshot(head), **{k: v.clone() for k, v in head.coast_state().items()}}
                assert take_step(head, optimizer, batch(head, BATCH, 99), factor=torch.inf)[2]
                assert same_bits(before, {**snapshot(head), **head.coast_state()})
                head.steps -= 1  # so that samples and rounding are those of the run without it
            take_step(head, optimizer, batch(head, BATCH, step))
    for head in heads[:2]:
        assert same_bits(snapshot(head), snapshot(heads[2]))
        assert same_bits(head.coast_state(), heads[2].coast_state())


@pytest.mark.parametrize("changes", FORMATS, ids=str)
def test_a_resumed_head_goes_on_bit_for_bit(changes: dict[str, Any], tmp_path: Path) -> None:
    whole, first = (make_head(NUM_CLASSES, **COAST, **changes) for _ in range(2))
    losses = train(whole, range(20))[0]
    train(first, range(9))
    assert first.state.coast is not None
    ages = first.state.coast.clock - first.state.coast.reached
    assert int(ages.max()) == 9 and int(ages.min()) == 0
    save_head(first, tmp_path)
    second, third = (make_head(NUM_CLASSES, seed=8, **COAST, **changes) for _ in range(2))
    for head in (second, third):
        head.state.seed = first.state.seed  # of samples and rounding; the centers of another seed are overwritten
    load_head(second, tmp_path)
    third.load_state_dict(first.state_dict())
    for head in (second, third):
        assert train(head, range(9, 20))[0] == losses[9:]
        assert same_bits(snapshot(head), snapshot(whole))


def hand_over(world: World, folder: Path, steps: range) -> tuple[list[float], Tensor, Tensor]:
    """Go on with what lies in `folder` for some steps on one batch of all ranks, and leave it there again."""
    head = make_head(NUM_CLASSES, world=world, dtype=torch.float64, sample_rate=0.0, unsampled="coast")
    if steps.start:
        load_head(head, folder)
    optimizer, losses = optimizer_of(head), []
    for step in steps:
        embeddings, labels = batch(make_head(NUM_CLASSES, dtype=torch.float64), 6, step)  # equal on all ranks
        own = slice(world.rank * 6 // world.size, (world.rank + 1) * 6 // world.size)
        losses.append(take_step(head, optimizer, (embeddings.detach()[own].requires_grad_(), labels[own]))[0])
    assert head.state.coast is not None
    reached = head.state.coast.reached.clone()
    save_head(head, folder)
    return losses, reached, head.current_centers()


@pytest.mark.slow
def test_rows_go_on_in_mid_age_on_another_number_of_ranks(tmp_path: Path) -> None:
    alone = run_world(1, hand_over, tmp_path / "alone", range(30))
    losses, reached = [], torch.empty(0)
    for size, steps in ((2, range(12)), (3, range(12, 19)), (1, range(19, 30))):
        ranks = run_world(size, hand_over, tmp_path / "moved", steps)
        losses += ranks[0][0]
        reached = torch.cat([rank[1] for rank in ranks])
    assert losses == pytest.approx(alone[0][0], rel=1e-10)
    assert torch.equal(reached, alone[0][1])
    assert len(reached.unique()) > 5
    assert torch.allclose(ranks[0][2], alone[0][2], rtol=0, atol=1e-12)


def test_steps_of_all_classes_and_of_a_sample_take_turns() -> None:
    """As the stages of a run have it: what coasted is caught up with where all classes take part."""
    fused, dense = (
        make_head(NUM_CLASSES, update=update, dtype=torch.float64, **COAST) for update in ("fused", "autograd")
    )
    optimizers = [optimizer_of(head) for head in (fused, dense)]
    for step in range(12):
        for head, optimizer in zip((fused, dense), optimizers, strict=True):
            head.sampling = replace(head.sampling, rate=1.0 if step % 4 == 3 else 0.1)
            head.steps = step
            take_step(head, optimizer, batch(head, BATCH, step))
    assert torch.allclose(fused.current_centers(), dense.current_centers(), rtol=0, atol=1e-12)


def test_small_formats_follow_float32_while_they_coast() -> None:
    exact, small = make_head(NUM_CLASSES, **COAST), make_head(NUM_CLASSES, **COAST, **SMALL)
    expected, _ = train(exact, range(40))
    losses, _ = train(small, range(40))
    assert losses == pytest.approx(expected, rel=0.05)
    moved = exact.current_centers() - make_head(NUM_CLASSES).current_centers()
    assert (small.current_centers() - exact.current_centers()).norm() < 0.05 * moved.norm()


def test_what_is_read_is_up_to_now_and_what_is_stored_is_not() -> None:
    head = make_head(NUM_CLASSES, **COAST)
    train(head, range(10))
    stored = head.state_rows()["centers"].clone()
    current = head.current_centers()
    assert not torch.equal(stored, current)
    head.eval()
    embeddings, labels = batch(head, BATCH)
    lagging = head(embeddings, labels).item()
    assert torch.equal(head.state_rows()["centers"], stored), "an evaluation writes nothing"
    settled = make_head(NUM_CLASSES)
    settled.set_centers(0, current)
    settled.eval()
    assert settled(embeddings, labels).item() == lagging
    head.set_centers(5, current[5:9] * 2)  # rows that are given are of now, and their momentum with them
    assert torch.equal(head.current_centers()[5:9], current[5:9] * 2)
    assert torch.equal(head.current_centers()[:5], current[:5])


@pytest.mark.parametrize("changes", FORMATS, ids=str)
def test_centers_of_a_checkpoint_are_read_as_they_are_by_its_step(changes: dict[str, Any], tmp_path: Path) -> None:
    head = make_head(NUM_CLASSES, sub_centers=2, **COAST, **changes)
    train(head, range(10))
    found = torch.empty_like(head.centers)[10:40]
    StoredCenters.of(Checkpoint(save_head(head, tmp_path))).read_(range(5, 20), found)
    assert torch.equal(found, head.current_centers()[10:40].to(found.dtype))
    assert not torch.equal(found, head.centers[10:40])


def test_a_cast_keeps_the_products() -> None:
    head = make_head(NUM_CLASSES, **COAST)
    train(head, range(10))
    before = {name: tensor.clone() for name, tensor in head.coast_state().items()}
    head.double().float()
    assert same_bits(before, head.coast_state())
    assert head.coast_state()["products"].dtype == torch.float64


def test_a_dense_gradient_has_zeros_outside_the_sample() -> None:
    head = make_head(NUM_CLASSES, update="autograd", **COAST)
    samples = []
    for _ in range(2):
        head(*batch(head, BATCH)).backward()
        assert head.result is not None
        samples.append(head.result.sampled)
        assert samples[-1] is not None
        gradient = head.centers.grad
        assert gradient is not None
        outside = torch.ones(NUM_CLASSES, dtype=torch.bool)
        outside[samples[-1]] = False
        assert not gradient[outside].any()
        assert gradient[~outside].any(1).all()
        head.centers.grad = None
    assert not torch.equal(samples[0], samples[1])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"update": "autograd", "sample_rate": 0.1},
            "head.unsampled: found 'frozen' with sample_rate 0.1 and update 'autograd', whose optimizer moves every",
        ),
        (
            {"sample_rate": 0.5, "negatives": "nearest", "sampling_correction": "logq"},
            "head.sampling_correction: found 'logq' with negatives 'nearest', where no class is drawn by chance",
        ),
        ({"update": "autograd", "centers_format": "bf16"}, "head.update: found 'autograd' with bf16 centers, but an"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_head(NUM_CLASSES, **changes)


def test_adamw_does_not_coast() -> None:
    with pytest.raises(ConfigError, match=r"head.optimizer: found AdamW and a head whose unsampled rows coast, which"):
        make_head(NUM_CLASSES, **COAST).optimizer(kind="adamw", lr=0.1)


@pytest.mark.parametrize("coasts", [True, False])
def test_a_checkpoint_of_the_other_rule_is_refused(coasts: bool, tmp_path: Path) -> None:
    kinds = [{**COAST, "unsampled": kind} for kind in ("coast", "frozen")]
    saved, loaded = (make_head(NUM_CLASSES, **kind) for kind in (kinds if coasts else kinds[::-1]))
    save_head(saved, tmp_path)
    held, own = ("coast", "frozen") if coasts else ("frozen", "coast")
    message = f"holds centers whose unsampled rows are {held!r}; expected {own!r}; set head.unsampled={held}"
    with pytest.raises(CheckpointError, match=message):
        load_head(loaded, tmp_path)
    with pytest.raises(CheckpointError, match=message):
        loaded.load_state_dict(saved.state_dict())
