"""The normalisation layers of the detectors behind one name: BN, GN, SyncBN, naiveSyncBN, FrozenBN.

All but GN keep the parameter and buffer names of ``nn.BatchNorm2d`` (``weight``, ``bias``,
``running_mean``, ``running_var``, ``num_batches_tracked``), so that a checkpoint of one loads into
the other. What differs is *whose* values the mean and the variance are taken over:

=================  =============================================================================
``BN``             the batch of this worker
``SyncBN``         the batches of all workers, as if they were one
``naiveSyncBN``    all workers, each **worker** counts the same, however many images it has
``naiveSyncBN_N``  all workers, each **image** counts the same, whatever its height and width
``FrozenBN``       none: the stored statistics and the affine part are constants
``GN``             one image, a group of channels (Group Normalization, arXiv 1803.08494)
=================  =============================================================================

The synchronised ones need ``torch.distributed`` only while training with more than one worker; they
run on gloo (CPU) as on NCCL. ``torch.nn.SyncBatchNorm`` refuses CPU tensors, hence our own.
"""

from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def make_norm(name: str, channels: int) -> nn.Module:
    """The norm layer called ``name`` for feature maps ``[N, channels, H, W]``.

    Raises:
        ValueError: for a name that is not one of ``NORMS``.
    """
    if name not in NORMS:
        raise ValueError(f"norm={name!r} is not known; allowed are {', '.join(map(repr, NORMS))}")
    return NORMS[name](channels)


def group_count(channels: int) -> int:
    """How many groups ``GN`` makes of ``channels``; always a divisor of it.

    32, the paper's default (arXiv 1803.08494), where it divides the channels; otherwise the largest
    divisor below 32 that leaves at least two channels in a group, because a group of one channel on
    a 1x1 map is normalised to nothing: 72 -> 24, 40 -> 20, 16 -> 8; a prime gives 1.

    Raises:
        ValueError: if ``channels`` is below 1.
    """
    if channels < 1:
        raise ValueError(f"GN needs at least one channel, got channels={channels}")
    if channels % 32 == 0:
        return 32
    return max((g for g in range(1, min(31, channels // 2) + 1) if channels % g == 0), default=1)


class GN(nn.GroupNorm):
    """Group Normalization of ``[N, C, H, W]`` in ``group_count(C)`` groups, image by image."""

    def __init__(self, channels: int):
        super().__init__(group_count(channels), channels)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, channels_per_group={self.num_channels // self.num_groups}"


class FrozenBN(nn.Module):
    """Batch norm whose statistics *and* affine part are constants, in training mode too.

    Everything is a buffer: no optimiser finds it, no batch changes it, and the state dict has the
    keys of ``nn.BatchNorm2d``. A checkpoint without ``num_batches_tracked`` loads as well, as the
    counter has no part in the result. Gradients flow through to the input ``[N, C, H, W]``.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.eps = 1e-5
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )

    def _load_from_state_dict(self, state_dict, prefix, *args):
        state_dict.setdefault(prefix + "num_batches_tracked", self.num_batches_tracked)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"


class SyncBN(nn.BatchNorm2d):
    """Batch norm over the pooled batch of all workers; plain ``BN`` with one worker or in eval.

    Equals ``BN`` on the concatenated batch in its outputs, its running statistics (unbiased
    variance of the pooled values) and its gradients, for any batch sizes: unequal, empty on some or
    all workers, and with another height and width on each.

    The gradient of the input is that of the **sum** of all workers' losses. The gradients of
    ``weight`` and ``bias`` are this worker's own part: ``DistributedDataParallel`` reduces them, as
    every other parameter's, to the mean over workers. Every worker has to run forward and backward,
    the one with the empty batch too, or the others wait for it.

    Raises:
        ValueError: if the input is not ``[N, C, H, W]`` or all workers together hold one value per
            channel, which has no variance.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or _world_size() == 1:
            return super().forward(x)
        _check_channels(self, x)
        count = _values_per_channel(x)
        out, mean, var, counts = _NormalizePooled.apply(x, self.weight, self.bias, count, self.eps)
        total = counts.sum()
        if count <= 1 and total == 1:  # asked only where it can be true: it waits for the device
            raise ValueError("SyncBN: all workers together have one value per channel; need two")
        unbiased = var * total / (total - 1).clamp(min=1)
        _update_running(self, mean, unbiased, total)
        self.num_batches_tracked += 1
        return out


class NaiveSyncBN(nn.BatchNorm2d):
    """Batch norm over all workers, simply weighted; plain ``BN`` with one worker or in eval mode.

    The mean and the mean square are averaged over workers: with ``stats_mode=""`` plainly, with
    ``stats_mode="N"`` weighted by the number of images ``N`` (not by N·H·W). Only for equal batches
    and equal sizes are both the same as ``SyncBN``. As in the original, the running variance is the
    *biased* one and ``num_batches_tracked`` is not counted while several workers train.

    Gradients are as described in ``SyncBN``.

    Raises:
        ValueError: if ``stats_mode`` is neither ``""`` nor ``"N"``; if the input is not
            ``[N, C, H, W]``; with mode ``""``, on all workers, if any of them has an empty batch.
    """

    def __init__(self, channels: int, stats_mode: str = ""):
        super().__init__(channels)
        if stats_mode not in ("", "N"):
            raise ValueError(f"stats_mode={stats_mode!r} is not known; allowed are '' and 'N'")
        self.stats_mode = stats_mode

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or _world_size() == 1:
            return super().forward(x)
        _check_channels(self, x)
        images = len(x) if _values_per_channel(x) else 0
        worker_weight = images if self.stats_mode == "N" else min(images, 1)
        out, mean, var, worker_weights = _NormalizePooled.apply(
            x, self.weight, self.bias, worker_weight, self.eps
        )
        if self.stats_mode == "":
            _refuse_empty_batches(worker_weights)
        _update_running(self, mean, var, worker_weights.sum())
        return out

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, stats_mode={self.stats_mode!r}"


def pool_statistics(means: Tensor, variances: Tensor, worker_weights: Tensor):
    """Mean and biased variance of all workers' values from each worker's own.

    The law of total variance: the pooled variance is the mean of the variances plus the variance of
    the means. It subtracts no two large numbers, as E[x²] − E[x]² does.

    Args:
        means, variances: ``[workers, C]``, the variances biased.
        worker_weights: ``[workers]``, whole numbers: values or images of each, or a one for each.
            If all are zero, both results are zeros.

    Returns:
        mean ``[C]`` and variance ``[C]``.
    """
    share = (worker_weights / worker_weights.sum().clamp(min=1))[:, None]  # (workers, 1)
    mean = (share * means).sum(0)
    var = (share * (variances + (means - mean) ** 2)).sum(0)
    return mean, var


class _NormalizePooled(torch.autograd.Function):
    """(x − μ) / √(σ² + ε) · weight + bias, with μ and σ² pooled over all workers.

    With a = worker_weight / Σ worker_weights and n values per channel on this worker, each value x
    enters μ with a/n and σ² with 2(x − μ)a/n, and so into every output of every worker. Hence

        dx = weight / σ · (dy − a/n · (Σ dy + x̂ · Σ dy·x̂)),   sums over the values of all workers.

    Communication: one all-gather of 2C + 1 numbers forward, one all-reduce of 2C backward. The
    arithmetic is float32 (float64 for float64 input), the output has the input's type. With μ and
    σ² known the rest is batch norm as in evaluation, for which there are compiled kernels.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, worker_weight, eps):
        own = torch.cat([*_channel_statistics(x), weight.new_tensor([worker_weight])])
        means, variances, weights = _gather(own).split([x.shape[1], x.shape[1], 1], dim=1)
        weights = weights.squeeze(1)  # (workers, 1) -> (workers,)
        mean, var = pool_statistics(means, variances, weights)
        ctx.save_for_backward(x, weight, mean, var)
        ctx.eps = eps
        count = max(_values_per_channel(x), 1)
        ctx.share_per_value = worker_weight / (weights.sum().clamp(min=1) * count)
        ctx.mark_non_differentiable(mean, var, weights)
        out = F.batch_norm(x, mean, var, weight, bias, eps=eps) if x.numel() else x.clone()
        return out, mean, var, weights

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out, *_):
        x, weight, mean, var = ctx.saved_tensors
        if x.numel():  # weight / σ · dy, Σ dy·x̂ and Σ dy of this worker
            dx, *own = torch.ops.aten.native_batch_norm_backward(
                grad_out, x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
            )
        else:
            dx, own = torch.zeros_like(x), weight.new_zeros(2, len(weight)).unbind()
        pooled = torch.stack(tuple(own))
        dist.all_reduce(pooled)
        inv_std = (var + ctx.eps).rsqrt()
        through_var, through_mean = pooled * ctx.share_per_value * weight * inv_std
        slope = through_var * inv_std  # dx -= through_mean + x̂ · through_var, x̂ = (x - μ) / σ
        dx.addcmul_(x, _per_channel(-slope).to(x.dtype))
        dx.add_(_per_channel(slope * mean - through_mean).to(x.dtype))
        return dx, own[0], own[1], None, None


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _values_per_channel(x: Tensor) -> int:
    return len(x) * x.shape[2] * x.shape[3]


def _per_channel(vector: Tensor) -> Tensor:
    return vector[:, None, None]  # (C,) -> (C, 1, 1), broadcasts over (N, C, H, W)


def _channel_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance ``[C]`` of ``[N, C, H, W]``; zeros, not NaN, for an empty batch."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if not _values_per_channel(x):
        return x.new_zeros(x.shape[1]), x.new_zeros(x.shape[1])
    # What BN itself computes, and ten times as fast as var_mean over these axes.
    return torch.batch_norm_update_stats(x, None, None, 0.0)


def _gather(vector: Tensor) -> Tensor:
    """The vectors of all workers, ``[K] -> [workers, K]``."""
    rows = [torch.empty_like(vector) for _ in range(_world_size())]
    dist.all_gather(rows, vector)
    return torch.stack(rows)


def _update_running(norm: nn.BatchNorm2d, mean: Tensor, var: Tensor, total: Tensor) -> None:
    """Move the running statistics towards the batch's; not at all when the batch was empty."""
    momentum = norm.momentum * total.clamp(max=1).to(norm.running_mean.dtype)
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
    norm.running_var.lerp_(var.to(norm.running_var.dtype), momentum)


def _check_channels(norm: nn.BatchNorm2d, x: Tensor) -> None:
    if x.dim() != 4 or x.shape[1] != norm.num_features:
        expected = f"[N, {norm.num_features}, H, W]"
        raise ValueError(f"{type(norm).__name__} expected {expected}, got {list(x.shape)}")


def _refuse_empty_batches(worker_weights: Tensor) -> None:
    empty = (worker_weights == 0).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"naiveSyncBN: empty batch on rank {', '.join(map(str, empty))}; stats_mode '' weights "
            "every worker the same and needs images on each. Use 'naiveSyncBN_N' or 'SyncBN'."
        )


NORMS = {
    "BN": nn.BatchNorm2d,
    "GN": GN,
    "SyncBN": SyncBN,
    "naiveSyncBN": NaiveSyncBN,
    "naiveSyncBN_N": partial(NaiveSyncBN, stats_mode="N"),
    "FrozenBN": FrozenBN,
}
