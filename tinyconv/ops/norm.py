"""Batch normalisation, the one operation behind all four norms.

    y = (x - mean) / sqrt(var + eps) * weight + bias      over every axis but 1

Axes: (N, C) or (N, C, H, W), ...; weight and bias (C,) or None.  The VJPs are written in
operations and hold to every order; a first-order backward uses the fused kernel, which reads the
mean and variance that the forward pass found.  `batch_norm_relu` and `affine_relu` add the residual
and the ReLU that follow in a residual network: one pass over memory instead of three.

Reference: Ioffe and Szegedy, Batch normalization, 2015.
"""

from typing import Any

from tinyconv.autograd import op
from tinyconv.backend import Array, backend_of
from tinyconv.ops.elementwise import relu_backward, rsqrt
from tinyconv.ops.reduce import mean, sum
from tinyconv.ops.shape import reshape
from tinyconv.samples import sample


@op
def batch_norm(x: Array, weight: Array | None, bias: Array | None, *, eps: float) -> Any:
    """Returns y and, beside the graph, the batch's (mean, biased variance), each (C,)."""
    y, mean, var = backend_of(x).batch_norm(x, weight, bias, eps)
    return y, (mean, var)


def _axes(x: Any) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def _column(v: Any, x: Any) -> Any:
    """A (C,) vector shaped to broadcast against x."""
    return reshape(v, shape=(1, -1) + (1,) * (x.ndim - 2))


def _whiten(x: Any, eps: float) -> tuple[Any, Any]:
    """x normalised, and 1 / sqrt(var + eps)."""
    centred = x - mean(x, dim=_axes(x), keepdim=True)
    r = rsqrt(mean(centred * centred, dim=_axes(x), keepdim=True) + eps)
    return centred * r, r


def _input_rule(g: Any, x: Any, weight: Any, eps: float) -> Any:
    """dx: what is left of g after its mean and its component along x-hat are taken out."""
    xhat, r = _whiten(x, eps)
    g = g if weight is None else g * _column(weight, x)
    along = mean(g * xhat, dim=_axes(x), keepdim=True)
    return r * (g - mean(g, dim=_axes(x), keepdim=True) - xhat * along)


batch_norm.defvjp(
    lambda g, _y, x, weight, _bias, *, eps: _input_rule(g, x, weight, eps),
    lambda g, _y, x, _weight, _bias, *, eps: sum(g * _whiten(x, eps)[0], dim=_axes(x)),
    lambda g, _y, _x, _weight, _bias, *, eps: sum(g, dim=_axes(_x)),
    fused=lambda g, _y, stats, x, weight, _bias, *, eps: backend_of(x).batch_norm_backward(
        g, x, weight, *stats, eps
    ),
    samples=[
        sample((4, 3), (3,), (3,), eps=1e-5),
        sample((2, 3, 4, 5), (3,), (3,), eps=1e-3),
        sample((2, 3, 4), None, None, eps=1e-5),
    ],
)


@op
def batch_norm_relu(
    x: Array, weight: Array | None, bias: Array | None, residual: Array | None, *, eps: float
) -> Any:
    """relu(batch_norm(x) + residual), and beside the graph the batch's statistics."""
    y, mean, var = backend_of(x).batch_norm_relu(x, weight, bias, residual, eps)
    return y, (mean, var)


batch_norm_relu.defvjp(
    lambda g, y, x, weight, _bias, _r, *, eps: _input_rule(relu_backward(g, y), x, weight, eps),
    lambda g, y, x, _weight, _bias, _r, *, eps: sum(
        relu_backward(g, y) * _whiten(x, eps)[0], dim=_axes(x)
    ),
    lambda g, y, _x, _weight, _bias, _r, *, eps: sum(relu_backward(g, y), dim=_axes(_x)),
    lambda g, y, _x, _weight, _bias, _r, *, eps: relu_backward(g, y),
    fused=lambda g, y, stats, x, weight, _bias, _r, *, eps: backend_of(x).batch_norm_relu_backward(
        g, y, x, weight, *stats, eps, _r is not None
    ),
    samples=[
        sample((4, 3), (3,), (3,), None, eps=1e-5),
        sample((2, 3, 4, 5), (3,), (3,), (2, 3, 4, 5), eps=1e-3),
    ],
)


@op
def affine(x: Array, scale: Array, shift: Array) -> Array:
    """x * scale + shift per channel: what batch norm is once its statistics are fixed."""
    return backend_of(x).affine(x, scale, shift)


affine.defvjp(
    lambda g, _y, _x, scale, _shift: g * _column(scale, g),
    lambda g, _y, x, _scale, _shift: sum(g * x, dim=_axes(x)),
    lambda g, _y, _x, _scale, _shift: sum(g, dim=_axes(_x)),
    samples=[sample((2, 3, 4, 5), (3,), (3,)), sample((4, 3), (3,), (3,))],
)


@op
def affine_relu(x: Array, scale: Array, shift: Array, residual: Array | None) -> Array:
    """relu(x * scale + shift + residual)."""
    return backend_of(x).affine_relu(x, scale, shift, residual)


affine_relu.defvjp(
    lambda g, y, _x, scale, _shift, _r: relu_backward(g, y) * _column(scale, g),
    lambda g, y, x, _scale, _shift, _r: sum(relu_backward(g, y) * x, dim=_axes(x)),
    lambda g, y, _x, _scale, _shift, _r: sum(relu_backward(g, y), dim=_axes(_x)),
    lambda g, y, _x, _scale, _shift, _r: relu_backward(g, y),
    samples=[
        sample((2, 3, 4, 5), (3,), (3,), (2, 3, 4, 5)),
        sample((4, 3), (3,), (3,), None),
    ],
)
