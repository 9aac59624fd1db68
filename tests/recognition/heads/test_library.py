"""The head in a loop of one's own: equal to the trainer, saved and read again, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from recognition import ArcFace, CurricularFace, ShardedSoftmax, build_backbone, joined_world, load_head, save_head
from recognition.distributed.replicate import replicate
from recognition.distributed.world import World
from recognition.errors import ArcShardError
from recognition.heads.optimizer import HeadOptimizer
from recognition.images.preprocess import to_network
from tests.helpers.heads import bits, make_head, same_bits, snapshot
from tests.helpers.runs import make_trainer
from tests.helpers.worlds import run_world

NUM_STEPS, BATCH, NUM_CLASSES = 6, 6, 11
PLAIN = [f"train.batch_size={BATCH}", "data.flip=0", "optim.clip_norm=0", "train.channels_last=false"]


class _Widened(nn.Module):
    """A network that takes images of any float type."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module
        self.dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        embeddings: Tensor = self.module(images.to(self.dtype))
        return embeddings


@dataclass(frozen=True)
class Reference:
    """What a few steps of the trainer gave, and all that a loop needs to take them again."""

    losses: list[float]
    batches: list[Any]
    schedule: Any
    weights: dict[str, Tensor]


def trainer_steps(world: World, folder: str, dtype: torch.dtype) -> Reference:
    """Take a few of the trainer's steps."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        trainer = make_trainer(world, folder, PLAIN)
    finally:
        torch.set_default_dtype(before)
    trainer.parts.backbone.register_forward_pre_hook(lambda _, inputs: (inputs[0].to(dtype),))
    trainer.parts.head.to(dtype)
    weights = {name: value.clone() for name, value in trainer.parts.backbone.state_dict().items()}
    trainer.parts.backbone.train()
    batches = [batch for _, batch in zip(range(NUM_STEPS), trainer.loader.epoch(0), strict=False)]
    found = [float(trainer.train_step([batch], 0).values["loss"]) for batch in batches]
    return Reference(found, batches, trainer.plan.schedule, weights)


def own_parts(
    dtype: torch.dtype, lr: float, weights: dict[str, Tensor]
) -> tuple[nn.Module, ShardedSoftmax, torch.optim.Optimizer]:
    network = build_backbone("tiny", embedding_size=16, image_size=32).to(dtype)
    network.load_state_dict(weights)
    backbone: nn.Module = _Widened(network, dtype)
    if joined_world().size > 1:
        backbone = replicate(backbone, joined_world())
    head = ShardedSoftmax(NUM_CLASSES, 16, margin=ArcFace(0.5), scale=16.0, seed=2048).to(dtype)
    return backbone, head, torch.optim.SGD(backbone.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)


SCALERS = ("none", "plain", "unscaled", "apart")


def loop_losses(reference: Reference, dtype: torch.dtype, scaling: str) -> list[float]:
    """Train as a stranger would: a scheduler, GradScaler or none, one optimizer for both or one for each."""
    lr = 1.0
    backbone, head, sgd = own_parts(dtype, lr, reference.weights)
    is_apart = scaling == "apart"
    optimizer = head.optimizer(lr=lr, momentum=0.9, weight_decay=5e-4, backbone=None if is_apart else sgd)
    optimizers: list[torch.optim.Optimizer] = [optimizer, sgd] if is_apart else [optimizer]
    schedulers = [torch.optim.lr_scheduler.LambdaLR(each, reference.schedule.lr_at) for each in optimizers]
    scaler = torch.amp.GradScaler("cpu", enabled=scaling != "none", init_scale=1024.0, growth_interval=2)
    found = []
    for batch in reference.batches:
        for each in optimizers:
            each.zero_grad()
        images = to_network(batch.images, torch.zeros(len(batch.images), dtype=torch.bool))
        loss = head(backbone(images), batch.labels)
        scaler.scale(loss).backward()
        if scaling == "unscaled":
            scaler.unscale_(optimizer)
        for each in optimizers:
            scaler.step(each)
        scaler.update()
        for scheduler in schedulers:
            scheduler.step()
        found.append(loss.item())
    return found


def compare_with_trainer(world: World, folder: str) -> dict[tuple[str, str], tuple[list[float], list[float]]]:
    found = {}
    for dtype in (torch.float64, torch.float32):
        reference = trainer_steps(world, f"{folder}/{dtype}", dtype)
        for scaling in SCALERS:
            found[str(dtype), scaling] = (reference.losses, loop_losses(reference, dtype, scaling))
    return found


def rows_of(head: ShardedSoftmax, count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * seed + head.world.rank)
    rows = torch.randn(count, 16, generator=generator, dtype=head.state.dtype)
    return rows, torch.randint(0, head.num_classes, (count,), generator=generator)


def accumulate(world: World) -> float:
    """Return how far the centers after 9 + 7 rows are from those after the same 16 at once."""
    heads = [make_head(NUM_CLASSES, world=world, dtype=torch.float64) for _ in range(2)]
    optimizers = [head.optimizer(lr=0.1, momentum=0.9, weight_decay=5e-4) for head in heads]
    for step in range(3):
        rows, labels = rows_of(heads[0], 16, step)
        heads[0](rows, labels).backward()
        for part in (slice(0, 9), slice(9, 16)):
            (heads[1](rows[part], labels[part]) * (part.stop - part.start) / 16).backward()
        for optimizer in optimizers:
            optimizer.step()
    difference = (heads[0].centers - heads[1].centers).abs().max() / heads[0].centers.abs().max()
    return difference.item()


def plant_inf(world: World, culprit: int, scaled: bool) -> tuple[bool, bool]:
    """Plant an inf in one rank's backbone gradient; return (nothing moved, a good step then moves both)."""
    backbone = nn.Linear(16, 16)
    head = make_head(NUM_CLASSES, world=world)
    optimizer = head.optimizer(
        lr=0.1, momentum=0.9, backbone=torch.optim.SGD(backbone.parameters(), lr=0.1, momentum=0.9)
    )
    scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=8.0)
    moved = []
    for is_planted in (True, False):
        before = {**snapshot(head), **{name: value.clone() for name, value in backbone.state_dict().items()}}
        optimizer.zero_grad()
        rows, labels = rows_of(head, BATCH, 0)
        scaler.scale(head(backbone(rows), labels)).backward()
        assert backbone.weight.grad is not None
        if is_planted and world.rank == culprit:
            backbone.weight.grad[1, 2] = torch.inf
        scaler.step(optimizer)
        scaler.update()
        moved.append(same_bits(before, {**snapshot(head), **backbone.state_dict()}))
    return moved[0], not moved[1]


def trained(world: World, steps: int, **changes: Any) -> tuple[ShardedSoftmax, HeadOptimizer]:
    head = make_head(23, world=world, margin=CurricularFace(alpha=0.5), **changes)
    optimizer = head.optimizer(lr=0.1, momentum=0.9, weight_decay=5e-4)
    _continue(head, optimizer, range(steps))
    return head, optimizer


def _continue(head: ShardedSoftmax, optimizer: HeadOptimizer, steps: range) -> None:
    for step in steps:
        head(*rows_of(head, BATCH, step)).backward()
        optimizer.step()


FORMATS: list[dict[str, Any]] = [
    {},
    {"centers_format": "bf16", "momentum_format": "int8"},
    {"sample_rate": 0.5, "sub_centers": 2},
]


def save_and_resume(world: World, folder: str, changes: dict[str, Any]) -> dict[str, bool]:
    """Tell what of a head stopped after 3 of 5 steps is bit-equal to one that went on."""
    whole, _ = trained(world, 5, **changes)
    first, optimizer = trained(world, 3, **changes)
    file = Path(folder) / f"state_{world.rank}.pt"
    torch.save({"head": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    save_head(first, f"{folder}/heads")
    found = {}
    for way in ("state_dict", "save_head"):
        head, optimizer = trained(world, 1, **changes, seed=99)
        if way == "state_dict":
            held = torch.load(file, weights_only=True)
            head.load_state_dict(held["head"])
            optimizer.load_state_dict(held["optimizer"])
        else:
            load_head(head, f"{folder}/heads")
        head.state.seed = whole.state.seed  # of the draws; the first centers are long gone
        _continue(head, optimizer, range(3, 5))
        found[way] = same_bits(snapshot(whole), snapshot(head))
    return found


def line_of(action: Callable[[], object]) -> str:
    try:
        action()
    except ArcShardError as err:
        return f"{type(err).__name__}: {err}"
    return "no error"


def refusals(world: World) -> dict[str, str]:
    found = {}
    if world.size > 1:
        inside = nn.ModuleDict({"net": nn.Linear(16, 16), "head": make_head(22, world=world)})
        wrapped = DistributedDataParallel(inside)
        found["ddp"] = line_of(lambda: inside["head"](*rows_of(wrapped.module["head"], BATCH, 0)))
        head = make_head(NUM_CLASSES, world=world)
        found["unequal"] = line_of(lambda: head(*rows_of(head, BATCH + world.rank, 0)))
        other = make_head(22, world=world)
        state = other.state_dict()
        state["classes"] = torch.tensor([0, 11, 22]) if world.rank else torch.tensor([11, 22, 22])
        found["range"] = line_of(lambda: other.load_state_dict(state))
    return found


def everything(world: World, folder: str) -> dict[str, Any]:
    Path(folder).mkdir(exist_ok=True)
    return {
        "trainer": compare_with_trainer(world, f"{folder}/trainer"),
        "accumulated": accumulate(world),
        "inf": {
            (culprit, scaled): plant_inf(world, culprit, scaled)
            for culprit in range(world.size)
            for scaled in (False, True)
        },
        "resumed": [save_and_resume(world, _made(f"{folder}/{i}"), changes) for i, changes in enumerate(FORMATS)],
        "refused": refusals(world),
    }


def _made(folder: str) -> str:
    Path(folder).mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.slow)])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("library")
    return run_world(request.param, everything, str(folder / "run"), timeout_s=300)


def test_a_loop_of_ones_own_trains_as_the_trainer_does(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        for (dtype, scaling), (expected, found) in rank["trainer"].items():
            assert len(found) == NUM_STEPS
            tolerance = 1e-10 if dtype == "torch.float64" else 1e-5
            assert found == pytest.approx(expected, rel=tolerance), (dtype, scaling)
            assert found[-1] < 0.9 * found[0], "nothing was learned"


def test_rows_may_come_in_parts(ranks: list[dict[str, Any]]) -> None:
    assert all(rank["accumulated"] < 1e-13 for rank in ranks)


def test_an_inf_in_the_backbones_gradient_moves_nothing_anywhere(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert set(rank["inf"].values()) == {(True, True)}


def test_a_head_goes_on_from_a_state_dict_and_from_a_folder_bit_by_bit(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["resumed"] == [{"state_dict": True, "save_head": True}] * len(FORMATS)


def test_each_refusal_is_one_line_on_every_rank(ranks: list[dict[str, Any]]) -> None:
    if len(ranks) == 1:
        assert ranks[0]["refused"] == {}
        return
    for number, rank in enumerate(ranks):
        assert rank["refused"]["ddp"] == (
            "ConfigError: head: its centers were replaced by those of rank 0, which DistributedDataParallel does to "
            "whatever it wraps; expected each rank to keep its own; wrap the backbone alone and call the head beside it"
        )
        assert rank["refused"]["unequal"] == (
            "ConfigError: head: found 6, 7 embeddings on ranks 0 to 1; expected as many on every rank; drop the last, "
            "smaller batch of an epoch (drop_last=True)"
        )
        held, own = ("11 to 21", "0 to 10") if number == 0 else ("0 to 10", "11 to 21")
        assert rank["refused"]["range"] == (
            f"CheckpointError: head: the state is of classes {held} of 22; expected {own} of 22, those of rank "
            f"{number} of 2; a state_dict is one rank's rows: for another number of ranks use save_head(head, folder) "
            "and load_head(head, folder)"
        )


def _save(world: World, folder: str) -> dict[str, Tensor]:
    head, _ = trained(world, 3, momentum_format="int8")
    save_head(head, folder)
    return snapshot(head)


@pytest.mark.slow
def test_a_head_moves_to_another_number_of_ranks(tmp_path: Path) -> None:
    written = run_world(2, _save, str(tmp_path), timeout_s=120)
    head = make_head(23, margin=CurricularFace(alpha=0.5), momentum_format="int8", seed=8)
    path = load_head(head, tmp_path)
    assert path.name == "step_00000003"
    assert head.steps == 3
    for name, rows in head.state_rows().items():
        assert torch.equal(bits(rows), bits(torch.cat([rank[name] for rank in written])))
    assert torch.equal(head.margin_state()["t"], written[1]["t"])


def test_a_folder_without_a_head_or_with_another_is_named(tmp_path: Path) -> None:
    head = make_head(NUM_CLASSES)
    assert line_of(lambda: load_head(head, tmp_path)) == (
        f"CheckpointError: {tmp_path}: holds no checkpoint; expected one that save_head or a training run wrote"
    )
    path = save_head(make_head(5), tmp_path)
    assert (
        line_of(lambda: load_head(head, tmp_path))
        == f"CheckpointError: {path}: holds 5 classes; expected the head's 11"
    )
    path = save_head(make_head(NUM_CLASSES), tmp_path / "b")
    bent = make_head(NUM_CLASSES, margin=CurricularFace())
    assert line_of(lambda: load_head(bent, tmp_path / "b")).startswith(
        f"CheckpointError: {path}: holds no 't' of a margin"
    )
    file = tmp_path / "file"
    file.touch()
    assert "cannot be written" in line_of(lambda: save_head(head, file))


def test_moves_are_followed_and_casts_of_small_state_refused() -> None:
    head = make_head(NUM_CLASSES)
    optimizer = head.optimizer(lr=0.1, momentum=0.9)
    assert nn.Sequential(nn.Linear(2, 2), head).double()[1].centers.dtype == torch.float64
    rows, labels = rows_of(head, BATCH, 0)
    before = head.centers.clone()
    head(rows, labels).backward()
    optimizer.step()
    assert head.state.momentum is not None
    assert head.state.momentum.dtype == torch.float64
    assert not torch.equal(head.centers, before)
    for cast in ("half", "bfloat16"):
        line = line_of(getattr(head, cast))
        assert line.startswith("ConfigError: head: its centers would become torch."), line
        assert "\n" not in line
    small = make_head(NUM_CLASSES, centers_format="bf16", momentum_format="int8")
    assert "its centers would become torch.float32 from torch.bfloat16" in line_of(small.float)
    int8 = make_head(NUM_CLASSES, momentum_format="int8")
    assert "its centers would become torch.float64 from torch.float32" in line_of(int8.double)
    small.to("cpu")  # a move is no cast


def test_an_autograd_head_trains_in_float64_after_double() -> None:
    head = make_head(NUM_CLASSES, update="autograd").double()
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    before = head.centers.detach().clone()
    rows, labels = rows_of(head, BATCH, 0)
    head(rows, labels).backward()
    optimizer.step()
    assert head.centers.dtype == torch.float64
    assert not torch.equal(head.centers, before)


def test_a_state_dict_is_whole_and_strict() -> None:
    head, _ = trained(joined_world(), 2)
    assert set(head.state_dict()) == {"classes", "state.centers", "state.momentum", "statistics.t", "steps"}
    other = make_head(23, margin=CurricularFace(), momentum_format="none")
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"state.momentum\""):
        other.load_state_dict(head.state_dict())
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict"):
        head.load_state_dict({})


def test_optimizers_that_would_ignore_something_are_refused() -> None:
    head = make_head(NUM_CLASSES, momentum_format="none")
    assert "head.optimizer: found momentum=0.9 and a head that keeps none" in line_of(
        lambda: head.optimizer(lr=0.1, momentum=0.9)
    )
    assert "head.optimizer: found no lr" in line_of(lambda: head.optimizer())
    dense = make_head(NUM_CLASSES, update="autograd")
    assert "found update 'autograd', whose centers are a parameter" in line_of(lambda: dense.optimizer(lr=0.1))
    optimizer = head.optimizer(lr=0.1)
    group = {"params": [nn.Parameter(torch.zeros(2))]}
    assert "pass head.optimizer(..., backbone=" in line_of(lambda: optimizer.add_param_group(group))


def test_parameters_added_later_go_to_the_backbones_optimizer() -> None:
    layers = nn.Linear(16, 16), nn.Linear(16, 16)
    head = make_head(NUM_CLASSES)
    sgd = torch.optim.SGD(layers[0].parameters(), lr=0.1)
    optimizer = head.optimizer(lr=0.1, momentum=0.9, backbone=sgd)
    optimizer.add_param_group({"params": list(layers[1].parameters()), "lr": 0.5})
    before = layers[1].weight.detach().clone()
    rows, labels = rows_of(head, BATCH, 0)
    head(layers[1](layers[0](rows)), labels).backward()
    optimizer.step()
    assert not torch.equal(layers[1].weight, before)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1, 0.5]
    held = optimizer.state_dict()
    optimizer.load_state_dict(held)
    optimizer.param_groups[2]["lr"] = 0.0
    assert sgd.param_groups[1]["lr"] == 0.0, "after loading they are the same groups still"
