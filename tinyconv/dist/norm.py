"""Batch normalisation over the batches of all ranks.

    y = (x - mean) / sqrt(var + eps) * weight + bias      mean and var over all ranks' samples

The rules are batch norm's own (`tinyconv.ops.norm`) with another mean in them: the one of all
ranks, an all-reduce, whose derivative is an all-reduce.  So they hold to every order.
"""

from __future__ import annotations

from typing import Any

from tinyconv.autograd import op
from tinyconv.backend import Array, array_module, backend_of
from tinyconv.dist.collectives import all_reduce_sum, differs, reduced
from tinyconv.dist.world import DistError, world
from tinyconv.nn.functional.norm import move
from tinyconv.nn.module import Module
from tinyconv.nn.norm import BatchNorm, BatchNorm1d, BatchNorm2d, take_relu
from tinyconv.ops.elementwise import relu_backward
from tinyconv.ops.norm import channel_axes, channel_mean, input_rule, weight_rule
from tinyconv.ops.reduce import sum
from tinyconv.samples import sample
from tinyconv.tensor import Tensor


def _mean(x: Any) -> Any:
    """The mean of each channel over all ranks, whose batches are equally large."""
    return all_reduce_sum(channel_mean(x)) / world().size


def _average(array: Array) -> Array:
    return reduced(array, "sum") / world().size


@op(takes="floats", outputs=3, constants=(1, 2))
def sync_batch_norm(x: Array, weight: Array | None, bias: Array | None, *, eps: float) -> Any:
    """Returns y and, as constants, the mean and biased variance over all ranks, each (C,)."""
    own, scale, shift, stats = _statistics(x, weight, bias, eps)
    return backend_of(x).affine(own, scale, shift), *stats


@op(takes="floats", outputs=3, constants=(1, 2))
def sync_batch_norm_relu(
    x: Array, weight: Array | None, bias: Array | None, residual: Array | None, *, eps: float
) -> Any:
    """relu(sync_batch_norm(x) + residual), and as constants the mean and variance."""
    own, scale, shift, stats = _statistics(x, weight, bias, eps)
    return backend_of(x).affine_relu(own, scale, shift, residual), *stats


def _statistics(x: Array, weight: Array | None, bias: Array | None, eps: float) -> Any:
    """x normalised by this rank's own statistics; the scale and shift from there to y; all ranks'

    (mean, variance).  From the normalised x, because x * scale would lose a large mean's digits.
    """
    xp = array_module(x)
    own, own_mean, own_var = backend_of(x).batch_norm(x, None, None, eps)
    mean = _average(own_mean)
    var = _average(own_var + (own_mean - mean) ** 2)
    scale = xp.sqrt((own_var + eps) / (var + eps))
    shift = (own_mean - mean) / xp.sqrt(var + eps)
    if weight is not None:
        scale, shift = scale * weight, shift * weight
    return own, scale, shift if bias is None else shift + bias, (mean, var)


def _gradients(
    g: Array,
    _y: Array,
    mean: Array,
    var: Array,
    x: Array,
    weight: Array | None,
    _bias: Array | None,
    *,
    eps: float,
) -> tuple[Array, ...]:
    """The first-order gradients, by batch norm's kernel."""
    found = backend_of(x).batch_norm_backward(g, x, weight, mean, var, eps)
    return _of_all_ranks(found, x, weight, mean, var, eps)


def _gradients_relu(
    g: Array,
    y: Array,
    mean: Array,
    var: Array,
    x: Array,
    weight: Array | None,
    _bias: Array | None,
    _residual: Array | None,
    *,
    eps: float,
) -> tuple[Array, ...]:
    found = backend_of(x).batch_norm_relu_backward(
        g, y, x, weight, mean, var, eps, _residual is not None
    )
    return _of_all_ranks(found, x, weight, mean, var, eps)


def _of_all_ranks(
    found: tuple[Array, ...], x: Array, weight: Array | None, mean: Array, var: Array, eps: float
) -> tuple[Array, ...]:
    """The kernel's dx with the means of all ranks in it.

    dx = scale * (g - <g> - n <g n>), n = (x - mean) * r, is linear in the two means, and the kernel
    took this rank's: what is missing is once more a scale and a shift of x.
    """
    if world().size == 1:
        return found
    dx, dweight, dbias, *others = found
    xp = array_module(x)
    own = xp.stack([dbias, dweight]) / (x.size // x.shape[1])
    shift, slope = own - _average(own)
    r = 1 / xp.sqrt(var + eps)
    scale = r if weight is None else r * weight
    change = backend_of(x).affine(x, scale * r * slope, scale * (shift - mean * r * slope))
    return backend_of(x).add(dx, change), dweight, dbias, *others


sync_batch_norm.defvjp(
    lambda g, _y, _m, _v, x, weight, _bias, *, eps: input_rule(g, x, weight, eps, _mean),
    lambda g, _y, _m, _v, x, _weight, _bias, *, eps: weight_rule(g, x, eps, _mean),
    lambda g, _y, _m, _v, _x, _weight, _bias, *, eps: sum(g, dim=channel_axes(_x)),
    fused=_gradients,
    samples=[
        sample((4, 3), (3,), (3,), eps=1e-5),
        sample((2, 3, 4, 5), (3,), (3,), eps=1e-3),
        sample((2, 3, 4), None, None, eps=1e-5),
    ],
)

sync_batch_norm_relu.defvjp(
    lambda g, y, _m, _v, x, w, _b, _r, *, eps: input_rule(relu_backward(g, y), x, w, eps, _mean),
    lambda g, y, _m, _v, x, _w, _b, _r, *, eps: weight_rule(relu_backward(g, y), x, eps, _mean),
    lambda g, y, _m, _v, _x, _w, _b, _r, *, eps: sum(relu_backward(g, y), dim=channel_axes(_x)),
    lambda g, y, _m, _v, _x, _w, _b, _r, *, eps: relu_backward(g, y),
    fused=_gradients_relu,
    samples=[
        sample((4, 3), (3,), (3,), None, eps=1e-5),
        sample((2, 3, 4, 5), (3,), (3,), (2, 3, 4, 5), eps=1e-3),
    ],
)


class SyncBatchNorm(BatchNorm):
    """Batch norm of (N, C, ...) whose mean and variance are those of all ranks' batches.

    With a batch dealt out over the ranks it computes what BatchNorm2d computes on the whole batch,
    to every order.  In evaluation, and in a process alone, it is batch norm.  DistError if the
    ranks' batches are not equally large.
    """

    ndims = (2, 3, 4, 5)
    axes = "(N,C) or (N,C,...)"

    def forward(
        self, input: Tensor, *, residual: Tensor | None = None, relu: bool = False
    ) -> Tensor:
        if world().size == 1 or not self.training:
            return super().forward(input, residual=residual, relu=relu)
        self._check(input)
        _check_even(input)
        if relu:
            y, mean, var = sync_batch_norm_relu(
                input, self.weight, self.bias, residual, eps=self.eps
            )
        else:
            y, mean, var = sync_batch_norm(input, self.weight, self.bias, eps=self.eps)
        if self.track_running_stats:
            n = world().size * (input.array.size // input.shape[1])
            move(self.running_mean, self.running_var, self.num_batches_tracked, mean, var, n,
                 self.momentum)
        return y

    @classmethod
    def convert_sync_batchnorm(cls, module: Module) -> Module:
        """The module with every BatchNorm1d and BatchNorm2d in it replaced, parameters kept."""
        if type(module) in (BatchNorm1d, BatchNorm2d):
            return cls._of(module)
        for name, child in module.named_children():
            setattr(module, name, cls.convert_sync_batchnorm(child))
        return module

    @classmethod
    def _of(cls, norm: Any) -> SyncBatchNorm:
        made = cls(
            norm.num_features, norm.eps, norm.momentum, affine=False, track_running_stats=False
        )
        made.affine, made.track_running_stats = norm.affine, norm.track_running_stats
        for name in ("weight", "bias"):
            made.register_parameter(name, getattr(norm, name))
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            made.register_buffer(name, getattr(norm, name))
        return made.train(norm.training)


take_relu(SyncBatchNorm)


def _check_even(input: Tensor) -> None:
    """A mean of means is the mean only if all counts are equal."""
    n = input.array.size // input.shape[1]
    if differs([n]):
        raise DistError(
            "SyncBatchNorm",
            f"this rank has input {input.shape}, {n} values per channel, and another rank has "
            "another number; deal batches out evenly: DataLoader(..., shard=dist.shard())",
        )
