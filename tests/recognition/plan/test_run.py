"""The numbers of a run, and the runs that stop before their first step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from recognition.config.schema import BackboneConfig, Config, DataConfig, HeadConfig, OptimConfig, TrainConfig
from recognition.config.schema import ValidationConfig as Validation
from recognition.errors import ConfigError
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
        (
            replace(TINY, head=HeadConfig(sample_rate=0.5, update="autograd")),
            "head.update: 'autograd' cannot go with head.sample_rate 0.5",
        ),
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
    assert memory.backbone_gradients == 2 * memory.backbone_weights  # and once more in DDP's buckets
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
