"""Pass 2 in the backward: the bits of a step without it, what it refuses, and several backwards a step."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recognition.distributed.replicate import holding_back, replicate
from recognition.distributed.world import World
from recognition.errors import ConfigError
from recognition.heads.margins import CurricularFace, SphereFace2
from recognition.heads.optimizer import HeadOptimizer
from recognition.heads.sharded_softmax import ShardedSoftmax
from tests.helpers.heads import ALONE, SGD, batch, make_head, same_bits, snapshot
from tests.helpers.worlds import run_world, world_sizes

NUM_CLASSES, BATCH, DIM = 37, 4, 16

HEADS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bf16 and int8": {"centers_format": "bf16", "momentum_format": "int8"},
    "sampled": {"sample_rate": 0.5},
    "coasting": {"sample_rate": 0.5, "unsampled": "coast"},
    "adamw": {"kind": "adamw"},
    "adamw in bytes": {"kind": "adamw", "momentum_format": "int8"},
    "with statistics": {"margin": CurricularFace()},
    "with a number": {"margin": SphereFace2()},
    "decided on the device": {"mode": "device"},
}


class Poisoned(nn.Module):
    """A linear network whose gradient can be spoiled behind the head's back."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(DIM, DIM, bias=False)
        nn.init.orthogonal_(self.linear.weight, generator=torch.Generator().manual_seed(5))
        self.factor = 1.0

    def forward(self, rows: Tensor) -> Tensor:
        embeddings: Tensor = self.linear(rows)
        if embeddings.requires_grad:
            embeddings.register_hook(lambda gradient: gradient * self.factor)
        return embeddings


def _parts(
    world: World, *, overlap: bool, kind: str = "sgd", **changes: Any
) -> tuple[ShardedSoftmax, HeadOptimizer, nn.Module, Poisoned]:
    network = Poisoned()
    replica = replicate(network, world) if world.size > 1 else network
    head = make_head(NUM_CLASSES, DIM, world=world, **changes)
    settings: dict[str, Any] = SGD if kind == "sgd" else {"kind": "adamw", "weight_decay": 0.05}
    backbone = torch.optim.SGD(network.parameters(), lr=0.1)
    return head, head.optimizer(lr=0.05, backbone=backbone, overlap=overlap, **settings), replica, network


def _steps(world: World, *, overlap: bool, name: str, micro: int = 1) -> tuple[dict[str, Tensor], Tensor, list[float]]:
    head, optimizer, replica, network = _parts(world, overlap=overlap, **HEADS[name])
    losses = []
    for step in range(4):
        for part in range(micro):
            rows, labels = batch(head, BATCH, 10 * step + part)
            is_last = part == micro - 1
            with holding_back(replica), optimizer.no_overlap():
                if not is_last:
                    (head(replica(rows.detach()), labels) / micro).backward()
            if is_last:
                loss = head(replica(rows.detach()), labels)
                (loss / micro).backward()
                losses.append(float(loss.detach()))
        optimizer.step()
        optimizer.zero_grad()
        assert not optimizer.refused
    return snapshot(head), network.linear.weight.detach(), losses


def _compare(world: World) -> dict[str, bool]:
    same = {}
    for name in HEADS:
        for micro in (1, 3):
            left, right = (_steps(world, overlap=overlap, name=name, micro=micro) for overlap in (False, True))
            same[f"{name}, {micro}"] = (
                same_bits(left[0], right[0]) and torch.equal(left[1], right[1]) and left[2] == right[2]
            )
    return same


@pytest.mark.slow
@pytest.mark.parametrize("size", world_sizes(1, 2, 3))
def test_a_run_has_the_bits_of_one_without_overlap(size: int) -> None:
    for same in run_world(size, _compare, timeout_s=300):
        assert all(same.values()), same


def _refuse(world: World, where: str, culprit: int) -> tuple[bool, bool, bool, bool]:
    """Return whether a step was refused, the centers stood still, moved as they would have, and the backbone moved."""
    head, optimizer, replica, network = _parts(world, overlap=True)
    unspoiled, of_unspoiled, twin, _ = _parts(world, overlap=True)
    rows, labels = batch(head, BATCH)
    rows = rows.detach()
    of_unspoiled.zero_grad()
    unspoiled(twin(rows), labels).backward()
    of_unspoiled.step()
    weight = network.linear.weight.detach().clone()
    if world.rank == culprit:
        if where == "center":  # the backbone's gradient stays finite
            head.state_rows()["centers"][0, 2] = torch.nan
        elif where == "head":
            rows = rows.index_put((torch.tensor(1), torch.tensor(3)), torch.tensor(torch.nan))
        else:
            network.factor = torch.inf
    before = snapshot(head)
    head(replica(rows), labels).backward()
    optimizer.step()
    after = snapshot(head)
    stood, moved = same_bits(before, after), same_bits(snapshot(unspoiled), after)
    return bool(optimizer.refused), stood, moved, not torch.equal(weight, network.linear.weight)


def _refuse_both(world: World) -> dict[tuple[str, int], tuple[bool, bool, bool, bool]]:
    return {
        (where, each): _refuse(world, where, each)
        for where in ("head", "center", "backbone")
        for each in range(world.size)
    }


@pytest.mark.parametrize("size", world_sizes(1, 2))
def test_the_head_s_own_values_alone_refuse_its_step(size: int) -> None:
    for found in run_world(size, _refuse_both):
        for (where, culprit), (refused, stood, moved, backbone_moved) in found.items():
            name = f"{where} of rank {culprit}"
            assert refused, name
            assert not backbone_moved, name
            assert stood == (where != "backbone"), name
            assert moved == (where == "backbone"), name


def test_the_centers_have_moved_when_backward_returns() -> None:
    head, optimizer, _, _ = _parts(ALONE, overlap=True)
    before = snapshot(head)
    rows, labels = batch(head, BATCH)
    head(rows, labels).backward()
    moved = snapshot(head)
    assert not same_bits(before, moved)
    optimizer.step()
    assert same_bits(moved, snapshot(head))
    assert head.steps == 1


def test_a_second_backward_wants_no_overlap() -> None:
    head, optimizer, _, _ = _parts(ALONE, overlap=True)
    head(*batch(head, BATCH)).backward()
    with pytest.raises(RuntimeError, match="no_overlap"):
        head(*batch(head, BATCH, 1)).backward()
    optimizer.zero_grad()
    head(*batch(head, BATCH, 2)).backward()


def test_a_step_takes_rows_that_nothing_else_has() -> None:
    found = []
    for holds in (False, True):
        head, optimizer, _, _ = _parts(ALONE, overlap=holds)
        with optimizer.no_overlap():
            head(*batch(head, BATCH)).backward()
        optimizer.step()
        found.append(snapshot(head))
    assert same_bits(*found)


def test_a_loss_scale_is_refused() -> None:
    head, optimizer, _, network = _parts(ALONE, overlap=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    rows, labels = batch(head, BATCH)
    scaler.scale(head(network(rows.detach()), labels)).backward()
    with pytest.raises(ConfigError, match="GradScaler with overlap"):
        scaler.step(optimizer)


def test_an_optimizer_of_before_and_that_of_a_copy_start_nothing() -> None:
    head, _, _, _ = _parts(ALONE, overlap=True)
    twin = copy.deepcopy(head)
    head.optimizer(lr=0.1, momentum=0.9)
    for each in (head, twin):
        before = snapshot(each)
        each(*batch(each, BATCH)).backward()
        assert same_bits(before, snapshot(each))


def test_overlap_is_not_of_an_optimizer_of_ones_own() -> None:
    head = make_head(NUM_CLASSES, update="autograd")
    with pytest.raises(ConfigError, match="no overlap"):
        head.optimizer(backbone=torch.optim.SGD(head.parameters(), lr=0.1), overlap=True)
