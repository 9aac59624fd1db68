"""The numbers of a run, and the runs that stop before their first step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from recognition.config.schema import BackboneConfig, Config, DataConfig, HeadConfig, OptimConfig, TrainConfig
from recognition.config.schema import ValidationConfig as Validation
from recognition.errors import ConfigError
from recognition.heads import products
from recognition.plan import find_inputs, make_plan, render_plan

TINY = Config(backbone=BackboneConfig(network="tiny", embedding_size=64), train=TrainConfig(batch_size=12, num_epoch=4))


def test_steps_follow_from_sizes_and_ranks():
    plan = make_plan(TINY, world_size=3, num_images=1000, num_classes=50)
    assert plan.global_batch == 36
    assert (plan.steps_per_epoch, plan.images_left_out, plan.total_steps) == (27, 28, 108)
    assert (plan.first_classes, plan.last_classes, plan.sampled_classes) == (17, 16, 17)


def test_accumulation_multiplies_the_global_batch_and_divides_the_steps():
    config = replace(TINY, train=replace(TINY.train, gradient_accumulation=5), head=HeadConfig(update="autograd"))
    plan = make_plan(config, world_size=2, num_images=1000, num_classes=50)
    assert (plan.global_batch, plan.steps_per_epoch) == (120, 8)
    assert "12 x 2 ranks x 5 micro-batches = 120 images a step" in render_plan(plan)


def test_warmup_is_counted_in_steps_of_a_fractional_epoch():
    config = replace(TINY, optim=OptimConfig(warmup_epoch=0.5))
    assert make_plan(config, world_size=1, num_images=1200, num_classes=50).warmup_steps == 50


def test_the_linear_scaling_rule_is_stated_against_the_reference_batch():
    config = replace(TINY, optim=OptimConfig(lr=0.1, reference_batch=48))
    assert "optim.lr=0.05 for 24" in render_plan(make_plan(config, world_size=2, num_images=1000, num_classes=50))
    assert make_plan(config, world_size=2, num_images=1000, num_classes=50).scaled_lr == pytest.approx(0.05)
    assert make_plan(config, world_size=4, num_images=1000, num_classes=50).scaled_lr is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            replace(TINY, train=TrainConfig(batch_size=512)),
            "train.batch_size: 1,000 images cannot fill one global batch of 512 x 2 ranks = 1,024",
        ),
        (
            replace(TINY, train=TrainConfig(batch_size=400, num_epoch=1), optim=OptimConfig(warmup_epoch=0.9)),
            "optim.warmup_epoch: a warm-up of 1 steps leaves nothing of a training of 1",
        ),
        (replace(TINY, head=HeadConfig(sample_rate=0.1)), "head.sample_rate: 0.1 of 100 classes is a sample of 10 per"),
        (replace(TINY, backbone=BackboneConfig(network="r51")), "unknown backbone.network 'r51'"),
    ],
)
def test_a_run_that_cannot_work_stops(config, message):
    with pytest.raises(ConfigError, match=r"^[^\n]*$") as caught:
        make_plan(config, world_size=2, num_images=1000, num_classes=200)
    assert str(caught.value).startswith(message)


def test_positives_only_is_a_choice_and_not_an_error():
    config = replace(TINY, head=HeadConfig(sample_rate=0))
    plan = make_plan(config, world_size=2, num_images=1000, num_classes=200)
    assert plan.sampled_classes == 11  # 24 draws of 200 classes are 22.6 distinct ones, on two ranks
    assert "only the batch's own (about 11 a rank)" in render_plan(plan)


def test_doubtful_choices_are_warned_of():
    config = replace(TINY, head=HeadConfig(sample_rate=0.5), validation=Validation(val_targets=("a",)))
    text = render_plan(make_plan(config, world_size=2, num_images=1000, num_classes=200))
    assert "warning: head.sample_rate 0.5 with 200 identities: sampling has cost accuracy" in text
    assert "warning: validation.every_steps 2,000 is beyond the last step" in text


def test_ranks_without_a_class_are_warned_of():
    assert "leave some ranks without any" in render_plan(make_plan(TINY, world_size=4, num_images=1000, num_classes=3))


def test_memory_parts_are_what_their_formulas_say():
    plan = make_plan(TINY, world_size=2, num_images=1000, num_classes=5001)
    memory = plan.memory
    assert memory.centers == memory.centers_optimizer == 2501 * 64 * 4
    assert memory.backbone_weights == memory.backbone_optimizer == 4 * memory.num_parameters
    assert memory.backbone_gradients == memory.backbone_weights  # they are views of DDP's buckets
    assert memory.inputs == 12 * 112 * 112 * 3 * 5
    assert memory.total == sum(memory.parts().values())


def test_the_state_formats_shrink_the_head():
    def state(**head) -> tuple[int, int]:
        memory = make_plan(
            replace(TINY, head=HeadConfig(**head)), world_size=1, num_images=1000, num_classes=1000
        ).memory
        return memory.centers, memory.centers_optimizer

    assert state(centers_format="bf16", momentum_format="int8") == (1000 * 64 * 2, 1000 * (64 + 4))
    assert state(momentum_format="none") == (1000 * 64 * 4, 0)
    assert state(sub_centers=3) == (3000 * 64 * 4, 3000 * 64 * 4)


def test_the_plan_tells_which_inputs_are_there(tmp_path):
    config = replace(
        TINY,
        data=DataConfig(rec=str(tmp_path / "faces")),
        validation=Validation(val_dir=str(tmp_path), val_targets=("lfw", "cfp")),
    )
    (tmp_path / "lfw.bin").touch()
    plan = make_plan(config, world_size=1, num_images=1000, num_classes=200)
    text = render_plan(plan, find_inputs(config))
    assert f"{tmp_path}/faces (absent): 1,000 images of 200 identities (5.0 each), sizes as the config states" in text
    assert "lfw, cfp (absent): before step 1, every 2,000 steps and at the end" in text
    (tmp_path / "faces").mkdir()
    with pytest.raises(ConfigError, match=r"validation.val_targets: 'cfp' has no file; expected .*cfp.bin; set valid"):
        find_inputs(config)


def test_empty_classes_are_counted_apart():
    config = replace(TINY, data=DataConfig(rec="sp"))
    text = render_plan(make_plan(config, world_size=1, num_images=120, num_classes=1134, num_used=20))
    assert "sp: 120 images of 20 identities (6.0 each) in 1,134 classes" in text
    assert "warning: sp: 20 of 1,134 classes have an image" in text
    assert "convert_rec sp OUT/ --to insightface --renumber" in text
    joined = replace(config, data=DataConfig(rec="a", more_rec=("b",)))
    text = render_plan(make_plan(joined, world_size=1, num_images=120, num_classes=1134, num_used=20))
    assert "python -m recognition merge_rec a b MERGED/, then python -m recognition convert_rec MERGED/ OUT/" in text


def test_one_class_is_told_and_not_ten_percent_of_it():
    text = render_plan(make_plan(TINY, world_size=1, num_images=40, num_classes=1, num_used=1))
    assert "1 of 1 class has an image; one person has nobody to be told from" in text
    sampled = replace(TINY, head=HeadConfig(sample_rate=0.1))
    with pytest.raises(ConfigError, match=r"set head.sample_rate to 1, which uses them all, or set it to 0"):
        make_plan(sampled, world_size=1, num_images=40, num_classes=1)


@pytest.mark.parametrize(
    ("world_size", "sync_bn", "resume", "words"),
    [
        (1, False, False, "raise train.batch_size"),
        (1, True, False, "raise train.batch_size"),
        (2, False, False, "raise train.batch_size, or set backbone.sync_bn=true"),
        (2, False, True, "or run on fewer ranks, which then have more images each, or set backbone.sync_bn=true"),
    ],
)
def test_one_image_a_rank_has_no_variance(world_size, sync_bn, resume, words):
    config = replace(TINY, train=TrainConfig(batch_size=1), resume=resume)
    config = replace(config, backbone=replace(TINY.backbone, sync_bn=sync_bn))
    with pytest.raises(ConfigError, match=f"train.batch_size: 1 image a rank, and the BatchNorm of tiny .*{words}$"):
        make_plan(config, world_size=world_size, num_images=100, num_classes=5)


def test_one_image_a_rank_goes_with_statistics_of_all_ranks():
    config = replace(TINY, train=TrainConfig(batch_size=1), backbone=replace(TINY.backbone, sync_bn=True))
    assert make_plan(config, world_size=2, num_images=100, num_classes=5).global_batch == 2


@pytest.mark.parametrize(
    ("rec", "more", "message"),
    [
        ("sets/mine_v2", (), "there is no such file or folder; .*did you mean '.*sets/mine_v1'"),
        ("sets/mine_v1.rce", (), "did you mean '.*sets/mine_v1.rec'"),
        ("seta/other/train.rec", (), "did you mean '.*sets/other/train.rec'"),
        ("SETS/mine_v1", (), "did you mean '.*sets/mine_v1'"),
        ("sets/quite_another", (), "there is no such file or folder; expected a .rec"),
        ("sets/mine_v1", ("elsewhere/b",), "'.*elsewhere/b': is absent, while other sets are there"),
    ],
)
def test_a_mistyped_path_is_no_absent_set(tmp_path, rec, more, message):
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "mine_v1.rec").touch()
    data = DataConfig(rec=str(tmp_path / rec), more_rec=tuple(str(tmp_path / name) for name in more))
    with pytest.raises(ConfigError, match=f"data.rec: .*{message}"):
        find_inputs(replace(TINY, data=data))


def test_a_set_of_another_machine_is_absent(tmp_path):
    assert not find_inputs(replace(TINY, data=DataConfig(rec=str(tmp_path / "train_tmp" / "ms1m")))).has_data


def test_the_plan_for_a_gpu_has_a_gpus_blocks_and_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "has_float32_sums", lambda: True)  # from torch 2.8 on
    cpu, gpu = (
        make_plan(TINY, world_size=1, num_images=1000, num_classes=500_000, device=device) for device in ("cpu", "cuda")
    )
    assert gpu.memory.head_buffers > 4 * cpu.memory.head_buffers
    assert "products float32 (auto, on a CPU)" in render_plan(cpu)
    assert "products bf16 (auto, on a GPU)" in render_plan(gpu)
