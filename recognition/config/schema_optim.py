"""The keys of a config's `optim`: the optimizer and its schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recognition.config.keys import BELOW_ONE, Range, Rule, above, at_least, each, key


def _rising(values: tuple[float, ...]) -> bool:
    return all(before < after for before, after in zip((0.0, *values), values))


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer of backbone and centers, and its schedule."""

    optimizer: Literal["sgd", "adamw"] = key(
        "sgd", "sgd or adamw; of the centers too, unless head.optimizer says other"
    )
    lr: float = key(0.1, "used as it is, whatever the global batch", above(0))
    reference_batch: int | None = key(
        None,
        "global batch that lr was chosen for; the plan of a run with another states the linear-scaling value",
        at_least(1),
    )
    momentum: float = key(
        0.9,
        "SGD's, of backbone and centers",
        BELOW_ONE,
        void=Rule(
            lambda c: c.optim.optimizer == c.centers_optimizer == "adamw",
            "with optim.optimizer adamw, for the centers too: nothing runs SGD; remove this key",
        ),
    )
    weight_decay: float = key(0.0005, "of backbone and centers", at_least(0))
    decay_vectors: bool | None = key(
        None,
        "whether it acts on the backbone's vectors too (biases, norms, PReLU); null: with sgd, as published recipes "
        "have it, and not with adamw",
    )
    layer_decay: float = key(
        1.0,
        "a block's learning rate as a multiple of that of the next one (ViT): 0.75 gives the patches of 12 blocks 0.02 "
        "of the last layers' rate",
        Range(lambda value: 0 < value <= 1, "above 0 and at most 1"),
    )
    no_decay: tuple[str, ...] = key(
        (), 'names of parameters of the backbone without weight decay, as patterns: ["*.bias", "bn*"]'
    )
    freeze: tuple[str, ...] = key(
        (),
        'names of parameters of the backbone that stay as they are, as patterns: ["conv1.*", "layer1.*"]; a BatchNorm '
        "that is frozen keeps its statistics",
        clash=Rule(
            lambda c: bool(c.optim.freeze) and c.init_from is None,
            "found {optim.freeze} without init_from, so they would stay random; set init_from",
        ),
    )
    backbone_lr_factor: float = key(1.0, "the backbone's learning rate as a multiple of lr", above(0))
    schedule: Literal["poly", "cosine", "multistep", "plateau"] = key(
        "poly",
        "after a linear warm-up: poly or cosine to 0; multistep: a drop at each milestone; plateau: a drop when the "
        "mean validation score has stopped to rise",
        clash=Rule(
            lambda c: c.optim.schedule == "plateau" and not c.validation.val_targets,
            "plateau follows the validation, and there is none; name validation.val_targets",
        ),
    )
    poly_power: float = key(
        1.0,
        "exponent of poly",
        above(0),
        void=Rule(
            lambda c: c.optim.schedule != "poly",
            "with optim.schedule {optim.schedule}; set optim.schedule: poly or remove this key",
        ),
    )
    milestones: tuple[float, ...] = key(
        (),
        "epochs at which multistep drops, rising, such as [10, 16]",
        Range(_rising, "epochs above 0, each later than the one before"),
        void=Rule(
            lambda c: c.optim.schedule != "multistep",
            "with optim.schedule {optim.schedule}; set optim.schedule: multistep or remove this key",
        ),
        clash=(
            Rule(
                lambda c: c.optim.schedule == "multistep" and not c.optim.milestones,
                "multistep needs some; name the epochs, such as [10, 16]",
            ),
            Rule(
                lambda c: bool(c.optim.milestones) and c.optim.milestones[-1] >= c.train.num_epoch,
                "found {optim.milestones}, expected all of them before the end, train.num_epoch {train.num_epoch}",
            ),
        ),
    )
    drop_factor: float = key(
        0.1,
        "what multistep and plateau multiply the rate by at a drop",
        Range(lambda value: 0 < value < 1, "above 0 and below 1"),
        void=Rule(
            lambda c: c.optim.schedule not in ("multistep", "plateau"),
            "with optim.schedule {optim.schedule}; set optim.schedule: multistep or remove this key",
        ),
    )
    patience: int = key(
        5,
        "validations in a row without a better mean score that plateau waits through",
        at_least(0),
        void=Rule(
            lambda c: c.optim.schedule != "plateau",
            "with optim.schedule {optim.schedule}; set optim.schedule: plateau or remove this key",
        ),
    )
    warmup_epoch: float = key(
        0.0,
        "epochs of warm-up, may be a fraction",
        at_least(0),
        clash=Rule(
            lambda c: c.optim.warmup_epoch >= c.train.num_epoch,
            "found {optim.warmup_epoch}, expected less than train.num_epoch, which is {train.num_epoch}",
        ),
    )
    clip_norm: float = key(5.0, "largest norm of the backbone's gradient; 0: no clipping", at_least(0))
    betas: tuple[float, float] = key(
        (0.9, 0.999),
        "AdamW's",
        each(BELOW_ONE, "two numbers, each at least 0 and below 1"),
        void=Rule(
            lambda c: c.optim.optimizer == c.centers_optimizer == "sgd",
            "with optim.optimizer sgd; set optim.optimizer: adamw or remove this key",
        ),
    )
