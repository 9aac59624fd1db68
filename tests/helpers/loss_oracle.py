"""Every loss of the registry from its paper's equation: full float64 logits, plain autograd, one process.

Shares no code with the head under test. The losses that `head_oracle` had before are there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from tests.helpers.head_oracle import Forward, Truth

State = dict[str, Tensor]


@dataclass(frozen=True)
class Loss:
    """One loss on one head."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    scale: float = 16.0
    num_classes: int = 23
    smoothing: float = 0.0
    threshold: float = 0.0
    sub_centers: int = 1
    rate: float = 1.0
    sizes: Tensor | None = None
    weights: Tensor | None = None

    def get(self, key: str, default: Any) -> Any:
        return self.settings.get(key, default)

    def first_state(self) -> State:
        """What the loss has learned before the first step."""
        start: dict[str, float] = {}
        if self.name == "sphereface2":
            start = {"b": self._equal_pull()}
        if self.name == "uniface":
            start = {"b": math.log(10 * self.num_classes * self.rate)}
        if self.name == "curricularface":
            start = {"t": 0.0}
        if self.name == "adaface":
            start = {"mean": 20.0, "std": 100.0}
        if self.name == "adacos" and self.get("scale", "fixed") != "fixed":
            start = {"s": math.sqrt(2) * math.log(self.num_classes - 1)}
        if self.name in ("lsoftmax", "asoftmax"):
            start = {"steps": 0.0}
        return {key: torch.tensor(value, dtype=torch.float64) for key, value in start.items()}

    def _equal_pull(self) -> float:
        """The b at which own class and others pull alike where all cosines are 0: by bisection, not by its formula."""
        m, t, share = self.get("m", 0.4), self.get("t", 3.0), self.get("balance", 0.7)
        middle = 2 * 0.5**t - 1

        def pull(b: float) -> float:
            own = share / (1 + math.exp(self.scale * (middle - m) + b))
            others = (1 - share) * (self.num_classes - 1) / (1 + math.exp(-self.scale * (middle + m) - b))
            return own - others

        low, high = -100.0, 100.0
        for _ in range(200):
            center = (low + high) / 2
            low, high = (center, high) if pull(center) > 0 else (low, center)
        return low


def _angle(cosine: Tensor) -> Tensor:
    return torch.arccos(cosine.clamp(-1 + 1e-15, 1 - 1e-15))


def _plus(cosine: Tensor, m: Tensor | float) -> Tensor:
    """cos(theta + m); past pi as ArcFace's first code continued it."""
    m = torch.as_tensor(m, dtype=torch.float64)
    angle = _angle(cosine) + m
    return torch.where(angle <= math.pi, torch.cos(angle), cosine - m * torch.sin(m))


def _psi(cosine: Tensor, m: float) -> Tensor:
    """By cases, as L-Softmax and SphereFace print it."""
    theta = _angle(cosine)
    value = torch.full_like(theta, math.nan)
    for k in range(math.ceil(m) + 1):
        inside = (theta >= k * math.pi / m) & (theta <= (k + 1) * math.pi / m)
        value = torch.where(inside, (-1) ** k * torch.cos(m * theta) - 2 * k, value)
    return value


def _given(value: Tensor, cosine: Tensor, is_exact: bool) -> Tensor:
    """The value with its own gradient, or with that of the cosine."""
    return value if is_exact else cosine + (value - cosine).detach()


def _own(loss: Loss, cosine: Tensor, lengths: Tensor, labels: Tensor, state: State, margins: Tensor | None) -> Tensor:
    """The own class's logit before the scale."""
    get, name = loss.get, loss.name
    is_exact = get("gradient", "") == "exact"
    if name == "arcface":
        value = _plus(cosine, get("m", 0.5))
        value = torch.where(cosine > 0, value, cosine) if get("easy_margin", False) else value
        return _given(value, cosine, is_exact)
    if name == "sphereface":
        return _given(_psi(cosine, get("m", 1.35)), cosine, is_exact)
    if name == "spherefacer":
        if get("version", "v1") == "v2":
            return cosine
        return _given(torch.cos((get("m", 1.5) * _angle(cosine)).clamp(max=math.pi)), cosine, is_exact)
    if name == "elasticface":
        assert margins is not None
        return _plus(cosine, margins) if get("kind", "arc") == "arc" else cosine - margins
    if name == "ldam":
        assert loss.sizes is not None
        each = 1 / loss.sizes.double() ** 0.25
        return cosine - (each / each.max() * get("m", 0.5))[labels]
    if name == "magface":
        length = lengths.clamp(get("l_a", 10.0), get("u_a", 110.0))
        slope = (get("u_m", 0.8) - get("l_m", 0.45)) / (get("u_a", 110.0) - get("l_a", 10.0))
        value = _plus(cosine, get("l_m", 0.45) + slope * (length - get("l_a", 10.0)))
        return torch.where(cosine > 0, value, cosine) if get("easy_margin", True) else value
    if name in ("mvsoftmax", "curricularface"):
        is_arc = name == "curricularface" or get("kind", "am") == "arc"
        return _plus(cosine, get("m", 0.5)) if is_arc else cosine - get("m", 0.35)
    if name == "circle":
        m = get("m", 0.25)
        weight = (1 + m - cosine).clamp(min=0)
        return (weight if is_exact else weight.detach()) * (cosine - (1 - m))
    if name == "adaface":
        m = get("m", 0.4)
        quality = ((lengths.detach().clamp(1e-3, 100) - state["mean"]) / (state["std"] + 1e-3) * 0.333).clamp(-1, 1)
        return torch.cos((_angle(cosine) - m * quality).clamp(1e-3, math.pi - 1e-3)) - (m + m * quality)
    if name == "sphereface2":
        value = 2 * ((cosine + 1) / 2) ** get("t", 3.0) - 1 - get("m", 0.4)
        return _given(value, cosine, is_exact) + state["b"] / loss.scale
    if name == "uniface":
        return cosine - get("m", 0.4) - state["b"] / loss.scale
    if name in ("lsoftmax", "asoftmax"):
        m, floor = get("m", 2 if name == "lsoftmax" else 4), get("lambda_min", 0.0 if name == "lsoftmax" else 5.0)
        gamma, power = get("gamma", 0.12), get("power", 1.0)
        weight = max(floor, get("base", 1000.0) * (1 + gamma * state["steps"].item()) ** -power)
        return (weight * cosine + _psi(cosine, m)) / (1 + weight)
    if name == "combined":
        return _given(_plus(cosine, 0.5), cosine, is_exact)
    return cosine - get("m", 0.4) if name == "cosface" else cosine


def _others(loss: Loss, cosine: Tensor, target: Tensor, state: State) -> Tensor:
    """The other classes' logits before the scale [N, C]."""
    get, name = loss.get, loss.name
    is_exact = get("gradient", "") == "exact"
    if name == "spherefacer" and get("version", "v1") == "v2":
        return _given(torch.cos(_angle(cosine) / get("m", 1.5)), cosine, is_exact)
    if name == "circle":
        m = get("m", 0.25)
        weight = (cosine + m).clamp(min=0)
        return (weight if is_exact else weight.detach()) * (cosine - m)
    if name == "mvsoftmax":
        t = get("t", 0.2)
        more = cosine + t if get("weight", "adaptive") == "fixed" else cosine + t * (cosine + 1)
        return torch.where(cosine > target.detach().unsqueeze(1), more, cosine)
    if name == "curricularface":
        return torch.where(cosine.detach() > target.detach().unsqueeze(1), cosine * (state["t"] + cosine), cosine)
    if name == "sphereface2":
        value = 2 * ((cosine + 1) / 2) ** get("t", 3.0) - 1 + get("m", 0.4)
        return _given(value, cosine, is_exact) + state["b"] / loss.scale
    if name == "uniface":
        return cosine - state["b"] / loss.scale
    return cosine


def _observed(loss: Loss, state: State, target: Tensor, lengths: Tensor) -> State:
    """The state that this batch's logits follow."""
    share = loss.get("alpha", 0.01)
    if loss.name == "curricularface":
        return {"t": share * target.mean() + (1 - share) * state["t"]}
    if loss.name == "adaface":
        clipped = lengths.clamp(1e-3, 100)
        return {
            "mean": share * clipped.mean() + (1 - share) * state["mean"],
            "std": share * clipped.std() + (1 - share) * state["std"],
        }
    if loss.name in ("lsoftmax", "asoftmax"):
        return {"steps": state["steps"] + 1}
    return state


def _logits(
    loss: Loss, embeddings: Tensor, centers: Tensor, forward: Forward, state: State, margins: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, State]:
    """Logits [N, C], which of them are the own ones and which are left out, and the state after the batch."""
    if loss.name == "softmax" and loss.get("bias", True):
        embeddings = torch.cat([embeddings, torch.ones_like(embeddings[:, :1])], 1)
    lengths, widths = embeddings.norm(dim=1), centers.norm(dim=1)
    cosine = (embeddings / lengths.unsqueeze(1)) @ (centers / widths.unsqueeze(1)).T
    if loss.sub_centers > 1:
        cosine = cosine.view(len(cosine), -1, loss.sub_centers).max(2).values
    own = torch.nn.functional.one_hot(forward.labels, cosine.shape[1]).bool()
    target = cosine[own]
    state = {**state, **_observed(loss, state, target.detach(), lengths.detach())}
    shaped = _own(loss, target, lengths, forward.labels, state, margins)
    z = torch.where(own, shaped.unsqueeze(1), _others(loss, cosine, shaped, state))
    hidden = torch.zeros_like(own) if forward.allowed is None else ~forward.allowed.expand_as(own)
    if loss.threshold:
        hidden = hidden | (cosine > loss.threshold)
    hidden = hidden & ~own
    if loss.name in ("softmax", "lsoftmax", "asoftmax"):
        z = z * lengths.unsqueeze(1) * (1 if loss.name == "asoftmax" else widths)
        return z, own, hidden, state
    if loss.name != "adacos":
        return z * loss.scale, own, hidden, state
    scale = torch.tensor(math.sqrt(2) * math.log(loss.num_classes - 1), dtype=torch.float64)
    if loss.get("scale", "fixed") != "fixed":
        scale = state["s"]
        sums = torch.exp(scale * cosine.detach()).masked_fill(own | hidden, 0.0).sum(1).mean() / loss.rate
        middle = _angle(target.detach()).median()
        state = {**state, "s": (torch.log(sums) / math.cos(min(math.pi / 4, middle.item()))).clamp(1, 64)}
        scale = state["s"] if loss.get("scale", "fixed") == "this_step" else scale
    return z * scale, own, hidden, state


def row_losses(
    loss: Loss, embeddings: Tensor, centers: Tensor, forward: Forward, state: State, margins: Tensor | None
) -> tuple[Tensor, State]:
    """The loss of each row, and what was learned."""
    z, own, hidden, state = _logits(loss, embeddings, centers, forward, state, margins)
    if loss.name in ("sphereface2", "uniface"):
        others = softplus(z, threshold=100.0).masked_fill(own | hidden, 0.0).sum(1)
        positive = softplus(-z[own], threshold=100.0)
        if loss.name == "uniface":
            rows = positive + loss.get("balance", 1.0) * others
        else:
            share = loss.get("balance", 0.7)
            seen = loss.num_classes if forward.allowed is None else int(forward.allowed.sum())
            rows = share / loss.scale * positive
            rows = rows + (1 - share) / loss.scale * others * (loss.num_classes - 1) / (seen - 1)
    else:
        logs = torch.log_softmax(z.masked_fill(hidden, -math.inf), 1)
        smooth = logs.masked_fill(hidden, 0.0).sum(1) / (~hidden).sum(1)
        rows = -(1 - loss.smoothing) * logs[own] - loss.smoothing * smooth
    if loss.weights is not None:
        rows = rows * loss.weights[forward.labels]
    if loss.name == "magface":
        top = loss.get("u_a", 110.0)
        length = embeddings.norm(dim=1).clamp(loss.get("l_a", 10.0), top)
        rows = rows + loss.get("lambda_g", 35.0) * (1 / length + length / top**2)
    return rows, state


def train(
    loss: Loss,
    steps: list[Forward],
    centers: Tensor,
    margins: list[Tensor | None],
    *,
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer],
) -> Truth:
    """Move the centers, and b where there is one, by `optimizer`, one forward a step; unseen rows stay as they are."""
    weights = centers.double().clone().requires_grad_()
    state = loss.first_state()
    b = state["b"].clone().requires_grad_() if "b" in state else None
    moved = [weights] if b is None else [weights, b]
    mover = optimizer(moved)
    losses, gradients, first = [], [], torch.empty(0)
    for number, forward in enumerate(steps):
        leaf = forward.embeddings.double().clone().requires_grad_()
        before = weights.detach().clone(), mover.state[weights].get("momentum_buffer")
        known = state if b is None else {**state, "b": b}
        rows, state = row_losses(loss, leaf, weights, forward, known, margins[number])
        rows.mean().backward()
        assert leaf.grad is not None
        assert weights.grad is not None
        losses.append(rows.mean().item())
        gradients.append(leaf.grad)
        first = weights.grad.clone() if number == 0 else first
        before = before[0], None if before[1] is None else before[1].clone()
        mover.step()
        mover.zero_grad()
        if forward.allowed is not None:
            _restore(weights, mover, ~forward.allowed.repeat_interleave(loss.sub_centers), *before)
        state = {key: value.detach().clone() for key, value in {**state, **({} if b is None else {"b": b})}.items()}
    nothing = torch.empty(0)
    return Truth(losses, gradients, first, weights.detach(), nothing, nothing, state)


def _restore(
    weights: Tensor, mover: torch.optim.Optimizer, still: Tensor, before: Tensor, momentum: Tensor | None
) -> None:
    """Undo an SGD step on the rows that it had not seen."""
    with torch.no_grad():
        weights[still] = before[still]
        mover.state[weights]["momentum_buffer"][still] = 0.0 if momentum is None else momentum[still]
