"""What a checkpoint says of its run beside the tensors: the `meta` of its manifest, written and read here alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

from recognition.errors import CheckpointError
from recognition.heads.products import Kind
from recognition.training.scaler import ScalerState
from recognition.training.state import TrainState, is_count, is_finite

_MOST_IMAGES = 1 << 40
DRAW = 2
"""The rule of `recognition.heads.sampling`; the first one was of a generator on the device."""


@dataclass(frozen=True)
class OrderSettings:
    """What decides which images a step sees; with other values the rest of an epoch is another.

    None where a checkpoint does not say it.
    """

    num_images: int | None = None
    seed: int | None = None
    shuffle_block: int | None = None
    images_per_identity: int | None = None

    def difference(self, now: OrderSettings) -> str | None:
        """Return the first value that is another `now`, in words; None when the images are the same."""
        pairs = ((field.name, getattr(self, field.name), getattr(now, field.name)) for field in fields(self))
        return next((f"{name} was {was!r} and is {value!r}" for name, was, value in pairs if was != value), None)


@dataclass(frozen=True)
class RunMeta:
    """Everything of a run that is not a tensor. `order` is None in a checkpoint that another program began."""

    state: TrainState
    scaler: ScalerState
    network: str
    global_batch: int
    order: OrderSettings | None = None
    products: str | None = None
    """What head.products meant on the devices of the run; None in checkpoints that do not say it."""
    draw: int | None = None
    """By which rule classes are sampled, `DRAW` now; None in checkpoints of before it had a number."""

    def as_json(self) -> dict[str, Any]:
        """Return what the manifest holds, JSON-ready; it shares nothing with the run."""
        values = asdict(self)
        if self.order is None:
            del values["order"]
        return values

    @classmethod
    def of(cls, values: Mapping[str, Any], place: str) -> RunMeta:
        """Return what a manifest holds; CheckpointError with `place` when a value is missing or none of a run's.

        Names that are not known here, of a newer version, are passed over.
        """
        images, network = values.get("global_batch"), values.get("network")
        if type(images) is not int or not 1 <= images < _MOST_IMAGES:
            raise CheckpointError(f"{place}: its global batch is {images!r:.40}; expected a whole number")
        if not isinstance(network, str):
            raise CheckpointError(f"{place}: its network is {network!r:.40}; expected a name")
        state = TrainState.of(values.get("state"), place)
        products, draw = values.get("products"), values.get("draw")
        if products not in (None, *get_args(Kind)):
            raise CheckpointError(f"{place}: its products are {products!r:.40}; expected {', '.join(get_args(Kind))}")
        if draw is not None and not is_count(draw):
            raise CheckpointError(f"{place}: its draw is {draw!r:.40}; expected a whole number")
        return cls(state, _scaler_of(values, place), network, images, _order_of(values, place), products, draw)


def _scaler_of(values: Mapping[str, Any], place: str) -> ScalerState:
    held = _mapping(values, "scaler", place)
    scale: Any = held.get("scale")
    good_steps: Any = held.get("good_steps")
    if not (is_finite(scale) and is_count(good_steps)):
        raise CheckpointError(f"{place}: its loss scale is {dict(held)!r:.60}; expected a number and a count")
    return ScalerState(scale, good_steps)


def _order_of(values: Mapping[str, Any], place: str) -> OrderSettings | None:
    if values.get("order") is None:
        return None  # of another program: its epochs had an order of their own
    held = _mapping(values, "order", place)
    found = {field.name: held.get(field.name) for field in fields(OrderSettings)}
    for name, value in found.items():
        if value is not None and type(value) is not int:
            raise CheckpointError(f"{place}: its order's {name} is {value!r:.40}; expected a whole number")
    return OrderSettings(**found)


def _mapping(values: Mapping[str, Any], key: str, place: str) -> Mapping[str, Any]:
    value = values.get(key)
    if not isinstance(value, dict):
        raise CheckpointError(f"{place}: {key!r} is missing from its manifest's meta")
    return value
