"""One backbone on every rank: gradients averaged by DDP, and BatchNorm over the global batch.

`nn.SyncBatchNorm` refuses CPU tensors; the one here is made of BatchNorm's own kernels and two collectives.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from recognition.distributed.collectives import all_reduce_sum_, gather_stack
from recognition.distributed.sync_bn_kernels import normalize_on_cuda
from recognition.distributed.world import World, joined_world

Compression = Literal["none", "bf16", "fp16"]
_TRAVELS_AS = {"bf16": torch.bfloat16, "fp16": torch.float16}

# torch 2.13 renamed the argument and warns at the old name; 2.6 has only the old one.
_SYNC_BUFFERS = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)


def replicate(module: nn.Module, world: World, *, compression: Compression = "none") -> nn.Module:
    """Wrap `module` so that backward averages its gradients over ranks; with one rank return it as it is.

    Rank 0's weights are copied to all ranks. Buffers stay each rank's own (see `averaged_buffers`). With gradient
    accumulation, hold back all but the last backward by the wrapper's `no_sync()`. Gradients come out as None, and
    after a backward they are views of the buckets they traveled in. `compression`: the type in which they travel and
    are summed; what fp16 cannot hold is infinite on every rank.
    """
    if world.size == 1:
        return module
    keep_buffers: dict[str, Any] = {_SYNC_BUFFERS: False}
    replica = DistributedDataParallel(module, gradient_as_bucket_view=True, **keep_buffers)
    if compression != "none":
        dtype = _TRAVELS_AS[compression]
        replica.register_comm_hook(None, lambda _, bucket: _average_in(dtype, bucket.buffer()))
    _settle_buckets(replica)
    return replica


def _average_in(dtype: torch.dtype, gradients: Tensor) -> torch.futures.Future[Tensor]:
    """Average a bucket of gradients over the ranks in `dtype`; torch's own hook does it with NCCL alone.

    Divided in float32 first: each element is rounded once before the sum, and what a rank holds alone cannot overflow.
    """
    sent = (gradients / dist.get_world_size()).to(dtype)
    summed = dist.all_reduce(sent, async_op=True).get_future()
    return summed.then(lambda _: gradients.copy_(sent))  # type: ignore[no-any-return]


def _settle_buckets(replica: DistributedDataParallel) -> None:
    """Spend DDP's one change of its buckets before the first step.

    DDP lays the gradients out anew after the first backward, in the order in which they came. Three and more ranks sum
    an element in an order that depends on its place, so the first step after a resume would differ in the last bit
    from the same step of an uninterrupted run. A first backward of zeros, last parameter first, fixes the layout.
    """
    module = replica.module
    replica.module = _ZeroOfAllParameters(module)
    replica().backward()
    replica.module = module
    module.zero_grad(set_to_none=True)


class _ZeroOfAllParameters(nn.Module):
    """forward() -> 0, by way of every parameter that is trained, the last of them on top."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self) -> Tensor:
        trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        total = trained[0].new_zeros(())
        for parameter in trained:
            total = total + parameter.sum() * 0.0
        return total


def holding_back(replica: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Return a context in which backward adds to this rank's gradients and sends nothing, for all but the last
    micro-batch of a step."""
    return replica.no_sync() if isinstance(replica, DistributedDataParallel) else contextlib.nullcontext()


def average_buffers_(module: nn.Module, world: World) -> None:
    """Replace every floating-point buffer of `module`, in place, by its mean over ranks.

    Buffers that are equal already keep their bits. Collective: one sum.
    """
    buffers = _float_buffers(module)
    if world.size == 1 or not buffers:
        return
    # float64: the sum of equal float32 values is exact, so its mean is the value itself.
    means = torch.cat([buffer.detach().double().flatten() for buffer in buffers])
    all_reduce_sum_(means, world).div_(world.size)
    for buffer, mean in zip(buffers, means.split([buffer.numel() for buffer in buffers])):
        buffer.copy_(mean.view_as(buffer))


@contextlib.contextmanager
def averaged_buffers(module: nn.Module, world: World) -> Iterator[None]:
    """Within, the buffers are their mean over ranks, and all ranks one model; afterwards each has its own bits again.

    Without sync_bn each rank keeps BatchNorm statistics of its own images, and looking at the model must not change
    the training. Collective: one sum.
    """
    buffers = _float_buffers(module)
    own = [buffer.clone() for buffer in buffers]
    average_buffers_(module, world)
    try:
        yield
    finally:
        for buffer, before in zip(buffers, own):
            buffer.copy_(before)


def _float_buffers(module: nn.Module) -> list[Tensor]:
    return [buffer for buffer in module.buffers() if buffer.is_floating_point()]


def convert_sync_bn(module: nn.Module) -> nn.Module:
    """Return `module` with every BatchNorm replaced by `SyncBatchNorm`.

    Parameters and buffers are the same objects under the same keys; `module` itself is changed, if not a BatchNorm.
    """
    if isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm):
        return SyncBatchNorm.like(module)
    for name, child in module.named_children():
        setattr(module, name, convert_sync_bn(child))
    return module


class SyncBatchNorm(_BatchNorm):
    """BatchNorm whose training statistics are those of the batches of all ranks together.

    The result does not depend on how the global batch is cut into ranks, which may hold different numbers of rows.
    Collectives per call in training: one gather of 2 C + 1 numbers forward, one sum of 2 C backward. On CUDA it is
    made of the kernels of nn.SyncBatchNorm, which itself waits for the device in every call to leave out empty ranks.
    """

    @classmethod
    def like(cls, norm: _BatchNorm) -> SyncBatchNorm:
        """Return a layer that shares parameters, buffers and settings with `norm`."""
        device = norm.running_mean.device if norm.running_mean is not None else None
        layer = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, device=device)
        for name, parameter in norm._parameters.items():
            layer.register_parameter(name, parameter)
        for name, buffer in norm._buffers.items():
            layer.register_buffer(name, buffer)
        return layer.train(norm.training)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2 or input.shape[1] != self.num_features:
            raise ValueError(f"BatchNorm got {list(input.shape)}; expected [B, {self.num_features}, ...]")

    def forward(self, input: Tensor) -> Tensor:
        world = joined_world(input.device)
        if not self.training or world.size == 1:
            return super().forward(input)
        self._check_input_dim(input)
        if input.is_cuda and self.affine and self.momentum is not None:
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
            return normalize_on_cuda(self, input, world)
        mean, var, count = _global_moments(input.detach(), world)
        self._update_running(mean, var, count)
        weight = self.weight if self.weight is not None else torch.ones_like(mean)
        bias = self.bias if self.bias is not None else torch.zeros_like(mean)
        normalized: Tensor = _Normalize.apply(input, weight, bias, mean, var, count, self.eps, world)  # type: ignore[no-untyped-call]
        return normalized

    @torch.no_grad()
    def _update_running(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        unbiased = var * (count / (count - 1))
        # momentum None asks for the plain mean over all batches so far.
        share = self.momentum if self.momentum is not None else 1.0 / self.num_batches_tracked
        self.running_mean.copy_(torch.lerp(self.running_mean, mean.to(self.running_mean.dtype), share))
        self.running_var.copy_(torch.lerp(self.running_var, unbiased.to(self.running_var.dtype), share))


def _global_moments(x: Tensor, world: World) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean [C], biased variance [C] and count [] over all ranks, in float32 (float64 for float64 input).

    Each rank's mean and variance are combined by the distances of the means, never as E[x^2] - E[x]^2, which loses
    every digit where the mean is large beside the spread.
    """
    # The kernel behind BatchNorm, ten times faster on a CPU than torch.var_mean over these dimensions. The running
    # buffers it wants are scratch; their type decides the precision of the result.
    scratch = x.new_zeros((2, x.shape[1]), dtype=_precise(x))
    mean, var = torch.batch_norm_update_stats(x, scratch[0], scratch[1], 0.0)
    count = torch.full((1,), x.numel() / x.shape[1], dtype=torch.float64, device=x.device)
    local = torch.cat([mean.double(), var.double(), count])
    stacked = gather_stack(local, world)  # [W, 2 C + 1]
    means, variances, counts = stacked.split([len(mean), len(var), 1], dim=1)
    total = counts.sum()
    mean = (means * counts).sum(0) / total
    var = ((variances + (means - mean).square()) * counts).sum(0) / total
    return mean.to(_precise(x)), var.to(_precise(x)), total.to(_precise(x))


def _precise(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


class _Normalize(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) * weight + bias, with the gradient through mean and var over all ranks."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        var: Tensor,
        count: Tensor,
        eps: float,
        world: World,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps, ctx.world = eps, world
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var, count = ctx.saved_tensors
        # With train=False the kernel takes the statistics as given; it returns this rank's sum(dy * x_hat) and sum(dy).
        _, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, var, None, None, False, ctx.eps, [False, True, True]
        )
        # DDP averages the parameters' gradients; only what flows on to x needs the sums of all ranks.
        sums = all_reduce_sum_(torch.stack([grad_weight, grad_bias]), ctx.world)
        mean_product, mean_gradient = (sums / count).unbind()
        scale = weight * torch.rsqrt(var + ctx.eps)
        # dx = scale * (dy - mean(dy) - x_hat * mean(dy * x_hat)); the last two terms have the form of a BatchNorm.
        through_moments = F.batch_norm(x, mean, var, -scale * mean_product, -scale * mean_gradient, eps=ctx.eps)
        grad_x = through_moments.addcmul_(gradient, scale.to(x.dtype).view([1, -1] + [1] * (x.ndim - 2)))
        return grad_x, grad_weight, grad_bias, None, None, None, None, None
