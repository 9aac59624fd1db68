"""What of a backbone learns, and how fast: frozen parameters, its own rate, groups without weight decay."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from recognition.config.schema import OptimConfig
from recognition.errors import ConfigError
from recognition.heads.optimizer import HeadOptimizer
from recognition.registry import nearest


def freeze_(backbone: nn.Module, optim: OptimConfig) -> None:
    """Let the parameters that `optim.freeze` names get no gradient; ConfigError for a pattern that names none."""
    for parameter in _matching(backbone, optim.freeze, "optim.freeze"):
        parameter.requires_grad_(False)
    if optim.freeze and not any(parameter.requires_grad for parameter in backbone.parameters()):
        raise ConfigError(
            f"optim.freeze: {', '.join(optim.freeze)} names every parameter of the backbone; expected some to train; "
            "name fewer"
        )


def tune_groups_(optimizer: HeadOptimizer, backbone: nn.Module, optim: OptimConfig) -> None:
    """Give the backbone's parameters their factor of the learning rate, and those of `optim.no_decay` no decay.

    ConfigError for a pattern that names no parameter.
    """
    undecayed = {id(parameter) for parameter in _matching(backbone, optim.no_decay, "optim.no_decay")}
    inner = optimizer.backbone
    if inner is None or (not undecayed and optim.backbone_lr_factor == 1):
        return
    own = {id(parameter) for parameter in backbone.parameters()}
    groups: list[dict[str, Any]] = []
    for group in inner.param_groups:
        parts: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for parameter in group["params"]:
            parts.setdefault((id(parameter) in own, id(parameter) in undecayed), []).append(parameter)
        for (is_own, is_undecayed), parameters in parts.items():
            part = {**group, "params": parameters}
            if is_own:
                part["lr_factor"] = group.get("lr_factor", 1.0) * optim.backbone_lr_factor
            if is_undecayed:
                part["weight_decay"] = 0.0
            groups.append(part)
    of_head = optimizer.param_groups[: len(optimizer.param_groups) - len(inner.param_groups)]
    inner.param_groups = groups
    optimizer.param_groups = [*of_head, *groups]


def _matching(backbone: nn.Module, patterns: Sequence[str], key: str) -> list[nn.Parameter]:
    """Return the parameters that any of the patterns names, as `layer1.*` or `*.bias`."""
    named = dict(backbone.named_parameters())
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in named):
            first = sorted({name.partition(".")[0] for name in named})
            raise ConfigError(
                f"{key}: {pattern!r} matches no parameter of the backbone{nearest(pattern.partition('.')[0], first)}; "
                "patterns are such as layer1.* or *.bias"
            )
    return [parameter for name, parameter in named.items() if any(fnmatchcase(name, one) for one in patterns)]
