"""The heavy kernels on a GPU: launches of kernels.cu, with the arguments of `backend.reference`.

A convolution is im2col, one matrix product and a permutation.  Its columns are (C*KH*KW, N*OH*OW),
so that each of the three products is a plain 2-D one, which CuPy hands to cuBLAS without copies.

Covers float16, float32 and float64 (all operands of one dtype, half computed as float) and arrays
of fewer than 2^31 elements; for the rest a kernel here returns NotImplemented.  Arrays may have any
strides: what is not contiguous is copied.  Compiled at the first use, once per dtype.

Axes: N batch, C channels, H W image, O output channels, OH OW output image, KH KW kernel, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tinyconv.backend.array import Array, array_module
from tinyconv.backend.reference import Padding, Pair, output_size, scale_and_shift
from tinyconv.context import context

SOURCE = Path(__file__).with_name("kernels.cu")
OPTIONS = {"e": "-DHALF", "f": "-DREAL=float", "d": "-DREAL=double"}
WIDE = {"e": np.float32, "f": np.float32, "d": np.float64}  # the kernels' `wide`, by dtype
THREADS = 256  # of a block: kernels.cu's THREADS
BLOCKS = 2**13  # at most, of a launch: enough to fill any GPU
LARGEST = 2**31 - BLOCKS * THREADS  # elements; one step of a grid-stride loop further fits an int
COLUMNS = 2**28  # elements: columns that are larger are made and used in several pieces
PART = 2**11  # elements of a channel that one block of batch norm reads, 64 parts at most
FEW = 2**13  # logits of a loss that one block is quick enough for
CHANNELS = 2**16 - 1  # of a batch norm: blocks in the second direction of a grid
NULL = np.uint64(0)
WINDOW = np.dtype([("sizes", "i4", 14)])
PARAMETER = np.dtype("u8, u8, u8, u8, u8, i8, f8, f8")
PARAMETERS = np.dtype([("each", PARAMETER, 60)])  # 3840 bytes of the 4096 that a launch takes


# ------------------------------------------------------------------------------------ launching


def prepare(cupy: Any) -> None:
    """Compile the kernels for float32; raises where that does not work."""
    _kernel(cupy, "f", "im2col")


@cache
def _module(xp: Any, kind: str) -> Any:
    return xp.RawModule(code=SOURCE.read_text(), options=("-std=c++17", OPTIONS[kind]))


@cache
def _kernel(xp: Any, kind: str, name: str) -> Any:
    return _module(xp, kind).get_function(name)


def _launch(
    name: str, x: Array, args: Sequence[Any], work: int = 0, *, grid: Any = None, threads: int = 0
) -> None:
    """Launch the kernel for x's dtype with one thread for each of `work` elements, or on a `grid`.

    CuPy passes a Python int as int64 and a float as double, so each gets the type kernels.cu has.
    """
    wide = WIDE[x.dtype.char]
    typed = [
        NULL if a is None
        else np.int32(a) if isinstance(a, int)
        else wide(a) if isinstance(a, float)
        else a
        for a in args
    ]  # fmt: skip
    kernel = _kernel(array_module(x), x.dtype.char, name)
    kernel(grid or (_blocks(work),), (threads or THREADS,), tuple(typed))


def _blocks(work: int) -> int:
    return min(BLOCKS, -(-work // THREADS))


def _covers(*arrays: Array | None) -> bool:
    """Are these arrays, but for None, of one dtype that kernels.cu has, not empty nor too large?"""
    given = [a for a in arrays if a is not None]
    dtype = given[0].dtype
    return dtype.char in OPTIONS and all(a.dtype == dtype and 0 < a.size < LARGEST for a in given)


def _contiguous(x: Array) -> Array:
    return array_module(x).ascontiguousarray(x)


def _empty(shape: Sequence[int], like: Array, dtype: Any = None) -> Array:
    return array_module(like).empty(tuple(shape), like.dtype if dtype is None else dtype)


# ------------------------------------------------------------------------------------- windows


@lru_cache(maxsize=4096)
def _window(
    images: tuple[int, ...],
    out_size: Pair,
    kernel_size: Pair,
    stride: Pair,
    padding: Padding,
    dilation: Pair = (1, 1),
) -> Any:
    """kernels.cu's Window, which CuPy passes by value; images: (N,C,H,W)."""
    (top, _), (left, _) = padding
    sizes = (*images, *out_size, *kernel_size, *stride, top, left, *dilation)
    return np.array((sizes,), WINDOW)


# --------------------------------------------------------------------------------- convolution


def conv2d(
    x: Array,
    w: Array,
    *,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    bias: Array | None = None,
) -> Array:
    """See `reference.conv2d`; the bias (O,) costs nothing, the permutation adds it."""
    out_size = output_size(x.shape[2:], w.shape[2:], stride, dilation, padding)
    N, O, P = len(x), len(w), math.prod(out_size)
    row = w[0].size * groups * P
    if not _covers(x, w, bias) or min(out_size) < 1 or max(row, O * P) >= LARGEST:
        return NotImplemented
    x, weights = _contiguous(x), _weight_rows(w, groups)
    y = _empty((N, O, *out_size), x)
    for images in _pieces(N, max(row, O * P)):
        part, window = x[images], (out_size, w.shape[2:], stride, padding, dilation)
        columns = _im2col(part, groups, *window)
        rows = _matmul(weights, columns)
        target = y[images]
        _launch("rows_to_images", x, (rows, bias, target, O, len(part), P), target.size)
    return y


def conv2d_input(
    g: Array,
    w: Array,
    *,
    input_size: Pair,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> Array:
    """See `reference.conv2d_input`."""
    N, O, *out_size = g.shape
    C, P = w.shape[1] * groups, math.prod(out_size)
    row = w[0].size * groups * P
    if not _covers(g, w) or max(row, C * math.prod(input_size)) >= LARGEST:
        return NotImplemented
    g, weights = _contiguous(g), _weight_rows(w, groups).swapaxes(1, 2)
    dx = _empty((N, C, *input_size), g)
    for images in _pieces(N, max(row, O * P, C * math.prod(input_size))):
        part, target = g[images], dx[images]
        rows = _empty((groups, O // groups, len(part) * P), g)
        _launch("swap_rows", g, (part, rows, len(part), O, P), part.size)
        columns = _matmul(weights, rows)
        window = _window(target.shape, tuple(out_size), w.shape[2:], stride, padding, dilation)
        _launch("col2im", g, (columns, target, window), target.size)
    return dx


def conv2d_weight(
    x: Array,
    g: Array,
    *,
    kernel_size: Pair,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> Array:
    """See `reference.conv2d_weight`."""
    (N, C), (O, *out_size) = x.shape[:2], g.shape[1:]
    P, taps = math.prod(out_size), math.prod(kernel_size)
    row = max(C * taps * P, O * P)
    if not _covers(x, g) or row >= LARGEST:
        return NotImplemented
    x, g = _contiguous(x), _contiguous(g)
    dw: Any = None
    for images in _pieces(N, row):
        n = len(x[images])
        columns = _empty((groups, C // groups * taps, n * P), x)
        rows = _empty((groups, O // groups, n * P), x)
        window = _window((n, *x.shape[1:]), tuple(out_size), kernel_size, stride, padding, dilation)
        arrays = (x[images], columns, g[images], rows)
        _launch("im2col_and_rows", x, (*arrays, O, window), (C + O) * n * P)
        part = _matmul(rows, columns.swapaxes(1, 2))
        dw = part if dw is None else dw + part
    return dw.reshape(O, C // groups, *kernel_size)


def _im2col(x: Array, groups: int, out_size: Pair, kernel_size: Pair, *geometry: Any) -> Array:
    """x (N,C,H,W) to columns (G, C/G*KH*KW, N*OH*OW)."""
    N, C = x.shape[:2]
    pixels = N * math.prod(out_size)
    columns = _empty((groups, C // groups * math.prod(kernel_size), pixels), x)
    window = _window(x.shape, out_size, kernel_size, *geometry)
    _launch("im2col", x, (x, columns, window), C * pixels)
    return columns


def _weight_rows(w: Array, groups: int) -> Array:
    """(O,C/G,KH,KW) to (G, O/G, C/G*KH*KW)."""
    return _contiguous(w).reshape(groups, len(w) // groups, math.prod(w.shape[1:]))


def matmul(a: Array, b: Array) -> Array:
    """CuPy's product does, but for a capture, in which it is refused."""
    return NotImplemented if context.capture is None else context.capture.matmul(a, b)


def _matmul(a: Array, b: Array) -> Array:
    if context.capture is not None:
        return (context.capture.matmul(a[0], b[0])[None] if len(a) == 1
                else context.capture.matmul(a, b))  # fmt: skip
    return _contiguous((a[0] @ b[0])[None] if len(a) == 1 else a @ b)


def _pieces(images: int, size: int) -> Iterator[slice]:
    """Slices of a batch whose images have columns of `size` elements each."""
    step = max(1, COLUMNS // size)
    return (slice(i, i + step) for i in range(0, images, step))


# ------------------------------------------------------------------------------------- pooling


def max_pool2d(
    x: Array, *, kernel_size: Pair, stride: Pair, padding: Padding, dilation: Pair
) -> tuple[Array, Array]:
    """See `reference.max_pool2d`."""
    out_size = output_size(x.shape[2:], kernel_size, stride, dilation, padding)
    shape = (*x.shape[:2], *out_size)
    if not _covers(x) or not 0 < math.prod(shape) < LARGEST:
        return NotImplemented
    y, places = _empty(shape, x), _empty(shape, x, np.int64)
    window = _window(x.shape, out_size, kernel_size, stride, padding, dilation)
    _launch("max_pool2d", x, (_contiguous(x), y, places, window), y.size)
    return y, places


def pool_gather(x: Array, indices: Array) -> Array:
    """See `reference.pool_gather`."""
    if not _covers(x) or not _places(indices):
        return NotImplemented
    y = _empty(indices.shape, x)
    sizes = _planes(x.shape[2:], indices)
    _launch("pool_gather", x, (_contiguous(x), _contiguous(indices), y, *sizes), y.size)
    return y


def pool_scatter(
    g: Array, indices: Array, *, input_size: Pair, window: dict[str, Any] | None = None
) -> Array:
    """See `reference.pool_scatter`.

    window: the geometry of the max-pool that picked the indices, where one did: each pixel then
    asks the few windows that read it.  Without it one thread adds up a whole plane.
    """
    shape = (*g.shape[:2], *input_size)
    if not _covers(g) or not _places(indices) or not 0 < math.prod(shape) < LARGEST:
        return NotImplemented
    g, indices = _contiguous(g), _contiguous(indices)
    if window is None:
        x = array_module(g).zeros(shape, g.dtype)
        sizes = _planes(input_size, indices)
        _launch("pool_scatter", g, (g, indices, x, *sizes), sizes[0])
        return x
    x = _empty(shape, g)
    packed = _window(shape, g.shape[2:], **window)
    _launch("max_pool2d_input", g, (g, indices, x, packed), x.size)
    return x


def _places(indices: Array) -> bool:
    return bool(indices.dtype == np.int64) and 0 < indices.size < LARGEST


def _planes(image_size: Sequence[int], indices: Array) -> tuple[int, int, int]:
    """Planes, pixels of each, and how many of them are picked."""
    planes = math.prod(indices.shape[:2])
    return planes, math.prod(image_size), indices.size // planes


def window_sum(x: Array, *, kernel_size: Pair, stride: Pair, padding: Padding) -> Array:
    """See `reference.window_sum`."""
    out_size = output_size(x.shape[2:], kernel_size, stride, (1, 1), padding)
    shape = (*x.shape[:2], *out_size)
    if not _covers(x) or not 0 < math.prod(shape) < LARGEST:
        return NotImplemented
    y = _empty(shape, x)
    window = _window(x.shape, out_size, kernel_size, stride, padding)
    _launch("window_sum", x, (_contiguous(x), y, window), y.size)
    return y


def window_sum_input(
    g: Array, *, input_size: Pair, kernel_size: Pair, stride: Pair, padding: Padding
) -> Array:
    """See `reference.window_sum_input`."""
    shape = (*g.shape[:2], *input_size)
    if not _covers(g) or not 0 < math.prod(shape) < LARGEST:
        return NotImplemented
    x = _empty(shape, g)
    window = _window(shape, g.shape[2:], kernel_size, stride, padding)
    _launch("window_sum_input", g, (_contiguous(g), x, window), x.size)
    return x


# ------------------------------------------------------------------------- batch norm and ReLU


def batch_norm(
    x: Array, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    """See `reference.batch_norm`."""
    return _batch_norm(x, weight, bias, None, eps, relu=False)


def batch_norm_relu(
    x: Array, weight: Array | None, bias: Array | None, residual: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    """See `reference.batch_norm_relu`."""
    return _batch_norm(x, weight, bias, residual, eps, relu=True)


def _batch_norm(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    residual: Array | None,
    eps: float,
    *,
    relu: bool,
) -> tuple[Array, Array, Array]:
    if not _covers(x, weight, bias, residual) or x.shape[1] > CHANNELS:
        return NotImplemented
    x, weight, bias, residual = map(_contiguous_or_none, (x, weight, bias, residual))
    sizes = _channels(x)
    grid = _parts(sizes)
    means, squares = _partial_sums(x, grid)
    _launch("batch_statistics", x, (x, means, squares, *sizes), grid=grid)
    y, mean, var = _empty(x.shape, x), _empty((sizes[1],), x), _empty((sizes[1],), x)
    arrays = (x, weight, bias, residual, means, squares, y, mean, var)
    _launch("batch_norm", x, (*arrays, *sizes, float(eps), relu), grid=grid)
    return y, mean, var


def batch_norm_backward(
    g: Array, x: Array, weight: Array | None, mean: Array, var: Array, eps: float
) -> tuple[Array, Array, Array]:
    """See `reference.batch_norm_backward`."""
    found = _batch_norm_backward(g, None, x, weight, mean, var, eps, residual=False)
    return found if found is NotImplemented else found[:3]


def batch_norm_relu_backward(
    g: Array,
    y: Array,
    x: Array,
    weight: Array | None,
    mean: Array,
    var: Array,
    eps: float,
    residual: bool,
) -> tuple[Array, Array, Array, Array | None]:
    """See `reference.batch_norm_relu_backward`."""
    return _batch_norm_backward(g, y, x, weight, mean, var, eps, residual=residual)


def _batch_norm_backward(
    g: Array,
    y: Array | None,
    x: Array,
    weight: Array | None,
    mean: Array,
    var: Array,
    eps: float,
    *,
    residual: bool,
) -> Any:
    if not _covers(g, y, x, weight, mean, var) or x.shape[1] > CHANNELS:
        return NotImplemented
    given = (g, y, x, weight, mean, var)
    g, y, x, weight, mean, var = map(_contiguous_or_none, given)
    sizes = _channels(x)
    grid = _parts(sizes)
    sums, products = _partial_sums(x, grid)
    args = (g, y, x, mean, var, sums, products, *sizes, float(eps))
    _launch("batch_norm_sums", x, args, grid=grid)
    dx, dweight, dbias = _empty(x.shape, x), _empty((sizes[1],), x), _empty((sizes[1],), x)
    dresidual = _empty(x.shape, x) if residual else None
    read = (g, y, x, weight, mean, var, sums, products)
    written = (dx, dweight, dbias, dresidual)
    _launch("batch_norm_backward", x, (*read, *written, *sizes, float(eps)), grid=grid)
    return dx, dweight, dbias, dresidual


def _contiguous_or_none(x: Array | None) -> Array | None:
    return None if x is None else _contiguous(x)


def _channels(x: Array) -> tuple[int, int, int]:
    """N, C and the pixels of an image (N,C,...)."""
    return (*x.shape[:2], math.prod(x.shape[2:]))


def _parts(sizes: tuple[int, int, int]) -> tuple[int, int]:
    """The grid of a batch norm: parts of equal length that a channel is read in, and channels."""
    N, C, S = sizes
    length = -(-N * S // min(64, -(-N * S // PART)))
    return -(-N * S // length), C


def _partial_sums(x: Array, grid: tuple[int, int]) -> tuple[Array, Array]:
    """Room for two numbers of each part."""
    wide = WIDE[x.dtype.char]
    return _empty((grid[1], grid[0]), x, wide), _empty((grid[1], grid[0]), x, wide)


def affine(x: Array, scale: Array, shift: Array) -> Array:
    """See `reference.affine`."""
    return _affine(x, scale, shift, None, relu=False)


def affine_relu(x: Array, scale: Array, shift: Array, residual: Array | None) -> Array:
    """See `reference.affine_relu`."""
    return _affine(x, scale, shift, residual, relu=True)


def fixed_norm(
    x: Array,
    mean: Array,
    var: Array,
    weight: Array | None,
    bias: Array | None,
    residual: Array | None,
    eps: float,
    relu: bool,
) -> Array:
    """See `reference.fixed_norm`."""
    scale, shift = scale_and_shift(mean, var, weight, bias, eps)
    return _affine(x, scale, shift, residual, relu=relu)


def _affine(x: Array, scale: Array, shift: Array, residual: Array | None, *, relu: bool) -> Array:
    if not _covers(x, scale, shift, residual):
        return NotImplemented
    x, scale, shift, residual = map(_contiguous_or_none, (x, scale, shift, residual))
    y = _empty(x.shape, x)
    _launch("affine", x, (x, scale, shift, residual, y, *_channels(x), relu), x.size)
    return y


def relu_backward(g: Array, y: Array) -> Array:
    """See `reference.relu_backward`."""
    if not _covers(g, y) or g.shape != y.shape:
        return NotImplemented
    dx = _empty(g.shape, g)
    _launch("relu_backward", g, (_contiguous(g), _contiguous(y), dx, g.size), g.size)
    return dx


def move_statistics(
    running_mean: Array,
    running_var: Array,
    mean: Array,
    var: Array,
    seen: Array | None,
    *,
    momentum: float | None,
    unbias: float,
) -> None:
    """See `fused.move_statistics`."""
    arrays = (running_mean, running_var, mean, var)
    if not _covers(*arrays) or not all(a.flags.c_contiguous for a in arrays):
        return NotImplemented
    averages, share = momentum is None, float(momentum or 0)
    args = (*arrays, seen, mean.size, averages, share, 1 - share, float(unbias))
    _launch("move_statistics", mean, args, grid=(1,))
    return None


# ---------------------------------------------------------------------------------------- loss


def cross_entropy(
    x: Array, targets: Array, *, reduction: str, ignore_index: int
) -> tuple[Array, Array, Array, Array | None]:
    """See `fused.cross_entropy`."""
    if not _covers(x) or x.ndim != 2 or not _places(targets):
        return NotImplemented
    (R, C), ignored = x.shape, np.int64(ignore_index)
    x, targets = _contiguous(x), _contiguous(targets)
    largest, logsums = _empty((R,), x), _empty((R,), x)
    loss = _empty((), x) if reduction != "none" else _empty((R,), x)
    rows = _empty((), x, np.int64) if reduction == "mean" else None
    if reduction != "none" and x.size <= FEW:
        written = (largest, logsums, loss, rows)
        _launch("cross_entropy_of_few", x, (x, targets, *written, R, C, ignored), grid=(1,))
        return loss, largest, logsums, rows
    losses = loss if reduction == "none" else _empty((R,), x)
    warps = 1 << max(0, (C - 1).bit_length() - 7)  # about four classes for each thread
    threads = min(THREADS, 32 * warps)
    arrays = (x, targets, losses, largest, logsums)
    _launch("cross_entropy", x, (*arrays, C, ignored), grid=(R,), threads=threads)
    if reduction != "none":
        _launch("sum_losses", x, (losses, targets, loss, rows, R, ignored), grid=(1,))
    return loss, largest, logsums, rows


def cross_entropy_backward(
    g: Array,
    x: Array,
    targets: Array,
    largest: Array,
    logsums: Array,
    rows: Array | None,
    *,
    ignore_index: int,
) -> Array:
    """See `fused.cross_entropy_backward`."""
    if not _covers(g, x, largest, logsums) or x.ndim != 2 or not _places(targets):
        return NotImplemented
    dx = _empty(x.shape, x)
    arrays = (*map(_contiguous, (g, x, targets, largest, logsums)), rows, dx)
    args = (*arrays, *x.shape, np.int64(ignore_index), g.ndim > 0)
    _launch("cross_entropy_backward", x, args, x.size)
    return dx


# ---------------------------------------------------------------------------------- optimizers


def sgd(
    ps: list[Array],
    gs: list[Array],
    buffers: list[Array] | None,
    *,
    lr: float,
    momentum: float,
    shares: list[float],
    weight_decay: float,
    nesterov: bool,
) -> None:
    """See `reference.sgd`."""
    rules = (float(lr), float(momentum), float(weight_decay), nesterov)
    return _update("sgd", ps, gs, [buffers, None, None], [0.0] * len(ps), shares, rules)


def adam(
    ps: list[Array],
    gs: list[Array],
    ms: list[Array],
    vs: list[Array],
    largest: list[Array] | None,
    *,
    step_sizes: list[float],
    beta1: float,
    beta2: float,
    roots: list[float],
    eps: float,
    weight_decay: float,
    shrink: float,
) -> None:
    """See `reference.adam`."""
    rules = (beta1, 1 - beta1, beta2, 1 - beta2, eps, weight_decay, shrink)
    numbers = tuple(map(float, rules))
    return _update("adam", ps, gs, [ms, vs, largest], step_sizes, roots, numbers)


def _update(
    name: str,
    ps: list[Array],
    gs: list[Array],
    states: list[list[Array] | None],
    rates: list[float],
    scales: list[float],
    rules: tuple[Any, ...],
) -> None:
    """One launch for 60 parameters: their addresses, sizes and numbers travel by value."""
    kept = [state for state in states if state is not None]
    changed = [ps, *kept]
    if not _covers(*ps, *gs, *(a for state in kept for a in state)) or not all(
        a.flags.c_contiguous for arrays in changed for a in arrays
    ):
        return NotImplemented
    gs = [_contiguous(g) for g in gs]
    room = PARAMETERS["each"].shape[0]
    for first in range(0, len(ps), room):
        some = range(first, min(first + room, len(ps)))
        table = np.zeros((), PARAMETERS)
        table["each"][: len(some)] = [
            (
                ps[i].data.ptr,
                gs[i].data.ptr,
                *(0 if state is None else state[i].data.ptr for state in states),
                ps[i].size,
                rates[i],
                scales[i],
            )
            for i in some
        ]
        grid = (_blocks(max(ps[i].size for i in some)), len(some))
        _launch(name, ps[0], (table, *rules), grid=grid)
    return None


# ---------------------------------------------------------------------------------------- data


def gather_images(images: Array, indices: Array, *, mean: float, std: float) -> Array:
    """See `fused.gather_images`."""
    shape = (len(indices), 1, *images.shape[1:])
    if images.dtype != np.uint8 or not _places(indices) or not 0 < math.prod(shape) < LARGEST:
        return NotImplemented
    y = _empty(shape, images, np.float32)
    sizes = (len(indices), math.prod(images.shape[1:]), np.int64(len(images)))
    arrays = (_contiguous(images), _contiguous(indices), y)
    _launch("gather_images", y, (*arrays, *sizes, float(mean), float(std)), y.size)
    return y
