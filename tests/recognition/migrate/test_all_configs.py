"""Every config of arcface_torch converts, plans and builds; its notes say what differs; configs/ has its name.

The settings are those of its 43 files, as recorded in tests/golden/arcface_torch_configs.json.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from recognition.backbones.architecture import Architecture
from recognition.config.fields import flatten
from recognition.config.loader import load_config
from recognition.migrate.from_arcface_torch import Conversion, convert
from recognition.migrate.python_config import Setting
from recognition.plan import make_plan, render_plan
from tests.helpers.places import GOLDEN

CONFIGS: dict[str, dict[str, Any]] = json.loads((GOLDEN / "arcface_torch_configs.json").read_text())
LEFT_OUT = ("dali", "dali_aug", "save_all_states", "suffix_run_name", "notes", "save_artifacts")
LEFT_OUT += ("wandb_key", "wandb_entity", "wandb_project", "wandb_log_all", "wandb_resume")
MASKED = ("vit_t", "vit_s", "vit_b", "vit_b_dp005_mask_005", "vit_l_dp005_mask_005")


def converted(name: str) -> Conversion:
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in CONFIGS[name].items()}
    return convert({key: Setting(value, f"{name}.py") for key, value in values.items()}, f"{name}.py")


def expected_notes(settings: dict[str, Any]) -> list[str]:
    """Return the beginnings of the notes that these settings call for, derived from arcface_torch's trainer."""
    notes = ["lr: the number of GPUs"]
    notes += [f"{key}{'' if key == 'wandb_key' else ' = '}" for key in LEFT_OUT if key in settings]
    if settings.get("fp16"):
        notes.append("fp16 = True: the loss scale grows after 100")
    warmup = settings.get("warmup_epoch", 0)
    if warmup:
        notes.append(
            f"warmup_epoch = {warmup}: written as 0" if warmup < 0 else f"warmup_epoch = {warmup}: the very first"
        )
    if "verbose" in settings and not settings.get("val_targets"):
        notes.append("verbose = ")
    if settings.get("sample_rate", 1) != 1 and settings.get("optimizer") == "adamw":
        notes.append("sample_rate = ")
    if settings.get("gradient_acc", 1) > 1:
        notes.append("gradient_acc = ")
    if settings.get("interclass_filtering_threshold"):
        notes.append("interclass_filtering_threshold = ")
    if settings["network"] in MASKED:
        notes.append(f"network = '{settings['network']}': arcface_torch hides 10%")
    return notes


@pytest.mark.parametrize("name", CONFIGS)
def test_what_samples_under_sgd_coasts_as_theirs(name: str) -> None:
    settings = CONFIGS[name]
    is_sampled, is_sgd = settings.get("sample_rate", 1) != 1, settings.get("optimizer", "sgd") == "sgd"
    assert converted(name).config.head.unsampled == ("coast" if is_sampled and is_sgd else "frozen")


def test_there_are_43() -> None:
    assert len(CONFIGS) == 43
    assert sum(settings["network"].startswith("vit_") for settings in CONFIGS.values()) == 7


@pytest.mark.parametrize("name", CONFIGS)
def test_its_notes_say_what_differs_and_nothing_else(name: str) -> None:
    notes, expected = converted(name).notes, expected_notes(CONFIGS[name])
    assert len(notes) == len(expected)
    for start in expected:
        assert sum(note.startswith(start) for note in notes) == 1, start


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_it_plans_and_builds(name: str) -> None:
    config = converted(name).config
    images, classes = config.data.num_image or 5_179_510, config.data.num_classes or 93_431
    plan = make_plan(config, world_size=8, num_images=images, num_classes=classes)
    assert config.backbone.network in render_plan(plan)
    with torch.device("meta"):
        module = Architecture.of(config.backbone, config.data.image_size).build()
    assert sum(parameter.numel() for parameter in module.parameters()) == plan.memory.num_parameters


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "base"])
def test_the_config_of_its_name_here_trains_the_same(name: str) -> None:
    theirs, ours = flatten(converted(name).config), flatten(load_config(f"configs/{name}"))
    keys = ("head.margins", "head.sample_rate", "head.unsampled", "head.update", "head.interclass_filtering_threshold")
    keys += ("backbone.network", "backbone.mask_ratio", "backbone.activation_checkpointing", "backbone.embedding_size")
    keys += (
        "head.optimizer",
        "optim.decay_vectors",
        "optim.optimizer",
        "optim.lr",
        "optim.weight_decay",
        "optim.warmup_epoch",
        "train.precision",
    )
    keys += ("train.batch_size", "train.num_epoch", "train.gradient_accumulation")
    keys += ("data.rec", "data.num_classes", "data.num_image", "validation.val_targets")
    assert {key: ours[key] for key in keys} == {key: theirs[key] for key in keys}


@pytest.mark.parametrize("network", ["vit_b", "vit_l_dp005_mask_005", "vit_t_dp005_mask0"])
def test_a_vit_states_what_its_name_hides(network: str) -> None:
    settings = {"network": network, "optimizer": "adamw", "lr": 0.001}
    backbone = convert({key: Setting(value, "old.py:3") for key, value in settings.items()}, "old.py").config.backbone
    assert backbone.mask_ratio == (0.1 if network in MASKED else None)
    assert backbone.activation_checkpointing == (None if network == "vit_t_dp005_mask0" else True)
