"""The head's place in autograd: a loss whose gradients its forward has formed already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recognition.heads.measure import Gradients
from recognition.heads.passes import Pass

if TYPE_CHECKING:
    from recognition.heads.sharded_softmax import ShardedSoftmax


class MeasuredLoss(torch.autograd.Function):
    """The loss that a forward has measured; its backward returns the gradients that the forward has formed."""

    @staticmethod
    def forward(
        ctx: Any,
        loss: Tensor,
        gathered: Tensor,
        anchor: Tensor | None,
        number: Tensor | None,
        head: ShardedSoftmax,
        passed: Pass,
        gradients: Gradients | None,
    ) -> Tensor:
        ctx.head, ctx.passed, ctx.gradients, ctx.learns = head, passed, gradients, anchor is not None
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        head, passed = ctx.head, ctx.passed
        if passed.version != head.centers._version:
            raise RuntimeError("backward after the centers have moved: take it before the optimizer's step")
        is_bad = passed.is_broken | ~gradient.isfinite()
        rows = None if ctx.gradients is None else torch.where(is_bad, 0.0, ctx.gradients.rows * gradient)
        if not ctx.learns:
            return None, rows, None, None, None, None, None
        weights = head.accept(passed, gradient)
        number = None
        if ctx.needs_input_grad[3] and passed.scalar_gradient is not None:
            number = torch.where(is_bad, 0.0, passed.scalar_gradient.double() * gradient)
        return None, rows, gradient if weights is None else weights, number, None, None, None
