"""Every file of configs/: it loads, it can be planned, and its network builds."""

from __future__ import annotations

import json
import re

import pytest
import torch

from recognition.backbones import build_backbone
from recognition.config.loader import load_config
from recognition.plan import make_plan, render_plan
from tests.helpers.places import GOLDEN, ROOT

FOLDER = ROOT / "configs"
CONFIGS = sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.yaml"))
# Sizes of the sets that are made here and not stated in their configs.
SIZES = {
    "base": (100_000, 1_000),
    "demo": (8_000, 400),
    "demo_vit": (8_000, 400),
    "lfw_tiny": (8_000, 3_000),
    "lfw_distill": (8_000, 3_000),
    "lfw_medium": (8_000, 3_000),
    "my_faces": (8_000, 400),
}


@pytest.fixture(params=CONFIGS)
def name(request) -> str:
    return request.param


def head_comment(name: str) -> str:
    lines = (ROOT / "configs" / f"{name}.yaml").read_text().splitlines()
    head = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    return " ".join(line.lstrip("# ") for line in head)


def test_it_loads_plans_and_builds(name):
    config = load_config(f"configs/{name}")
    num_images, num_classes = config.data.num_image, config.data.num_classes
    if name in SIZES or name.startswith("losses/"):
        num_images, num_classes = SIZES.get(name, SIZES["lfw_tiny"])
    assert num_images
    assert num_classes
    images_per_rank = config.train.batch_size * config.train.gradient_accumulation
    world_size = (config.optim.reference_batch or 128) // images_per_rank
    plan = make_plan(config, world_size=world_size, num_images=num_images, num_classes=num_classes)
    assert "chosen for this global batch" in render_plan(plan) or name == "base"
    with torch.device("meta"):
        module = build_backbone(
            config.backbone.network,
            embedding_size=config.backbone.embedding_size,
            image_size=config.data.image_size,
        )
    assert sum(parameter.numel() for parameter in module.parameters()) == plan.memory.num_parameters


def test_its_head_tells_command_hardware_and_result(name):
    if name == "base":
        return
    head = head_comment(name)
    for word in ("Command: ", "Hardware: "):
        assert word in head
    assert re.search(r"(Published|Result): ", head)
    assert f"configs/{name}" in head or name == "losses/lfw_base"
    published = "Published: " in head
    assert ("Source: " in head) == published


def test_the_names_of_arcface_torch_are_here():
    expected = {f"{data}_{net}" for data in ("ms1mv2", "ms1mv3", "glint360k") for net in ("r50", "r100", "mbf")}
    expected |= {"ms1mv3_r50_onegpu", "wf4m_r50", "wf4m_r100", "wf4m_mbf", "wf12m_pfc02_r100", "wf42m_pfc02_r100"}
    expected |= {"wf12m_conflict_r50", "wf12m_flip_pfc01_filter04_r50", "wf42m_pfc03_32gpu_r200"}
    assert expected <= set(CONFIGS)
    assert set(json.loads((GOLDEN / "arcface_torch_configs.json").read_text())) <= set(CONFIGS)


def test_runs_on_one_data_set_state_the_same_sizes():
    sizes: dict[str, set[tuple]] = {}
    for name in CONFIGS:
        data = load_config(f"configs/{name}").data
        if data.num_image:
            assert data.rec
            sizes.setdefault(data.rec, set()).add((data.num_image, data.num_classes))
    assert sizes
    assert all(len(found) == 1 for found in sizes.values()), sizes


def test_no_file_beside_the_configs_is_left_unread():
    assert {path.suffix for path in FOLDER.rglob("*") if path.is_file()} == {".yaml"}
