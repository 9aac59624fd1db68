"""The slow truth: margin-softmax over all classes in one process, on normalized full logits, by plain autograd in
float64.

Shares no code with the head under test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """What is computed; the sizes come with the tensors."""

    margins: tuple[float, float, float] = (1.0, 0.5, 0.0)
    scale: float = 64.0
    exact: bool = False
    sub_centers: int = 1
    threshold: float = 0.0


@dataclass
class Truth:
    """Loss of the first step, its gradients, and the centers and momentum after all steps."""

    losses: list[float]
    embedding_gradients: list[Tensor]  # per step [N, D]
    center_gradient: Tensor  # of the first step
    centers: Tensor
    momentum: Tensor


def margin_logit(cosine: Tensor, m1: float, m2: float, m3: float) -> Tensor:
    """cos(m1 * theta + m2) - m3, continued past pi as the project documents, by autograd."""
    if m1 == 1 and m2 == 0:
        return cosine - m3
    theta = torch.arccos(cosine.clamp(-1 + 1e-15, 1 - 1e-15))
    angle = m1 * theta + m2
    drop = m2 * math.sin(m2) if m1 == 1 else 1 + math.cos((math.pi - m2) / m1)
    return torch.where(angle <= math.pi, torch.cos(angle), cosine - drop) - m3


def row_losses(
    embeddings: Tensor, centers: Tensor, labels: Tensor, problem: Problem, allowed: Tensor | None = None
) -> Tensor:
    """Loss per row. `allowed` [C] bool leaves out the classes a sampled step does not see (never a row's own)."""
    x = embeddings / embeddings.norm(dim=1, keepdim=True)
    w = centers / centers.norm(dim=1, keepdim=True)
    cosine = (x @ w.T).view(len(x), -1, problem.sub_centers).max(dim=2).values  # [N, C]
    own = torch.nn.functional.one_hot(labels, cosine.shape[1]).bool()
    target = cosine[own]
    shaped = margin_logit(target, *problem.margins)
    if not problem.exact:
        shaped = target + (shaped - target).detach()
    logits = torch.where(own, shaped.unsqueeze(1), cosine) * problem.scale
    hidden = torch.zeros_like(own)
    if problem.threshold:
        hidden |= cosine > problem.threshold
    if allowed is not None:
        hidden |= ~allowed
    logits = logits.masked_fill(hidden & ~own, -math.inf)
    # log(1 + sum over negatives of exp(z - z_t)): exact also where the loss is 1e-5 and less
    gaps = (logits - logits[own].unsqueeze(1)).masked_fill(own, -math.inf)
    return torch.nn.functional.softplus(torch.logsumexp(gaps, dim=1), threshold=1e9)


def train(
    steps: list[tuple[Tensor, Tensor]],
    centers: Tensor,
    problem: Problem,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    allowed: list[Tensor] | None = None,
) -> Truth:
    """Run SGD on the centers over `steps` of (embeddings [N, D], labels [N]); rows not `allowed` are left alone."""
    weights = centers.double().clone().requires_grad_()
    optimizer = torch.optim.SGD([weights], lr=lr, momentum=momentum, weight_decay=weight_decay)
    losses, gradients, first = [], [], torch.empty(0)
    buffer = torch.zeros_like(weights)
    for number, (embeddings, labels) in enumerate(steps):
        leaf = embeddings.double().clone().requires_grad_()
        loss = row_losses(leaf, weights, labels, problem, None if allowed is None else allowed[number]).mean()
        optimizer.zero_grad()
        loss.backward()
        assert leaf.grad is not None
        assert weights.grad is not None
        if number == 0:
            first = weights.grad.clone()
        before = weights.detach().clone(), buffer.clone()
        if number:
            optimizer.state[weights]["momentum_buffer"].copy_(buffer)
        optimizer.step()
        buffer = optimizer.state[weights]["momentum_buffer"].clone()
        if allowed is not None:
            still = ~allowed[number].repeat_interleave(problem.sub_centers)
            weights.data[still], buffer[still] = before[0][still], before[1][still]
        losses.append(loss.item())
        gradients.append(leaf.grad)
    return Truth(losses, gradients, first, weights.detach(), buffer)
