"""The planner's arithmetic, and its command."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from recognition.commands.plan import main
from recognition.config.schema import BackboneConfig, Config, HeadConfig, OptimConfig, TrainConfig
from recognition.plan.capacity import cost_of, most_identities
from recognition.plan.memory import rank_memory
from recognition.plan.rates import Rates, measure_rates

CONFIG = Config(
    backbone=BackboneConfig(network="tiny", embedding_size=64), train=TrainConfig(batch_size=16, precision="bf16")
)


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize(
    "head", [HeadConfig(), HeadConfig(centers_format="bf16", momentum_format="int8"), HeadConfig(sub_centers=3)]
)
def test_the_most_identities_fit_and_one_more_per_rank_does_not(ranks, head):
    config = replace(CONFIG, head=head)

    def total(identities: int) -> int:
        return rank_memory(config, world_size=ranks, num_classes=identities).total

    budget = 2**30
    most = most_identities(config, world_size=ranks, memory_bytes=budget)
    assert total(most) <= budget < total(most + 1)


def test_nothing_fits_where_the_backbone_does_not():
    assert most_identities(CONFIG, world_size=1, memory_bytes=1000) == 0


def test_smaller_states_hold_more_identities():
    def most(**head) -> int:
        return most_identities(replace(CONFIG, head=HeadConfig(**head)), world_size=2, memory_bytes=2**30)

    assert most() < most(momentum_format="bf16") < most(centers_format="bf16", momentum_format="int8")


def test_bytes_on_the_wire_are_those_of_a_ring():
    cost = cost_of(CONFIG, world_size=4, num_classes=1000, rates=Rates())
    sent = {collective.name: collective.num_bytes for collective in cost.collectives}
    assert sent["gather embeddings"] == 3 * 16 * 64 * 4
    assert sent["gather labels"] == 3 * 16 * 8
    assert sent["exchange max, sum and target"] == 3 * 3 * 64 * 8
    assert sent["reduce-scatter of their gradient"] == 3 * 16 * 64 * 4
    assert sent["all-reduce of the backbone's gradient"] == 2 * 3 * cost.memory.num_parameters * 4 // 4
    compressed = replace(CONFIG, train=replace(CONFIG.train, gradient_compression="fp16"))
    (half,) = cost_of(compressed, world_size=4, num_classes=1000, rates=Rates()).collectives[-1:]
    assert half.num_bytes == sent["all-reduce of the backbone's gradient"] // 2
    assert cost_of(CONFIG, world_size=1, num_classes=1000, rates=Rates()).collectives == ()


def test_floors_follow_from_the_rates():
    rates = Rates(flops_16_bit=1e12, flops_float32=1e11, memory_bytes_per_s=1e10, wire_bytes_per_s=1e9)
    floors = cost_of(CONFIG, world_size=2, num_classes=1001, rates=rates).floors
    assert floors.head_products_s == pytest.approx(8 * 32 * 501 * 64 / 1e11)
    assert floors.head_traffic_s == pytest.approx(501 * 64 * 20 / 1e10)  # 3 x 4 of centers, 2 x 4 of momentum
    assert floors.step_s == pytest.approx(
        floors.backbone_s + max(floors.head_products_s, floors.head_traffic_s) + floors.collectives_s
    )
    bf16 = replace(CONFIG, head=HeadConfig(products="bf16", centers_format="bf16", momentum_format="int8"))
    lighter = cost_of(bf16, world_size=2, num_classes=1001, rates=rates).floors
    assert lighter.head_products_s == pytest.approx(floors.head_products_s / 10)
    assert lighter.head_traffic_s == pytest.approx(501 * 64 * 8 / 1e10)
    assert cost_of(CONFIG, world_size=2, num_classes=1001, rates=Rates()).floors.step_s is None


def test_sampling_scales_the_floors_of_the_head_and_not_its_memory():
    rates = Rates(1e12, 1e11, 1e10, 1e9)
    full = cost_of(CONFIG, world_size=1, num_classes=100_000, rates=rates)
    tenth = cost_of(replace(CONFIG, head=HeadConfig(sample_rate=0.1)), world_size=1, num_classes=100_000, rates=rates)
    assert tenth.floors.head_products_s == pytest.approx(full.floors.head_products_s / 10)
    assert tenth.floors.head_traffic_s == pytest.approx(full.floors.head_traffic_s / 10)
    assert tenth.memory.centers == full.memory.centers


def test_an_optimizer_turns_over_every_row():
    rates = Rates(1e12, 1e11, 1e10, 1e9)
    autograd = replace(CONFIG, head=HeadConfig(update="autograd"), optim=OptimConfig(optimizer="adamw"))
    cost = cost_of(autograd, world_size=1, num_classes=1000, rates=rates)
    assert cost.floors.head_traffic_s == pytest.approx(1000 * 64 * (12 + 12 + 16) / 1e10)
    assert cost.memory.centers_optimizer == 2 * cost.memory.centers


def test_this_machine_can_be_measured(monkeypatch):
    monkeypatch.setattr("recognition.plan.rates._MEASURE_S", 0.01)
    rates = measure_rates()
    assert rates.flops_float32
    assert rates.flops_float32 > 1e8
    assert rates.memory_bytes_per_s
    assert rates.memory_bytes_per_s > 1e7
    assert rates.wire_bytes_per_s is None


def test_the_command_answers_in_words_and_in_json(capsys):
    assert main(["--identities", "1e6", "--ranks", "8", "--network", "tiny", "--tflops", "1"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("1,000,000 identities on 8 ranks, tiny, 128 images each\n")
    assert "all-reduce of the backbone's gradient" in text
    assert main(["--identities", "10e6", "--network", "tiny", "--memory-gib", "8", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["identities"] == 10_000_000
    assert answer["fits"] is False
    assert answer["memory_bytes"]["total"] > 8 * 2**30
    assert 1_000_000 < answer["most_identities"] < 2_100_000
    assert main(["--memory-gib", "8", "--reserve-gib", "1", "--network", "tiny"]) == 0
    assert "in 8 GiB a rank, 1 GiB of them kept free: at most" in capsys.readouterr().out
    assert main(["--memory-gib", "8", "--network", "tiny", "--identities", "1e8"]) == 0
    assert "does not fit: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--identities and --memory-gib are both absent; state one, or both"),
        (["--memory-gib", "0.001"], "--memory-gib 0.001: no identity fits, the run needs"),
        (["--identities", "9", "--network", "r51"], "unknown backbone.network 'r51'"),
        (["--identities", "9", "--sample-rate", "1.5"], "head.sample_rate: found 1.5, expected between 0 and 1"),
        (["--identities", "9", "--update", "autograd", "--centers-format", "bf16"], "head.centers_format: would be"),
    ],
)
def test_the_command_refuses_in_one_line(capsys, flags, message):
    assert main(flags) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"plan: error: {message}")
    assert error.count("\n") == 1


@pytest.mark.parametrize("value", ["x", "0", "-1", "1.5", "inf", "nan"])
def test_an_impossible_number_is_bad_usage(capsys, value):
    with pytest.raises(SystemExit, match="2"):
        main([f"--identities={value}"])
    assert f"argument --identities: '{value}' is not" in capsys.readouterr().err
