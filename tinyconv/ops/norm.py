"""Batch normalisation, the one operation behind all four norms.

    y = (x - mean) / sqrt(var + eps) * weight + bias      over every axis but 1

Axes: (N, C) or (N, C, H, W), ...; weight and bias (C,) or None.  The VJPs are written in
operations and hold to every order; a first-order backward uses the fused kernel, which reads the
mean and variance that the forward pass found.  `batch_norm_relu` and `affine_relu` add the residual
and the ReLU that follow in a residual network: one pass over memory instead of three.

Reference: Ioffe and Szegedy, Batch normalization, 2015.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from tinyconv.autograd import op
from tinyconv.backend import Array, backend_of
from tinyconv.ops.elementwise import as_dtype, relu_backward, rsqrt, widened
from tinyconv.ops.reduce import mean, sum
from tinyconv.ops.shape import reshape
from tinyconv.samples import sample

Mean: TypeAlias = Callable[[Any], Any]  # of each channel; over several machines, say


@op(takes="floats", outputs=3, constants=(1, 2))
def batch_norm(x: Array, weight: Array | None, bias: Array | None, *, eps: float) -> Any:
    """y, and as constants the batch's mean and biased variance, each (C,)."""
    return backend_of(x).batch_norm(x, weight, bias, eps)


def channel_axes(x: Any) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def column(v: Any, x: Any) -> Any:
    """A (C,) vector shaped to broadcast against x."""
    return reshape(v, shape=(1, -1) + (1,) * (x.ndim - 2))


def channel_mean(x: Any) -> Any:
    """The mean of each channel, shaped to broadcast against x."""
    return mean(x, dim=channel_axes(x), keepdim=True)


def whiten(x: Any, eps: float, mean: Mean = channel_mean) -> tuple[Any, Any]:
    """x normalised, and 1 / sqrt(var + eps); in float32 where x is float16."""
    x = widened(x)
    centred = x - mean(x)
    r = rsqrt(mean(centred * centred) + eps)
    return centred * r, r


def input_rule(g: Any, x: Any, weight: Any, eps: float, mean: Mean = channel_mean) -> Any:
    """dx: what is left of g after its mean and its component along x-hat are taken out."""
    xhat, r = whiten(x, eps, mean)
    g = widened(g) if weight is None else widened(g * column(weight, x))
    return as_dtype(r * (g - mean(g) - xhat * mean(g * xhat)), x.dtype)


def weight_rule(g: Any, x: Any, eps: float, mean: Mean = channel_mean) -> Any:
    """The gradient of the weight."""
    return as_dtype(sum(widened(g) * whiten(x, eps, mean)[0], dim=channel_axes(x)), x.dtype)


batch_norm.defvjp(
    lambda g, _y, _m, _v, x, weight, _bias, *, eps: input_rule(g, x, weight, eps),
    lambda g, _y, _m, _v, x, _weight, _bias, *, eps: weight_rule(g, x, eps),
    lambda g, _y, _m, _v, _x, _weight, _bias, *, eps: sum(g, dim=channel_axes(_x)),
    fused=lambda g, _y, mean, var, x, weight, _bias, *, eps: backend_of(x).batch_norm_backward(
        g, x, weight, mean, var, eps
    ),
)


@op(takes="floats", outputs=4, constants=(1, 2, 3))
def batch_norm_relu(
    x: Array, weight: Array | None, bias: Array | None, residual: Array | None, *, eps: float
) -> Any:
    """relu(batch_norm(x) + residual), and as constants the batch's mean and variance, and what else

    the kernel wants to read in its backward pass, or None.
    """
    y, mean, var, *others = backend_of(x).batch_norm_relu(x, weight, bias, residual, eps)
    return y, mean, var, others[0] if others else None


batch_norm_relu.defvjp(
    lambda g, y, _m, _v, _o, x, w, _bias, _r, *, eps: input_rule(relu_backward(g, y), x, w, eps),
    lambda g, y, _m, _v, _o, x, _w, _bias, _r, *, eps: weight_rule(relu_backward(g, y), x, eps),
    lambda g, y, _m, _v, _o, _x, _w, _bias, _r, *, eps: sum(
        relu_backward(g, y), dim=channel_axes(_x)
    ),
    lambda g, y, _m, _v, _o, _x, _w, _bias, _r, *, eps: relu_backward(g, y),
    fused=lambda g, y, mean, var, other, x, w, _bias, _r, *, eps: backend_of(
        x
    ).batch_norm_relu_backward(
        g, y, x, w, mean, var, eps, _r is not None, *(() if other is None else (other,))
    ),
)


@op(takes="floats")
def affine(x: Array, scale: Array, shift: Array) -> Array:
    """x * scale + shift per channel: what batch norm is once its statistics are fixed."""
    return backend_of(x).affine(x, scale, shift)


affine.defvjp(
    lambda g, _y, _x, scale, _shift: g * column(scale, g),
    lambda g, _y, x, _scale, _shift: sum(g * x, dim=channel_axes(x)),
    lambda g, _y, _x, _scale, _shift: sum(g, dim=channel_axes(_x)),
)


@op(takes="floats")
def affine_relu(x: Array, scale: Array, shift: Array, residual: Array | None) -> Array:
    """relu(x * scale + shift + residual)."""
    return backend_of(x).affine_relu(x, scale, shift, residual)


affine_relu.defvjp(
    lambda g, y, _x, scale, _shift, _r: relu_backward(g, y) * column(scale, g),
    lambda g, y, x, _scale, _shift, _r: sum(relu_backward(g, y) * x, dim=channel_axes(x)),
    lambda g, y, _x, _scale, _shift, _r: sum(relu_backward(g, y), dim=channel_axes(_x)),
    lambda g, y, _x, _scale, _shift, _r: relu_backward(g, y),
)


# --- what to test them with

batch_norm.test_with(
    sample((4, 3), (3,), (3,), eps=1e-5),
    sample((2, 3, 4, 5), (3,), (3,), eps=1e-3),
    sample((2, 3, 4), None, None, eps=1e-5),
)
batch_norm_relu.test_with(
    sample((4, 3), (3,), (3,), None, eps=1e-5),
    sample((2, 3, 4, 5), (3,), (3,), (2, 3, 4, 5), eps=1e-3),
)
affine.test_with(sample((2, 3, 4, 5), (3,), (3,)), sample((4, 3), (3,), (3,)))
affine_relu.test_with(
    sample((2, 3, 4, 5), (3,), (3,), (2, 3, 4, 5)), sample((4, 3), (3,), (3,), None)
)
