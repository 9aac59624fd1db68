"""An interrupted arcface_torch run goes on here: same losses on any number of ranks, and damaged files are refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recognition.commands.import_arcface_torch import main
from recognition.config.loader import load_config
from recognition.config.schema import Config
from recognition.distributed.checkpoint import Checkpoint
from recognition.distributed.world import World
from recognition.errors import CheckpointError, ConfigError
from recognition.feed.datasets import open_dataset
from recognition.feed.loader import BatchLoader
from recognition.migrate.import_arcface_torch import import_run
from tests.helpers.arcface_run import ArcfaceRun
from tests.helpers.runs import SMALL, make_trainer
from tests.helpers.worlds import run_world, world_sizes

ALONE = World(0, 1, 0, torch.device("cpu"))
BASE = "configs/base.yaml"


def _config(*overrides: str) -> Config:
    settings = dict(setting.split("=", 1) for setting in [*SMALL, "train.batch_size=6", *overrides])
    return load_config(BASE, [f"{key}={value}" for key, value in settings.items()])


def _old_run(config: Config, num_ranks: int = 2) -> ArcfaceRun:
    dataset = open_dataset(config.data)
    loader = BatchLoader(dataset, seed=config.seed, batch_size=12, world=ALONE, num_workers=0, device=ALONE.device)
    return ArcfaceRun(config, loader, num_classes=dataset.num_classes, num_ranks=num_ranks)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """Return the folder of a run of 2 ranks that stopped after 4 steps, and the losses of its next 3."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("old")
    run = _old_run(_config())
    run.train(4)
    run.save(folder)
    losses = run.train(3)
    torch.set_num_threads(threads)
    return folder, losses


def _next_losses(world: World, folder: str, steps: int, overrides: list[str]) -> list[float]:
    size = f"train.batch_size={12 // world.size}"
    trainer = make_trainer(world, folder, [size, "backbone.sync_bn=true", "resume=true", *overrides])
    trainer.parts.backbone.train()
    batches = trainer.loader.epoch(0, trainer.state.step)
    return [float(trainer.train_step([next(batches)], 0).values["loss"]) for _ in range(steps)]


@pytest.mark.parametrize("size", world_sizes(1, 2, 3))
def test_two_shards_go_on_with_their_momentum_on_any_number_of_ranks(
    size: int, stopped: tuple[Path, list[float]], tmp_path: Path
) -> None:
    old, expected = stopped
    import_run(old, tmp_path / "checkpoints", _config())
    for found in run_world(size, _next_losses, str(tmp_path), 3, [], timeout_s=120):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_what_coasted_there_goes_on_coasting(stopped: tuple[Path, list[float]], tmp_path: Path) -> None:
    old, expected = stopped
    sampled = ["head.sample_rate=0.9", "head.unsampled=coast"]
    import_run(old, tmp_path / "checkpoints", _config(*sampled))
    found = _next_losses(ALONE, str(tmp_path), 2, sampled)
    assert found[0] == pytest.approx(expected[0], rel=0.1)  # of nine tenths of the classes
    with pytest.raises(CheckpointError, match=r"no place for"):
        _next_losses(ALONE, str(tmp_path), 2, ["head.sample_rate=0.9"])


def test_the_momentum_is_what_the_second_loss_shows(stopped: tuple[Path, list[float]], tmp_path: Path) -> None:
    old, expected = stopped
    import_run(old, tmp_path / "checkpoints", _config("head.momentum_format=none"))
    found = _next_losses(ALONE, str(tmp_path), 2, ["head.momentum_format=none"])
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert abs(found[1] / expected[1] - 1) > 1e-4


def test_rows_and_step_arrive_in_any_format(stopped: tuple[Path, list[float]], tmp_path: Path) -> None:
    shards = [torch.load(stopped[0] / f"checkpoint_gpu_{rank}.pt", weights_only=True) for rank in range(2)]
    whole = torch.cat([shard["state_dict_softmax_fc"]["weight"] for shard in shards])
    last = shards[0]["state_optimizer"]["param_groups"][1]["params"][0]
    momentum = torch.cat([shard["state_optimizer"]["state"][last]["momentum_buffer"] for shard in shards])
    assert momentum.abs().max() > 0
    formats = ["head.centers_format=bf16", "head.momentum_format=int8"]
    for name, overrides, tolerance in (("float32", [], 0.0), ("small", formats, 1e-2), ("autograd", None, 0.0)):
        overrides = ["head.update=autograd"] if overrides is None else overrides
        path, _, _ = import_run(stopped[0], tmp_path / name, _config(*overrides))
        checkpoint = Checkpoint(path)
        assert (checkpoint.step, checkpoint.world_size, checkpoint.num_classes) == (4, 2, 11)
        assert checkpoint.meta["state"]["images_seen"] == 4 * 6 * 2
        torch.testing.assert_close(checkpoint.rows("centers", range(11)).float(), whole, rtol=tolerance, atol=0)
        kept = "optimizer.momentum_buffer" if name == "autograd" else "momentum"
        rows = checkpoint.rows(kept, range(11)).float()
        if name == "small":
            rows = rows * checkpoint.rows("momentum_scale", range(11))[:, None]
        torch.testing.assert_close(rows, momentum, rtol=tolerance, atol=tolerance * float(momentum.abs().max()))


def test_accumulated_micro_batches_make_one_step_and_the_autograd_mode_goes_on(
    stopped: tuple[Path, list[float]], tmp_path: Path
) -> None:
    overrides = ["head.update=autograd", "train.gradient_accumulation=2"]
    path, _, notes = import_run(stopped[0], tmp_path / "two", _config(*overrides))
    assert Checkpoint(path).step == 2
    assert "global batch of 24" in notes[1]
    import_run(stopped[0], tmp_path / "checkpoints", _config("head.update=autograd"))
    found = _next_losses(ALONE, str(tmp_path), 2, ["head.update=autograd"])
    np.testing.assert_allclose(found, stopped[1][:2], rtol=1e-5)


def test_the_command_says_what_it_did_and_never_replaces(
    stopped: tuple[Path, list[float]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [str(stopped[0]), str(tmp_path / "new"), "--config", BASE, *SMALL, "train.batch_size=6"]
    assert main(argv) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("note: schedule: the rate is a function of the step here")
    assert out[1] == "note: ranks: keep the global batch of 12 on any other number of ranks, and a step stays a step"
    assert out[-1].startswith("imported 2 shards, 11 identities, 115 tensors of the backbone at epoch 0, step 4, into ")
    assert main(argv) == 1
    assert "step_00000004: exists already; expected a run without checkpoints" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"head.sub_centers: found 3, expected 1"):
        import_run(stopped[0], tmp_path / "other", _config("head.sub_centers=3"))


@pytest.mark.parametrize("update", ["fused", "autograd"])
def test_adamw_hands_on_its_two_moments_and_its_count(tmp_path: Path, update: str) -> None:
    overrides = ["optim.optimizer=adamw", f"head.update={update}", "optim.lr=0.001", "optim.decay_vectors=true"]
    config = _config(*overrides)
    run = _old_run(config)
    parameters = [list(run.backbone.parameters()), run.shards]
    run.optimizers = [torch.optim.AdamW(each, lr=0.001, weight_decay=5e-4) for each in parameters]
    run.train(4)
    run.save(tmp_path / "old")
    second = torch.cat([run.optimizers[1].state[shard]["exp_avg_sq"] for shard in run.shards]).clone()
    losses = run.train(3)
    path, _, notes = import_run(tmp_path / "old", tmp_path / "new" / "checkpoints", config)
    checkpoint = Checkpoint(path)
    if update == "autograd":
        assert torch.equal(checkpoint.rows("optimizer.exp_avg_sq", range(11)), second)
        assert float(checkpoint.replicated()["head_optimizer.step"]) == 4
    else:
        assert torch.equal(checkpoint.rows("second_moment", range(11)), second)
        assert checkpoint.rows("updates", range(11)).tolist() == [4] * 11
    assert float(checkpoint.replicated()["optimizer.fc.weight.step"]) == 4
    assert len(notes) == 3
    # Half a learning rate on every element whose gradient is a rounding error is all that Adam lets differ.
    assert _next_losses(ALONE, str(tmp_path / "new"), 3, overrides) == pytest.approx(losses, rel=1e-4)
    with pytest.raises(CheckpointError, match=r"its optimizer holds step, exp_avg, exp_avg_sq for 'conv1.weight'; exp"):
        import_run(tmp_path / "old", tmp_path / "other", _config())


def test_centers_without_a_whole_momentum_start_at_rest(stopped: tuple[Path, list[float]], tmp_path: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        last = content["state_optimizer"]["param_groups"][1]["params"][0]
        content["state_optimizer"]["state"][last]["momentum_buffer"] = torch.ones(2, 16)  # of the last sample alone

    path, _, notes = import_run(_edited(stopped[0], tmp_path / "old", 1, edit), tmp_path / "new", _config())
    assert Checkpoint(path).rows("momentum", range(6, 11)).abs().max() == 0
    assert Checkpoint(path).rows("momentum", range(6)).abs().max() > 0
    assert "the files hold none for all centers" in notes[-1]


def _edited(old: Path, folder: Path, rank: int, edit: Callable[[dict[str, Any]], None]) -> Path:
    """Return a copy of the run `old` whose shard `rank` was changed by `edit`."""
    folder.mkdir()
    for number in range(2):
        content = torch.load(old / f"checkpoint_gpu_{number}.pt", weights_only=True)
        if number == rank:
            edit(content)
        torch.save(content, folder / f"checkpoint_gpu_{number}.pt")
    return folder


class Malice:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def _set(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_set("global_step", value=5), r"gpu_1.pt: is of step 5, checkpoint_gpu_0.pt at step 4; expected one save"),
        (_set("global_step", value="4"), r"gpu_1.pt: 'global_step' is missing or no int"),
        (_set("epoch", value=-1), r"gpu_1.pt: 'epoch' is -1; expected a count"),
        (_set("state_dict_softmax_fc", "weight", value=torch.zeros(3, 16)), r"its 2 shards hold 9 classes; ex"),
        (_set("state_dict_softmax_fc", "weight", value=torch.zeros(5, 8)), r"has 'weight' \[5, 8\]; expected \["),
        (_set("state_dict_softmax_fc", value={}), r"state_dict_softmax_fc has no 'weight'"),
        (_set("state_dict_softmax_fc", "weight", value=torch.full((5, 16), float("nan"))), r"a center or its mom"),
        (_set("state_dict_softmax_fc", "weight", value="rows"), r"state_dict_softmax_fc\['weight'\] is no plain te"),
        (_set("state_dict_softmax_fc", "weight", value=torch.zeros(5, 16).to_sparse()), r"asks for torch._utils._rebu"),
        (_set("state_dict_backbone", value=[1]), r"'state_dict_backbone' is missing or no mapping"),
        (_set("state_dict_backbone", "fc.weight", value=torch.zeros(1)), r"gpu_1.pt: does not fit the network: 1 k"),
        (
            _set("state_dict_backbone", "fc.bias", value=torch.full((16,), float("nan"))),
            r"gpu_1.pt: 16 of the 16 numbers in 'fc.bias' are not finite",
        ),
        (
            _set("state_optimizer", "state", 0, "momentum_buffer", value=torch.full((16, 3, 3, 3), float("inf"))),
            r"gpu_1.pt: 432 of the 432 numbers in 'momentum_buffer of conv1.weight' are not finite",
        ),
        (_set("state_optimizer", "param_groups", value=[]), r"its optimizer has groups of \[\] parameters"),
        (_set("state_optimizer", "param_groups", 0, "params", value=[0]), r"its optimizer drives 1 parameters of a "),
        (_set("state_optimizer", "state", value={}), r"its optimizer holds nothing for 'conv1.weight'; expe"),
        (_set("state_optimizer", "state", 0, "momentum_buffer", value=None), r"holds momentum_buffer for 'conv1"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    edit: Callable[[dict[str, Any]], None], message: str, stopped: tuple[Path, list[float]], tmp_path: Path
) -> None:
    old = _edited(stopped[0], tmp_path / "old", 1, edit)
    with pytest.raises(CheckpointError, match=message) as hit:
        import_run(old, tmp_path / "new", _config())
    assert "\n" not in str(hit.value)
    assert not list((tmp_path / "new").glob("**/*"))


def test_missing_and_unequal_shards_are_named(stopped: tuple[Path, list[float]], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no checkpoint_gpu_0.pt; expected the output folder"):
        import_run(tmp_path, tmp_path / "new", _config())
    run = _old_run(_config(), num_ranks=3)
    run.train(1)
    run.save(tmp_path / "three")
    (tmp_path / "three" / "checkpoint_gpu_1.pt").unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint_gpu_1.pt: not found, yet checkpoint_gpu_2.pt is there"):
        import_run(tmp_path / "three", tmp_path / "new", _config())
    swapped = tmp_path / "swapped"
    swapped.mkdir()
    for rank in range(2):
        (swapped / f"checkpoint_gpu_{rank}.pt").write_bytes((stopped[0] / f"checkpoint_gpu_{1 - rank}.pt").read_bytes())
    with pytest.raises(CheckpointError, match=r"gpu_0.pt: holds 5 classes; expected 6 of 11 on rank 0 of 2"):
        import_run(swapped, tmp_path / "new", _config())


def test_hostile_and_damaged_shards_run_nothing(stopped: tuple[Path, list[float]], tmp_path: Path) -> None:
    old = _edited(stopped[0], tmp_path / "old", 1, _set("epoch", value=Malice(tmp_path / "mark")))
    with pytest.raises(CheckpointError, match=r"gpu_1.pt: cannot be read as a checkpoint \(its pickle asks for \w+\.m"):
        import_run(old, tmp_path / "new", _config())
    assert not (tmp_path / "mark").exists()
    file = old / "checkpoint_gpu_1.pt"
    whole = (stopped[0] / "checkpoint_gpu_1.pt").read_bytes()
    for content in (b"", b"text\n", whole[: len(whole) // 2], whole[:-10]):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"gpu_1.pt: cannot be read as a checkpoint"):
            import_run(old, tmp_path / "new", _config())
    rows = torch.load(stopped[0] / file.name, weights_only=True)["state_dict_softmax_fc"]["weight"].numpy().tobytes()
    assert whole.count(rows) == 1
    file.write_bytes(whole.replace(rows, rows[:7] + bytes([rows[7] ^ 1]) + rows[8:]))
    with pytest.raises(CheckpointError, match=r"gpu_1.pt: the checksum of its entry '.*' differs; copy the file again"):
        import_run(old, tmp_path / "new", _config())
    assert not (tmp_path / "new").exists()
