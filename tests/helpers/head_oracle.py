"""The slow truth: margin-softmax over all classes in one process, on normalized full logits, by plain autograd in
float64, every margin written from its paper's equation.

Shares no code with the head under test.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class Problem:
    """What is computed; the sizes come with the tensors."""

    margin: str = "combined"
    settings: Mapping[str, Any] = field(default_factory=dict)
    scale: float = 64.0
    sub_centers: int = 1
    threshold: float = 0.0
    coasts: bool = False
    """Whether SGD moves the rows that a step does not see, by their momentum and decay."""

    def first_state(self) -> State:
        """What the margin has before the first step."""
        start = {"adaface": {"mean": 20.0, "std": 100.0}, "curricularface": {"t": 0.0}}.get(self.margin, {})
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in start.items()}


@dataclass
class Truth:
    """What each forward and step gave, and what is left after all of them."""

    losses: list[float]  # of each forward
    embedding_gradients: list[Tensor]  # of each forward, as if it alone were the step
    center_gradient: Tensor  # of the first step
    centers: Tensor
    momentum: Tensor
    second_moment: Tensor
    state: State


@dataclass(frozen=True)
class Forward:
    """One call of the head: embeddings [N, D], labels [N], which classes it sees, and what its loss is scaled by."""

    embeddings: Tensor
    labels: Tensor
    allowed: Tensor | None = None
    weight: float = 1.0
    correction: Tensor | None = None
    """What is added to the logits of classes as negatives [C]."""


def _angle(cosine: Tensor) -> Tensor:
    return torch.arccos(cosine.clamp(-1 + 1e-15, 1 - 1e-15))


def _combined(cosine: Tensor, m1: float, m2: float, m3: float) -> Tensor:
    """cos(m1 * theta + m2) - m3, continued past pi as the project documents, by autograd."""
    if m1 == 1 and m2 == 0:
        return cosine - m3
    angle = m1 * _angle(cosine) + m2
    drop = m2 * math.sin(m2) if m1 == 1 else 1 + math.cos((math.pi - m2) / m1)
    return torch.where(angle <= math.pi, torch.cos(angle), cosine - drop) - m3


def _seen(problem: Problem, state: State, target: Tensor, lengths: Tensor) -> State:
    """The margin's statistics after a batch: exponential means, as published."""
    share = problem.settings.get("alpha", 0.01)
    if problem.margin == "curricularface":
        return {"t": share * target.mean().detach() + (1 - share) * state["t"]}
    if problem.margin == "adaface":
        clipped = lengths.detach().clamp(1e-3, 100)
        return {
            "mean": share * clipped.mean() + (1 - share) * state["mean"],
            "std": share * clipped.std() + (1 - share) * state["std"],
        }
    return state


def _shaped(problem: Problem, state: State, target: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
    """The target's logit before the scale."""
    given = problem.settings
    if problem.margin == "adaface":
        m, h = given.get("m", 0.4), given.get("h", 0.333)
        used = lengths if given.get("length_gradient") == "exact" else lengths.detach()
        quality = ((used.clamp(1e-3, 100) - state["mean"]) / (state["std"] + 1e-3) * h).clamp(-1, 1)
        angle = (_angle(target) - m * quality).clamp(1e-3, math.pi - 1e-3)
        return torch.cos(angle) - (m + m * quality)
    if problem.margin == "curricularface":
        return _combined(target, 1.0, given.get("m", 0.5), 0.0)
    if problem.margin == "by_class":
        return target - (labels % 4) * 0.1
    shaped = _combined(target, given.get("m1", 1.0), given.get("m2", 0.5), given.get("m3", 0.0))
    if given.get("gradient") == "exact":
        return shaped
    return target + (shaped - target).detach()


def _others(problem: Problem, state: State, cosine: Tensor, target: Tensor) -> Tensor:
    """The logits of other classes before the scale [N, C]."""
    if problem.margin != "curricularface":
        return cosine
    edge = torch.cos(_angle(target.detach()) + problem.settings.get("m", 0.5)).unsqueeze(1)
    return torch.where(cosine.detach() > edge, cosine * (state["t"] + cosine), cosine)


def row_losses(
    embeddings: Tensor,
    centers: Tensor,
    labels: Tensor,
    problem: Problem,
    allowed: Tensor | None = None,
    state: State | None = None,
    correction: Tensor | None = None,
) -> tuple[Tensor, State]:
    """Loss per row, and the margin's state with this batch in it, which the losses already follow.

    `allowed` [C] bool leaves out the classes that a sampled step does not see (never a row's own).
    """
    lengths = embeddings.norm(dim=1)
    w = centers / centers.norm(dim=1, keepdim=True)
    x = embeddings / lengths.unsqueeze(1)
    cosine = (x @ w.T).view(len(x), -1, problem.sub_centers).max(dim=2).values  # [N, C]
    own = torch.nn.functional.one_hot(labels, cosine.shape[1]).bool()
    target = cosine[own]
    state = _seen(problem, problem.first_state() if state is None else state, target, lengths)
    shaped = _shaped(problem, state, target, lengths, labels)
    logits = torch.where(own, shaped.unsqueeze(1), _others(problem, state, cosine, target)) * problem.scale
    if correction is not None:
        logits = torch.where(own, logits, logits + correction)
    hidden = torch.zeros_like(own)
    if problem.threshold:
        hidden |= cosine > problem.threshold
    if allowed is not None:
        hidden |= ~allowed
    logits = logits.masked_fill(hidden & ~own, -math.inf)
    # log(1 + sum over negatives of exp(z - z_t)): exact also where the loss is 1e-5 and less
    gaps = (logits - logits[own].unsqueeze(1)).masked_fill(own, -math.inf)
    losses = torch.nn.functional.softplus(torch.logsumexp(gaps, dim=1), threshold=1e9)
    if problem.margin == "by_class":
        losses = losses * (1 + labels % 3) + 0.01 * lengths
    return losses, state


def train(
    steps: list[list[Forward]],
    centers: Tensor,
    problem: Problem,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    betas: tuple[float, float] | None = None,
    eps: float = 1e-8,
) -> Truth:
    """Run SGD, or AdamW with `betas`, on the centers over `steps`, each of forwards whose weighted losses add up.

    Rows that no forward of a step is allowed to see are left alone, unless they coast. A row's steps are counted when
    it is moved.
    """
    weights = centers.double().clone().requires_grad_()
    buffer, second, counts = torch.zeros_like(weights), torch.zeros_like(weights), torch.zeros(len(weights), 1)
    state = problem.first_state()
    losses, gradients, of_first_step = [], [], torch.empty(0)
    for number, forwards in enumerate(steps):
        total = torch.zeros_like(weights)
        for forward in forwards:
            leaf = forward.embeddings.double().clone().requires_grad_()
            rows, state = row_losses(leaf, weights, forward.labels, problem, forward.allowed, state, forward.correction)
            loss = rows.mean() * forward.weight
            of_rows, of_weights = torch.autograd.grad(loss, [leaf, weights])
            total += of_weights
            losses.append(loss.item() / forward.weight)
            gradients.append(of_rows)
        if number == 0:
            of_first_step = total
        with torch.no_grad():
            if betas is None:
                moved_buffer, moved_second = momentum * buffer + total + weight_decay * weights, second
                moved = weights - lr * moved_buffer
            else:
                moved_buffer = betas[0] * buffer + (1 - betas[0]) * total
                moved_second = betas[1] * second + (1 - betas[1]) * total**2
                first = moved_buffer / (1 - betas[0] ** (counts + 1).double())
                spread = (moved_second / (1 - betas[1] ** (counts + 1).double())).sqrt() + eps
                moved = weights - lr * weight_decay * weights - lr * first / spread
            masks = [forward.allowed for forward in forwards if forward.allowed is not None and not problem.coasts]
            still = ~torch.stack(masks).any(0).repeat_interleave(problem.sub_centers) if masks else torch.tensor(False)
            mask = still.unsqueeze(-1)
            buffer, second = torch.where(mask, buffer, moved_buffer), torch.where(mask, second, moved_second)
            counts += ~mask
            weights.copy_(torch.where(mask, weights, moved))
    return Truth(losses, gradients, of_first_step, weights.detach(), buffer, second, state)
