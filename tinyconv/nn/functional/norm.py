"""The four norms, all of them one operation (`tinyconv.ops.norm`), and `normalize`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tinyconv.autograd import Variable, no_grad, wrap
from tinyconv.backend import array_module, backend_of
from tinyconv.backend.silence import silence
from tinyconv.context import context
from tinyconv.errors import DTypeError, ShapeError
from tinyconv.nn.functional.checks import check_dtype, check_shape
from tinyconv.ops import norm as ops
from tinyconv.ops.elementwise import in_float32, sqrt, where
from tinyconv.ops.reduce import norm
from tinyconv.ops.shape import reshape
from tinyconv.samples import constants, function, sample

STATISTICS = (constants(3), constants(3))


@function(
    sample((2, 3, 4, 5), None, None, (3,), (3,), True),
    sample((4, 3), None, None, None, None, True),
    sample((2, 3, 4), *STATISTICS, (3,), (3,)),
    takes="floats",
)
def batch_norm(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """(x - mean) / sqrt(var + eps) * weight + bias, per channel (axis 1); vectors are (C,).

    training: mean and biased variance of the batch; the running statistics move by ``momentum``
    towards the mean and the unbiased variance.  Otherwise the running statistics are used.
    """
    return tracked_batch_norm(
        input, running_mean, running_var, None, weight, bias, training, momentum, eps
    )


@function(
    sample((2, 3, 4, 5), None, None, (3,), (3,), (2, 3, 4, 5), True),
    sample((4, 3), None, None, None, None, None, True),
    sample((2, 3, 4), *STATISTICS, (3,), (3,), (2, 3, 4)),
    takes="floats",
)
def batch_norm_relu(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    residual: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """relu(batch_norm(input) + residual) in one pass; residual has input's shape, or is None."""
    return tracked_batch_norm(
        input, running_mean, running_var, None, weight, bias, training, momentum, eps,
        relu=True, residual=residual,
    )


def tracked_batch_norm(
    input: Any, running_mean: Any, running_var: Any, seen: Any, weight: Any, bias: Any,
    training: bool, momentum: float | None, eps: float, *, relu: bool = False,
    residual: Any = None,
) -> Any:
    """The two functions above, as layers call them.

    seen: () int64, counts the batches of training, or None.  momentum None: the running statistics
    become the mean over all that were seen.
    """
    eps = float(eps)  # NumPy's would widen float32
    momentum = momentum if momentum is None else float(momentum)
    _check_batch_norm(input, running_mean, running_var, weight, bias)
    if not (eps > 0 or (eps == 0 and not training)):
        least = "above 0 in training" if training else "at least 0"
        raise ValueError(f"batch_norm: eps is {eps}, it must be {least}")
    if residual is not None and residual.shape != input.shape:
        raise ShapeError("batch_norm_relu", f"residual {residual.shape}, input {input.shape}")
    if not training:
        if running_mean is None or running_var is None:
            raise ShapeError(
                "batch_norm", "evaluation needs running statistics; pass training=True"
            )
        operands = input, running_mean, running_var, weight, bias, residual
        arrays = None if context.grad_enabled else _arrays(operands)
        if arrays is not None:
            with silence():
                return wrap(backend_of(input.array).fixed_norm(*arrays, eps, relu))
        return _fixed(input, running_mean, running_var, weight, bias, eps, relu, residual)
    n = input.array.size // max(input.shape[1], 1)
    if n == 1:
        raise ShapeError(
            "batch_norm",
            f"input {input.shape} has {n} value per channel, whose variance is 0: every output "
            "would be the bias. Use a larger batch, or model.eval()",
        )
    if not n:  # an empty batch says nothing about mean and variance
        if seen is not None:
            seen._write("batch_norm")[...] += 1
        unit = wrap(array_module(input.array).ones(input.shape[1], input.dtype))
        return _fixed(input, unit - unit, unit, weight, bias, eps, relu, residual)
    if relu:
        y, (mean, var, *_) = ops.batch_norm_relu(input, weight, bias, residual, eps=eps)
    else:
        y, (mean, var) = ops.batch_norm(input, weight, bias, eps=eps)
    if running_mean is not None:
        move(running_mean, running_var, seen, mean, var, n, momentum)
    return y


def move(
    running_mean: Any, running_var: Any, seen: Any, mean: Any, var: Any, n: int,
    momentum: float | None,
) -> None:
    """Running statistics towards the mean and the unbiased variance of n values, both arrays.

    seen: counts the batches, or None.
    """
    changed = [running._write("batch_norm") for running in (running_mean, running_var)]
    count = None if seen is None else seen._write("batch_norm")
    with silence():
        backend_of(mean).move_statistics(
            *changed, mean, var, count, momentum=momentum, unbias=n / (n - 1)
        )


def _fixed(
    x: Any, mean: Any, var: Any, weight: Any, bias: Any, eps: float, relu: bool, residual: Any
) -> Any:
    """The norm with these statistics."""
    fixed = _scale_and_shift(mean, var, weight, bias, eps)
    return ops.affine_relu(x, *fixed, residual) if relu else ops.affine(x, *fixed)


def _whitened(rows: Any, eps: float) -> tuple[Any, Any]:
    """Each channel of rows normalised, and its (mean, variance); nothing of nothing."""
    return ops.batch_norm(rows, None, None, eps=eps) if rows.array.size else (rows, None)


def _scale_and_shift(mean: Any, var: Any, weight: Any, bias: Any, eps: float) -> tuple[Any, Any]:
    scale = (1.0 if weight is None else weight) / sqrt(var + eps)
    return scale, -(mean * scale) if bias is None else bias - mean * scale


def _arrays(operands: Sequence[Any]) -> list[Any] | None:
    """Those of Tensors, or None for None; None unless all are of one dtype and on one device."""
    arrays: list[Any] = []
    for x in operands:
        if x is None:
            arrays.append(None)
            continue
        if not isinstance(x, Variable):
            return None
        arrays.append(x.array)
        if x.array.dtype is not arrays[0].dtype or type(x.array) is not type(arrays[0]):
            return None
    return arrays


def _check_batch_norm(x: Any, mean: Any, var: Any, weight: Any, bias: Any) -> None:
    channels = x.shape[1:2]
    fits = len(channels) == 1
    for vector in (mean, var, weight, bias):
        if vector is not None and getattr(vector, "shape", None) != channels:
            fits = False
    if not fits:  # one of these says what is wrong
        _check_width(x, mean if mean is not None else weight)
        check_shape("batch_norm", "running_mean", mean, channels)
        check_shape("batch_norm", "running_var", var, channels)
        _check_affine("batch_norm", x, weight, bias)
    if weight is not None and x.dtype != weight.dtype:
        check_dtype("batch_norm", x, weight)


def _check_width(x: Any, vector: Any) -> None:
    if x.ndim < 2:
        raise ShapeError("batch_norm", f"input {x.shape} is {x.ndim}-D, need (N,C) or (N,C,...)")
    if getattr(vector, "shape", ()) and vector.shape[0] != x.shape[1]:
        made = f"; {x.scope} produced it" if x.scope else ""
        raise ShapeError(
            "batch_norm",
            f"input {x.shape} has {x.shape[1]} channels, {vector.shape[0]} are expected{made}",
        )


def _check_affine(name: str, x: Any, weight: Any, bias: Any) -> None:
    check_shape(name, "weight", weight, (x.shape[1],))
    check_shape(name, "bias", bias, (x.shape[1],))
    if weight is not None:
        check_dtype(name, x, weight)


@function(sample((2, 3, 4), [4], (4,), (4,)), sample((2, 3, 4), [3, 4]), takes="floats")
def layer_norm(
    input: Any,
    normalized_shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> Any:
    """Normalised over the last axes, ``normalized_shape``; weight and bias have that shape."""
    if isinstance(normalized_shape, int):
        said = f"normalized_shape is {normalized_shape}, it must be a list: ({normalized_shape},)"
        raise DTypeError("layer_norm", said)
    shape = tuple(normalized_shape)
    check_shape("layer_norm", "weight", weight, shape)
    check_shape("layer_norm", "bias", bias, shape)
    if input.shape[-len(shape) :] != shape:
        ends = input.shape[-len(shape) :]
        raise ShapeError(
            "layer_norm",
            f"input {input.shape} ends in {ends}, expected {shape}. normalized_shape={ends} fits",
        )
    width = math.prod(shape)
    rows = reshape(input, shape=(1, input.array.size // max(width, 1), width))
    y = reshape(_whitened(rows, eps)[0], shape=input.shape)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


@function(sample((2, 4, 3, 2), 2, (4,), (4,)), sample((2, 6, 3), 3), takes="floats")
def group_norm(
    input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Any:
    """Normalised over each sample's groups of channels; weight and bias (C,)."""
    if input.ndim < 2:
        raise ShapeError("group_norm", f"input {input.shape} is {input.ndim}-D, need (N,C,...)")
    n, c = input.shape[:2]
    if num_groups < 1 or c % num_groups:
        raise ShapeError(
            "group_norm", f"{c} channels in {num_groups} groups: {c}/{num_groups} is not whole"
        )
    _check_affine("group_norm", input, weight, bias)
    size = math.prod(input.shape[2:]) * (c // num_groups)
    rows = reshape(input, shape=(1, n * num_groups, size))
    y = reshape(_whitened(rows, eps)[0], shape=input.shape)
    column = (1, -1) + (1,) * (input.ndim - 2)
    y = y if weight is None else y * reshape(weight, shape=column)
    return y if bias is None else y + reshape(bias, shape=column)


@function(
    sample((2, 3, 4, 2), None, None, (3,), (3,)),
    sample((2, 3, 4), *STATISTICS, None, None, False),
    takes="floats",
)
def instance_norm(
    input: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Normalised over each channel of each sample."""
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    n, c, *size = input.shape
    count = math.prod(size)
    if count == 1:
        raise ShapeError(
            "instance_norm",
            f"input {input.shape} has {count} value per channel and sample, "
            "whose variance is 0: every output would be the bias",
        )
    _check_affine("instance_norm", input, weight, bias)
    rows = reshape(input, shape=(1, n * c, *size))
    y, statistics = _whitened(rows, eps)
    y = reshape(y, shape=input.shape)
    if running_mean is not None and statistics is not None:
        mean, var = statistics
        with no_grad():
            running_mean.mul_(1 - momentum).add_(mean.reshape(n, c).mean(0), alpha=momentum)
            unbiased = var.reshape(n, c).mean(0) * (count / (count - 1))
            running_var.mul_(1 - momentum).add_(unbiased, alpha=momentum)
    column = (1, -1) + (1,) * len(size)
    y = y if weight is None else y * reshape(weight, shape=column)
    return y if bias is None else y + reshape(bias, shape=column)


@function(sample((3, 4)), sample((3, 4), 1.5, 0), takes="floats")
@in_float32
def normalize(input: Any, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Any:
    """x / max(|x|_p, eps) along ``dim``."""
    short = norm(input.detach(), p, dim, keepdim=True) < eps
    # of ones where |x| does not count: at 0 a length has no second derivative, x / eps has
    size = norm(where(short, 1.0, input), p, dim, keepdim=True)
    return input / where(short, eps, size)
