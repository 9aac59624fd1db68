"""A checkpoint's meta: what is written is read back, older versions' too, and nothing else passes for one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from recognition.errors import CheckpointError
from recognition.training.run_meta import OrderSettings, RunMeta
from recognition.training.scaler import ScalerState
from recognition.training.state import TrainState

ORDER = OrderSettings(num_images=132, seed=2048, shuffle_block=1, images_per_identity=None)
META = RunMeta(TrainState(step=7, best={"lfw": 0.5}), ScalerState(2.0, 3), "tiny", 128, ORDER)
OLD = """{
 "state": {"step": 7, "images_seen": 896, "refused_steps": 0, "refused_in_a_row": 0, "validated_step": 7,
  "accuracy": 0.5, "best": {"lfw": 0.5}, "unreported_steps": 0, "unreported_sums": {}},
 "scaler": {"scale": 1.0, "good_steps": 0}, "network": "r50", "global_batch": 1024,
 "order": {"num_images": 132, "seed": 2048, "shuffle_block": 1, "images_per_identity": null}
}"""
"""As the first version with this format wrote it."""


def test_what_is_written_is_read_back_and_shares_nothing_with_the_run() -> None:
    values = META.as_json()
    META.state.best["lfw"] = 0.75
    assert values["state"]["best"] == {"lfw": 0.5}
    META.state.best["lfw"] = 0.5
    assert RunMeta.of(json.loads(json.dumps(values)), "here") == META
    foreign = RunMeta(META.state, META.scaler, "tiny", 128)
    assert "order" not in foreign.as_json() and RunMeta.of(foreign.as_json(), "here").order is None


def test_a_meta_of_the_first_version_and_one_of_a_later_are_read() -> None:
    meta = RunMeta.of({**json.loads(OLD), "added": {"later": 1}}, "here")
    assert (meta.state.images_seen, meta.network, meta.global_batch, meta.order) == (896, "r50", 1024, ORDER)
    assert (meta.products, meta.draw) == (None, None)
    assert list(META.as_json()) == [*json.loads(OLD), "products", "draw"], "the names and their order stay"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": None}, "'state' is missing"),
        ({"state": {"step": -1}}, "state 'step' is -1; expected that of a run"),
        ({"scaler": None}, "'scaler' is missing"),
        ({"scaler": {"scale": float("nan"), "good_steps": 0}}, "its loss scale is .*; expected a number and a count"),
        ({"scaler": {"scale": 1.0, "good_steps": True}}, "its loss scale is .*; expected a number and a count"),
        ({"network": 5}, "its network is 5; expected a name"),
        ({"global_batch": 0}, "its global batch is 0; expected a whole number"),
        ({"global_batch": "128"}, "its global batch is '128'; expected a whole number"),
        ({"products": "fp8"}, "its products are 'fp8'; expected float32, tf32, bf16"),
        ({"products": ["bf16"]}, "its products are .*; expected float32"),
        ({"draw": -1}, "its draw is -1; expected a whole number"),
        ({"order": [1]}, "'order' is missing"),
        ({"order": {"seed": "2048"}}, "its order's seed is '2048'; expected a whole number"),
    ],
)
def test_what_is_no_meta_of_a_run_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=f"^here: {message}"):
        RunMeta.of({**META.as_json(), **change}, "here")


def test_another_order_is_named() -> None:
    assert ORDER.difference(ORDER) is None
    assert OrderSettings(num_images=132).difference(ORDER) == "seed was None and is 2048"
