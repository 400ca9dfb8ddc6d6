"""Everything that adds up many numbers: sums, means, variances, running sums, long products.

Rounding must not grow with the number of terms.  NumPy adds neighbours in memory in blocks of 128,
but along other axes one number after another, into a total of the same precision: after 2^24 / x
steps a float32 total of numbers like x stops.  So here rows are added in levels of up to 16 rows
each, which is off by a few times log2(n) roundings.  float16 is added in float32.

Plain array code that runs unchanged on NumPy and CuPy; layers in front of it do the same faster.
"""

import math
from typing import Any

import numpy as np

from tinyconv.backend.array import Array, array_module, complete
from tinyconv.backend.runs import FEW, Axes, order_of, reduced

FEW_HALVES = 2**12  # the same of float16 in float32
LONG = 2**12  # terms of a matrix product from which on they are added in pieces
VECTOR = 2**9  # the same of a small product or one with a vector, which BLAS adds one by one
SMALL = 2**12  # numbers of a small product
TREE = 2**11  # numbers that CuPy adds up well, of which each of 16 threads has a share
LONG_TREE = 2**14  # the same where neighbours in memory are added, by 512 threads

_add: Any = np.add.reduce


def wide_dtype(dtype: Any, terms: int = 1) -> Any:
    """What to add so many numbers of `dtype` up in, one after another."""
    if dtype.char == "e":
        return np.dtype(np.float32 if terms <= FEW_HALVES else np.float64)
    return np.dtype(np.float64) if dtype.char == "f" and terms > FEW else dtype


def widest_dtype(x: Array, terms: int) -> Any:
    """The same in host memory, where float64 has something wider: 64 bits on x86, not on ARM."""
    if type(x) is np.ndarray and x.dtype.char == "d" and terms > FEW:
        return np.dtype(np.longdouble)
    return wide_dtype(x.dtype, terms)


def wide(x: Array) -> Array:
    """float16 as float32, in which squares and sums of e^x do not overflow; or x."""
    return x.astype(np.float32) if x.dtype.char == "e" else x


def total_dtype(x: Array) -> Any:
    """The dtype of a sum: NumPy would add uint8 up to uint64."""
    return np.dtype(np.int64) if x.dtype.kind in "biu" else x.dtype


def axes_of(axis: Axes, ndim: int) -> tuple[int, ...]:
    """The axes as non-negative numbers; None is all of them."""
    if axis is None:
        return tuple(range(ndim))
    return tuple(a % max(ndim, 1) for a in ((axis,) if isinstance(axis, int) else axis))


def count(shape: tuple[int, ...], axis: Axes) -> int:
    """How many numbers are reduced to one."""
    return math.prod([shape[a] for a in axes_of(axis, len(shape))]) if shape else 1


def cast(x: Array, dtype: Any) -> Array:
    """x in that dtype; what is too large for float16 becomes infinite, without a warning."""
    if x.dtype == dtype:
        return x
    if np.dtype(dtype).char != "e":
        return x.astype(dtype)
    with np.errstate(over="ignore"):
        return x.astype(dtype)


def _is_tree(x: Array, axis: Axes, dtype: Any) -> bool:
    """Does a GPU add these up in a tree, a few to each thread?  Then one launch is enough."""
    if type(x) is np.ndarray or x.dtype.char not in "fd" or x.size == 0:
        return False
    along = x.ndim > 0 and x.ndim - 1 in axes_of(axis, x.ndim) and x.strides[-1] == x.itemsize
    few = count(x.shape, axis) <= (LONG_TREE if along else TREE)
    return few and np.dtype(dtype or x.dtype).char in "fd"


@complete
def sum(x: Array, axis: Axes, keepdims: bool, dtype: Any) -> Array:
    """The sum over an axis, some, or all (None), in `dtype` or x's; integers add up to int64."""
    if dtype is None and type(x) is np.ndarray and x.dtype.char in "fd":
        order = order_of(x.shape, x.strides, axis, keepdims)
        if order.plain:
            return _add(x, axis, None, None, keepdims)
        return reduced(x, order, 1, _added)
    result = np.dtype(dtype) if dtype is not None else total_dtype(x)
    if result.kind != "f":
        return cast(x, result).sum(axis=axis, keepdims=keepdims, dtype=result)
    if _is_tree(x, axis, result):
        return x.sum(axis=axis, keepdims=keepdims, dtype=result)
    if type(x) is not np.ndarray and x.dtype != np.float64:
        return cast(x.sum(axis=axis, keepdims=keepdims, dtype=np.float64), result)
    x = cast(x, wide_enough(x.dtype, result))
    order = order_of(x.shape, x.strides, axis, keepdims)
    if (order.plain and type(x) is np.ndarray) or not x.size:
        return cast(x.sum(axis=axis, keepdims=keepdims), result)
    return cast(reduced(x, order, 1, _added), result)


def wide_enough(dtype: Any, result: Any) -> Any:
    """What to add numbers of `dtype` up in for such a result."""
    return np.result_type(dtype, result, np.float32) if dtype.kind == "f" else np.dtype(np.float64)


def _added(x: Array, rows: int, inner: int, divisor: float | None) -> Array:
    """See `runs.Add`; rows in levels: each row of the next is the sum of rows far apart in memory,

    so that NumPy's loops are long even where the rows are short.
    """
    add = array_module(x).add.reduce
    if inner > 1 or type(x) is not np.ndarray:
        while rows > FEW:
            short = -(-rows // FEW)
            times = rows // short
            if rows == short * times:
                x = add(x.reshape(-1, times, short * inner), 1)
            else:
                whole, x = short * times * inner, x.reshape(-1, rows * inner)
                total = add(x[:, :whole].reshape(-1, times, short * inner), 1)
                total[:, : x.shape[1] - whole] += x[:, whole:]
                x = total
            rows = short
    total = add(x.reshape(-1, rows, inner) if inner > 1 else x.reshape(-1, rows), 1)
    return total if divisor is None or divisor == 1 else total / divisor


@complete
def mean(x: Array, axis: Axes, keepdims: bool, dtype: Any) -> Array:
    """The mean over an axis, some, or all (None), in `dtype` or x's; of nothing it is NaN."""
    if _is_tree(x, axis, dtype):
        return x.mean(axis=axis, keepdims=keepdims, dtype=dtype)
    n = count(x.shape, axis) or math.nan
    if dtype is None and x.dtype.char in "fd":
        return sum(x, axis, keepdims, None) / n
    result = np.dtype(dtype or x.dtype)
    return cast(sum(x, axis, keepdims, wide_enough(x.dtype, result)) / n, result)


def deviations(x: Array, axis: Axes) -> tuple[Array, Array]:
    """The mean, with the reduced axes at length 1, and x minus it; of float16 both are float32.

    What is subtracted first is a mean that was rounded, so that a little of it is left.
    """
    x = wide(x)
    rounded = mean(x, axis, True, None)
    d = x - rounded
    d -= mean(d, axis, True, None)
    return rounded, d


def var(x: Array, axis: Axes, keepdims: bool, freedom: float, dtype: Any) -> Array:
    """The sum of squared deviations from the mean over `freedom`, in `dtype`."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):  # infinities
        _, d = deviations(x, axis)
        d *= d
        return cast(sum(d, axis, keepdims, None) / np.float64(freedom), dtype)


def cumsum(x: Array, axis: int) -> Array:
    """The running sums along one axis; integers add up to int64."""
    if x.dtype.char in "ef":
        return x.cumsum(axis, dtype=np.float64).astype(x.dtype)
    if x.dtype.kind != "f" or x.ndim == 0 or x.shape[axis] <= FEW:
        return x.cumsum(axis, dtype=total_dtype(x))
    return array_module(x).moveaxis(_running(array_module(x).moveaxis(x, axis, -1)), -1, axis)


def _running(x: Array) -> Array:
    """Within blocks of the last axis, plus the running sums of the blocks before."""
    n, block = x.shape[-1], 2 * FEW
    if n <= block:
        return x.cumsum(-1)
    xp = array_module(x)
    blocks = -(-n // block)
    rows = xp.zeros((*x.shape[:-1], blocks * block), x.dtype)
    rows[..., :n] = x
    rows = rows.reshape(*x.shape[:-1], blocks, block).cumsum(-1)
    rows[..., 1:, :] += _running(rows[..., -1])[..., :-1, None]
    return rows.reshape(*x.shape[:-1], -1)[..., :n]


def product(a: Array, b: Array, longest: int = VECTOR) -> Array:
    """a (...,M,K) @ b (...,K,N), where a GPU's library does not add as it sees fit.

    float16 is multiplied in float32.  BLAS keeps one total for each number of the result, so a
    long K goes in pieces, of the `longest` length where the product is small: a loss over a million
    rows ends in a K of a million.
    """
    K, kind = a.shape[-1], a.dtype.char
    if type(a) is not np.ndarray or (longest >= K and kind != "e"):
        return a @ b
    if kind == "e":
        return cast(product(wide(a), wide(b)), a.dtype)
    M, N = a.shape[-2], b.shape[-1]
    if a.dtype.kind != "f":
        return a @ b
    piece = longest if M == 1 or N == 1 or M * N <= SMALL else LONG
    if piece >= K:
        return a @ b
    whole = K // piece * piece
    left = a[..., :whole].reshape(*a.shape[:-1], -1, piece).swapaxes(-3, -2)
    right = b[..., :whole, :].reshape(*b.shape[:-2], -1, piece, N)
    total = sum(left @ right, -3, False, np.float64)
    return cast(total + a[..., whole:] @ b[..., whole:, :], a.dtype)
