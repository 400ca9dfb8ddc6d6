"""Reductions.  dim: None (all axes), an axis or a tuple; keepdim keeps them at length 1."""

import builtins
import math
from typing import Any, NamedTuple

import numpy as np

from tinyconv.autograd import is_tensor, op
from tinyconv.backend import Array, array_module, backend_of
from tinyconv.backend.sums import cast, wide
from tinyconv.errors import DTypeError, ShapeError, not_a_tensor
from tinyconv.ops.elementwise import (
    abs_,
    as_dtype,
    clone,
    eq,
    exp,
    floating,
    in_float32,
    maximum,
    minimum,
    ones_like,
    sign,
    where,
    widened,
)
from tinyconv.ops.index import gather
from tinyconv.ops.shape import (
    axis_of,
    broadcast_to,
    cat,
    flip,
    reduced_axes,
    reshape,
    stack,
    transpose,
    unbroadcast,
)
from tinyconv.samples import bools, floats, function, positive, sample

Dim = int | tuple[int, ...] | None

OVER = [
    sample((3, 4)),
    sample((3, 4), dim=1),
    sample((2, 3, 4), dim=(0, -1), keepdim=True),
    sample((2, 3, 4), dim=1, keepdim=True),
    sample((2, 3, 4), dim=(0, 2)),
    sample(()),
]


def spread(g: Any, like: Any, dim: Dim, keepdim: bool) -> Any:
    """Broadcast a reduction's gradient over the axes that were reduced."""
    if not keepdim:
        g = reshape(g, shape=kept_shape(like.shape, dim))
    return broadcast_to(g, shape=like.shape)


def kept_shape(shape: tuple[int, ...], dim: Dim) -> tuple[int, ...]:
    """``shape`` with the reduced axes at length 1."""
    axes = axes_of(dim, len(shape))
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def axes_of(dim: Dim, ndim: int) -> tuple[int, ...]:
    """The reduced axes, as non-negative numbers; no axis named means all, as in PyTorch."""
    dims = (dim,) if isinstance(dim, int) else dim
    return tuple(d % builtins.max(ndim, 1) for d in dims) if dims else tuple(range(ndim))


def _check_dims(name: str, x: Any, dim: Dim) -> None:
    """For functions made of several operations: the error names the function."""
    reduced_axes(name, x.shape, dim)


def count(shape: tuple[int, ...], dim: Dim) -> int:
    """How many entries are reduced to one."""
    return math.prod(shape[i] for i in axes_of(dim, len(shape))) if shape else 1


# --- linear


@op
def sum(x: Array, *, dim: Dim = None, keepdim: bool = False, dtype: Any = None) -> Array:
    """The sum; booleans and integers are summed as int64."""
    return backend_of(x).sum(x, _axis(dim), keepdim, dtype)


def _total(x: Array) -> Any:
    """The dtype of a total: NumPy would add uint8 up to uint64."""
    return np.int64 if x.dtype.kind in "biu" else None


def _over(g: Any, n: int) -> Any:
    """g / n, also where n is too large a number for float16."""
    return g / n if n < 65504 or g.dtype != "float16" else as_dtype(g, np.float32) / n


sum.defvjp(
    lambda g, _y, _x, *, dim, keepdim, dtype: spread(as_dtype(g, _x.dtype), _x, dim, keepdim),
    samples=[*OVER, sample((3, 4), dim=0, dtype=np.float64)],
)


@op
def mean(x: Array, *, dim: Dim = None, keepdim: bool = False, dtype: Any = None) -> Array:
    """The mean; integers need a ``dtype`` to have it in."""
    if dtype is None and x.dtype.kind != "f":
        raise DTypeError("mean", f"the input is {x.dtype}, a mean needs floats: x.float().mean()")
    if dtype is not None and np.dtype(dtype).kind != "f":
        raise DTypeError("mean", f"dtype is {np.dtype(dtype)}, a mean needs floats: tc.float32")
    if not x.size:  # NaN of nothing, without a warning
        return x.sum(axis=_axis(dim), keepdims=keepdim, dtype=dtype) / count(x.shape, dim)
    return backend_of(x).mean(x, _axis(dim), keepdim, dtype)


mean.defvjp(
    lambda g, _y, _x, *, dim, keepdim, dtype: spread(
        as_dtype(_over(g, count(_x.shape, dim)), _x.dtype), _x, dim, keepdim
    ),
    samples=[*OVER, sample((3, 4), dim=0, dtype=np.float64)],
)


@op
def cumsum(x: Array, *, dim: int) -> Array:
    """Running sums along one axis."""
    return backend_of(x).cumsum(x, dim).reshape(x.shape)  # NumPy makes a row of a number


cumsum.defvjp(
    lambda g, _y, _x, *, dim: flip(cumsum(flip(g, dims=(dim,)), dim=dim), dims=(dim,)),
    samples=[sample((3, 4), dim=0), sample((3, 4), dim=-1)],
)

# --- extremes


def _share_of_ties(g: Any, y: Any, x: Any, dim: Dim, keepdim: bool) -> Any:
    """Equal shares for all entries that reach the extreme; NaN, which none equals, gives NaN."""
    hit = x == spread(y, x, dim, keepdim)
    ties = sum(where(hit, ones_like(x), 0.0), dim=dim, keepdim=keepdim)
    none = 0 * ties / ties  # 0, or 0 / 0
    return where(hit, spread(g / ties, x, dim, keepdim), spread(none, x, dim, keepdim))


@op
def amax(x: Array, *, dim: Dim = None, keepdim: bool = False) -> Array:
    """The largest entry; ties share the gradient equally, as in PyTorch."""
    _check_filled("amax", x, dim)
    return x.max(axis=_axis(dim), keepdims=keepdim)


amax.defvjp(lambda g, y, x, *, dim, keepdim: _share_of_ties(g, y, x, dim, keepdim), samples=OVER)


@op
def amin(x: Array, *, dim: Dim = None, keepdim: bool = False) -> Array:
    """The smallest entry; ties share the gradient equally, as in PyTorch."""
    _check_filled("amin", x, dim)
    return x.min(axis=_axis(dim), keepdims=keepdim)


amin.defvjp(lambda g, y, x, *, dim, keepdim: _share_of_ties(g, y, x, dim, keepdim), samples=OVER)


def _check_filled(name: str, x: Array, dim: Dim) -> None:
    """Of nothing there is no extreme; a sum has its 0."""
    if not x.size and not count(x.shape, dim):
        raise ShapeError(name, f"{x.shape} has no entry along dim {dim}; of nothing there is none")


def _among_hits(g: Any, y: Any, x: Any) -> Any:
    """Equal shares for all entries that are the extreme, NaN among them: max() and min()."""
    y = spread(y, x, None, False)
    hit = (x == y) | ((x != x) & (y != y))
    return where(hit, g / sum(where(hit, ones_like(x), 0.0)), 0.0)


@op(name="max")
def _max(x: Array) -> Array:
    """The largest entry of all; entries that are it share the gradient, NaNs too."""
    _check_filled("max", x, None)
    return x.max()


@op(name="min")
def _min(x: Array) -> Array:
    """The smallest entry of all; entries that are it share the gradient, NaNs too."""
    _check_filled("min", x, None)
    return x.min()


_max.defvjp(_among_hits, samples=[sample((3, 4)), sample(())])
_min.defvjp(_among_hits, samples=[sample((3, 4)), sample(())])

ALONG = [sample((3, 4)), sample((3, 4), dim=1), sample((2, 3, 4), dim=1, keepdim=True)]


@op(samples=ALONG, takes="numbers")
def argmax(x: Array, *, dim: int | None = None, keepdim: bool = False) -> Array:
    """Where the largest entry is: the first one, int64."""
    return _arg("argmax", x, dim, keepdim)


@op(samples=ALONG, takes="numbers")
def argmin(x: Array, *, dim: int | None = None, keepdim: bool = False) -> Array:
    """Where the smallest entry is: the first one, int64."""
    return _arg("argmin", x, dim, keepdim)


def _arg(name: str, x: Array, dim: int | None, keepdim: bool) -> Array:
    _check_filled(name, x, dim)
    found = getattr(x, name)(dim)
    return found.reshape(kept_shape(x.shape, dim)) if keepdim else found


TRUTHS = [sample(bools(3, 4)), sample(bools(3, 4), dim=1), sample((2, 3), dim=0, keepdim=True)]


@op(samples=TRUTHS)
def all(x: Array, *, dim: Dim = None, keepdim: bool = False) -> Array:
    """Is every entry true?"""
    return _truth(x, (x != 0).all(axis=_tupled(dim), keepdims=keepdim))


@op(samples=TRUTHS)
def any(x: Array, *, dim: Dim = None, keepdim: bool = False) -> Array:
    """Is some entry true?"""
    return _truth(x, (x != 0).any(axis=_tupled(dim), keepdims=keepdim))


def _truth(x: Array, y: Any) -> Any:
    """Boolean; of bytes, which were booleans once, bytes as in PyTorch."""
    return y.astype(np.uint8) if x.dtype == np.uint8 else y


def equal(a: Any, b: Any) -> bool:
    """Have a and b one shape and the same elements?"""
    return a.shape == b.shape and bool(all(eq(a, b)))


# --- products, norms, log-sum-exp


@op
def prod(x: Array, *, dim: int | None = None, keepdim: bool = False) -> Array:
    """The product."""
    return x.prod(axis=dim, keepdims=keepdim, dtype=_total(x))


def _product_of_others(x: Any) -> Any:
    """For each entry along the last axis the product of the others; right also where x is 0.

    Pairs are multiplied, then the pairs' others by each one's partner: n products in all.
    """
    n = x.shape[-1]
    if n < 2:
        return ones_like(x)
    if n % 2:
        one = ones_like(x[..., :1])
        return _product_of_others(cat([x, one], -1))[..., :n]
    a, b = x[..., ::2], x[..., 1::2]
    others = _product_of_others(a * b)
    return reshape(stack([others * b, others * a], -1), shape=x.shape)


def _prod_vjp(g: Any, x: Any, dim: int | None, keepdim: bool) -> Any:
    g = spread(g, x, dim, keepdim)
    if dim is None or not x.shape:
        return g * reshape(_product_of_others(reshape(x, shape=(-1,))), shape=x.shape)
    return g * transpose(_product_of_others(transpose(x, dim, -1)), dim, -1)


prod.defvjp(
    lambda g, _y, x, *, dim, keepdim: _prod_vjp(g, x, dim, keepdim),
    samples=[sample((2, 3)), sample((3, 4), dim=0), sample((2, 3, 2), dim=1, keepdim=True)],
)


@op(takes="promoted")
def logsumexp(x: Array, *, dim: Dim = None, keepdim: bool = False) -> Array:
    """log of the sum of e^x, without overflow."""
    dtype, x = floating(x).dtype, wide(floating(x))
    xp = array_module(x)
    largest = x.max if x.size else x.sum  # of nothing there is no largest
    top = largest(axis=_axis(dim), keepdims=True)
    top = xp.where(xp.isfinite(top), top, 0)  # all -inf: e^(x - 0) = 0, and the result is -inf
    y = xp.log(backend_of(x).sum(xp.exp(x - top), _axis(dim), True, None)) + top
    y = cast(y, dtype)
    return (
        y
        if keepdim
        else y.reshape(tuple(n for i, n in enumerate(x.shape) if i not in axes_of(dim, x.ndim)))
    )


logsumexp.defvjp(
    lambda g, y, x, *, dim, keepdim: (
        spread(g, x, dim, keepdim) * exp(x - spread(y, x, dim, keepdim))
    ),
    samples=OVER[1:],
)


@op(name="norm2", takes="floats")
def _norm2(x: Array, *, dim: Dim = None, keepdim: bool = False) -> Array:
    """Euclidean length; the gradient at 0 is 0."""
    dtype, x = floating(x).dtype, wide(floating(x))
    squares = backend_of(x).sum(x * x, _axis(dim), keepdim, None)
    return cast(array_module(x).sqrt(squares), dtype)


@op(takes="floats")
def direction(x: Array, length: Array) -> Array:
    """x / length, and 0 where the length is 0: there the slope of a length jumps, and it has none.

    So the second derivative of a length is NaN at 0, as in PyTorch, and not some number.
    """
    return array_module(x).where(length == 0, 0, x / length).astype(x.dtype, copy=False)


direction.defvjp(
    lambda g, _y, _x, length: g / length,
    lambda g, y, _x, length: unbroadcast(-g * y / length, length.shape),
    samples=[positive((3, 4), (3, 1))],
)
_norm2.defvjp(
    lambda g, y, x, *, dim, keepdim: (
        spread(g, x, dim, keepdim) * direction(x, spread(y, x, dim, keepdim))
    ),
    samples=OVER[:-1],
)


@op(name="norm_p")
def _norm_p(x: Array, *, p: float, dim: Dim = None, keepdim: bool = False) -> Array:
    """(sum |x|^p)^(1/p), p neither 0 nor infinite; where it is 0, so is its gradient."""
    dtype, x = floating(x).dtype, wide(floating(x))
    if p < 0:
        _check_filled("norm", x, dim)
    total = backend_of(x).sum(array_module(x).abs(x) ** p, _axis(dim), keepdim, None)
    return cast(total ** (1 / p), dtype)


def _norm_p_rule(g: Any, y: Any, x: Any, p: float, dim: Dim, keepdim: bool) -> Any:
    """sign(x) (|x| / y)^(p-1), and 0 for x = 0: of the slopes on its two sides the middle.

    Where the norm is 0 the slopes are 0, too: with p < 0 one 0 makes it so, whatever else there is.
    """
    g, y = spread(g, x, dim, keepdim), spread(y, x, dim, keepdim)
    side, y = where(y == 0, 0.0, sign(x)), where(y == 0, 1.0, y)
    size = abs_(x) if p >= 2 else where(x == 0, 1.0, abs_(x))  # no 0 to a negative power
    return side * g * (size / y) ** (p - 1)


_norm_p.defvjp(
    lambda g, y, x, *, p, dim, keepdim: _norm_p_rule(g, y, x, p, dim, keepdim),
    samples=[
        sample((3, 4), p=3.0),
        sample((2, 3, 4), p=1.5, dim=(0, -1), keepdim=True),
        sample((3, 4), p=0.5, dim=1),
        sample((3, 4), p=-2.0, dim=0),
    ],
)


def _axis(dim: Any) -> Any:
    """``dim`` for NumPy, to which () is no axis at all and not every axis."""
    return None if dim == () else _tupled(dim) or None if isinstance(dim, list) else dim


def _tupled(dim: Any) -> Any:
    return tuple(dim) if isinstance(dim, list) else dim


# --- made of the operations above


class MaxResult(NamedTuple):
    """Values and where they were found."""

    values: Any
    indices: Any


def _extreme(extreme: Any, arg: Any, x: Any, dim: int | None, keepdim: bool) -> Any:
    if not hasattr(x, "shape"):
        raise DTypeError(extreme.name, not_a_tensor("x", x, "x"))
    if dim is None:
        return extreme(x)
    if isinstance(dim, (list, tuple)):  # max(x, y) of a list y; there is no maximum along two axes
        raise DTypeError(extreme.name, not_a_tensor("other", dim, "other"))
    axis_of(extreme.name, x.shape or (1,), dim)
    if not x.shape:
        return MaxResult(clone(x), arg(x))
    indices = arg(x, dim=dim, keepdim=True)
    values = gather(x, dim, indices)
    if not keepdim:
        values, indices = values.squeeze(dim), indices.squeeze(dim)
    return MaxResult(values, indices)


@function(*ALONG, sample((3, 4), floats(4)))
def max(x: Any, dim: Any = None, keepdim: bool = False, other: Any = None) -> Any:
    """The largest entry; with ``dim`` a pair (values, indices); ``max(x, y)`` is `maximum`."""
    other = dim if is_tensor(dim) else other
    return _extreme(_max, argmax, x, dim, keepdim) if other is None else maximum(x, other)


@function(*ALONG, sample((3, 4), floats(4)))
def min(x: Any, dim: Any = None, keepdim: bool = False, other: Any = None) -> Any:
    """The smallest entry; with ``dim`` a pair (values, indices); ``min(x, y)`` is `minimum`."""
    other = dim if is_tensor(dim) else other
    return _extreme(_min, argmin, x, dim, keepdim) if other is None else minimum(x, other)


def _deviations(
    name: str, x: Any, dim: Dim, correction: float | None, unbiased: bool | None
) -> tuple[Dim, float]:
    """The axes and the correction; ``var(False)`` is unbiased=False, None is 1 as in PyTorch."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if unbiased is not None:
        correction = int(unbiased)
    _check_dims(name, x, dim)
    return dim, 1 if correction is None else correction


def _freedom(x: Any, dim: Dim, correction: float) -> float:
    """What the squared deviations are divided by: 0 makes NaN of one entry, as in PyTorch."""
    return builtins.max(count(x.shape, dim) - correction, 0)


@op(name="var")
def _var(x: Array, *, dim: Dim, correction: float, keepdim: bool) -> Array:
    """The sum of squared deviations from the mean over the degrees of freedom."""
    x, n = floating(x), _freedom(x, dim, correction)
    return backend_of(x).var(x, _axis(dim), keepdim, n, x.dtype)


@op(name="std")
def _std(x: Array, *, dim: Dim, correction: float, keepdim: bool) -> Array:
    """The root of `var`; where it is 0, so are its derivatives, as in PyTorch."""
    x, n = floating(x), _freedom(x, dim, correction)
    squared = backend_of(x).var(x, _axis(dim), keepdim, n, np.float64)
    return cast(array_module(x).sqrt(squared), x.dtype)


def _deviation_rule(g: Any, x: Any, dim: Dim, correction: float, keepdim: bool) -> Any:
    """g times x minus its mean over the degrees of freedom, in float32 where x is float16."""
    centred, n = widened(x), _freedom(x, dim, correction)
    centred = centred - mean(centred, dim=dim, keepdim=True)
    g = as_dtype(g, centred.dtype) * (1 / n if n else math.inf)
    return as_dtype(spread(g, x, dim, keepdim) * centred, x.dtype)


DEVIATIONS = [sample((3, 4), dim=None, correction=1, keepdim=False),
              sample((2, 3, 4), dim=(0, -1), correction=0, keepdim=True)]  # fmt: skip
_var.defvjp(
    lambda g, _y, x, *, dim, correction, keepdim: _deviation_rule(
        2 * widened(g), x, dim, correction, keepdim
    ),
    samples=DEVIATIONS,
)
_std.defvjp(
    lambda g, y, x, *, dim, correction, keepdim: _deviation_rule(
        where(y == 0, 0.0, widened(g) / widened(where(y == 0, 1.0, y))), x, dim, correction, keepdim
    ),
    samples=DEVIATIONS,
)


@function(*OVER[:-1], sample((3, 4), dim=1, correction=0), sample((3, 4), False), takes="floats")
def var(
    x: Any,
    dim: Dim = None,
    correction: float | None = 1,
    keepdim: bool = False,
    unbiased: bool | None = None,
) -> Any:
    """Variance: the sum of squared deviations over (n - correction); of one entry NaN."""
    dim, correction = _deviations("var", x, dim, correction, unbiased)
    return _var(x, dim=dim, correction=correction, keepdim=keepdim)


@function(*OVER[:-1], sample((3, 4), True), takes="floats")
def std(
    x: Any,
    dim: Dim = None,
    correction: float | None = 1,
    keepdim: bool = False,
    unbiased: bool | None = None,
) -> Any:
    """Standard deviation, the root of `var`; where it is 0, so is its gradient."""
    dim, correction = _deviations("std", x, dim, correction, unbiased)
    return _std(x, dim=dim, correction=correction, keepdim=keepdim)


@function(
    sample((3, 4)),
    sample((3, 4), p=1, dim=0),
    sample((3, 4), p=3.0, dim=1, keepdim=True),
    sample((3, 4), p=math.inf, dim=1),
    sample((3, 4), p=-math.inf),
    sample((3, 4), p=0, dim=0),
    sample((3, 4), "fro"),
    takes="floats",
)
@in_float32
def norm(x: Any, p: float | str = 2.0, dim: Dim = None, keepdim: bool = False) -> Any:
    """(sum |x|^p)^(1/p); p = inf is the largest |x|, p = 0 counts the non-zeros, "fro" is 2."""
    _check_dims("norm", x, dim)
    if p in (2, "fro"):
        return _norm2(x, dim=dim, keepdim=keepdim)
    size = abs(x)
    if isinstance(p, str):
        raise ValueError(f"norm: p is {p!r}; it is a number or 'fro'")
    if p == math.inf:
        return amax(size, dim=dim, keepdim=keepdim)
    if p == -math.inf:
        return amin(size, dim=dim, keepdim=keepdim)
    if p == 0:
        # sign for the sake of its gradient, which is 0: the result does belong to the graph
        return sum(where(x == 0, sign(x), 1.0), dim=dim, keepdim=keepdim)
    if p == 1:
        return sum(size, dim=dim, keepdim=keepdim)
    return _norm_p(x, p=float(p), dim=dim, keepdim=keepdim)


# --- softmax

ROWS = [
    sample((3, 4), dim=1),
    sample((3, 4), dim=0),
    sample((2, 3, 2), dim=-2),
    sample((3, 4), dim=1, dtype=np.float64),
]


@op(takes="floats")
def softmax(x: Array, *, dim: int, dtype: Any = None) -> Array:
    """e^x / sum e^x along one axis; computed in ``dtype``, by default x's."""
    x = floating(x) if dtype is None else x.astype(dtype)
    dtype, x = x.dtype, wide(x)
    if not x.size:
        return cast(x + x.sum(axis=dim, keepdims=True), dtype)  # of nothing; DimError: no such dim
    e = array_module(x).exp(x - x.max(axis=dim, keepdims=True))
    e /= backend_of(x).sum(e, dim, True, None)
    return cast(e, dtype)


softmax.defvjp(
    lambda g, y, _x, *, dim, dtype: as_dtype(y * (g - sum(g * y, dim=dim, keepdim=True)), _x.dtype),
    samples=ROWS,
)


@op(takes="floats")
def log_softmax(x: Array, *, dim: int, dtype: Any = None) -> Array:
    """log of softmax, without overflow; computed in ``dtype``, by default x's."""
    x = floating(x) if dtype is None else x.astype(dtype)
    xp = array_module(x)
    dtype, x = x.dtype, wide(x)
    if not x.size:
        return cast(x + x.sum(axis=dim, keepdims=True), dtype)  # of nothing; DimError: no such dim
    y = x - x.max(axis=dim, keepdims=True)
    y -= xp.log(backend_of(x).sum(xp.exp(y), dim, True, None))
    return cast(y, dtype)


log_softmax.defvjp(
    lambda g, y, _x, *, dim, dtype: as_dtype(g - exp(y) * sum(g, dim=dim, keepdim=True), _x.dtype),
    samples=ROWS,
)
