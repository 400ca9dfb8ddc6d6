"""The heavy kernels again, faster, in plain NumPy: whatever is not here the reference does.

Four ideas carry all of it:
1. Channels last. Arrays are (N,C,H,W) to the caller and (N,H,W,C) in memory, so that a patch is a
   few long runs, and what a matrix product writes is the next layer's input.
2. Blocks that stay in cache. A few images, or a few rows of one, go through all steps before the
   next block is read; no array as large as the whole batch's patches ever exists.
3. One loop for two kernels. The gradient of the input is again a correlation, with flipped
   weights and stride 1: one for each of the sh*sw phases of a strided convolution.
4. Threads over blocks (`tinyconv.backend.threads`).

Axes: N batch, C channels, H W image, O output channels, OH OW output image, KH KW kernel,
P pixels (N*H*W). Arguments and results are those of `tinyconv.backend.reference`.
"""

import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from tinyconv.backend import reference, sums
from tinyconv.backend.array import Array, complete
from tinyconv.backend.memory import empty, empty_like, memory_order
from tinyconv.backend.reference import Padding, Pair
from tinyconv.backend.threads import (
    WORTH_THREADS,
    cut,
    evenly,
    get_num_threads,
    in_spans,
    scratch,
)

R = TypeVar("R")

FEW = 2**14  # numbers below which the reference's fewer calls win
BLOCK = 2**19  # numbers in a block, 2 MB: it stays in cache, and NumPy's calls are few and long
SHORT_SUM = 64  # rows that are added up in the precision of x
SHORT_RUN = 8  # numbers below which a run is not worth copying as one
IMAGE_AXES = [(2, 3), (-2, -1)]  # of (N,C,H,W)
SMALL_PRODUCT = 10**6  # multiply-adds up to which OpenBLAS multiplies without packing: 20 % faster


def _even_blocks(rows: Array, threads: int) -> list[slice]:
    """Slices of the first axis of about BLOCK numbers."""
    return cut(len(rows), evenly(-(-rows.size // BLOCK), threads))


def _in_blocks(
    job: Callable[[Sequence[slice]], R], rows: Array, size: int, blas: bool = True
) -> list[R]:
    """job(span) for spans of `_even_blocks`."""
    threads = get_num_threads()
    return in_spans(job, _even_blocks(rows, threads), size, blas=blas, threads=threads)


# --------------------------------------------------------------------------- convolution

Block = tuple[slice, slice]  # images, rows of the output


def _blocks(images: int, rows: int, row_size: int, threads: int) -> list[Block]:
    """Cut (images, rows) into whole images, or where one is too large, into bands of its rows."""
    fit = max(1, BLOCK // row_size)
    if fit >= rows:
        some = -(-images // (fit // rows))
        return [(piece, slice(0, rows)) for piece in cut(images, evenly(some, threads))]
    bands = cut(rows, -(-rows // fit))
    return [(slice(n, n + 1), band) for n in range(images) for band in bands]


def _read(
    first: int, count: int, size: int, stride: int, kernel: int, dilation: int
) -> tuple[int, slice, slice]:
    """What `count` windows, the first at `first`, read of an axis of `size`.

    The length they span, the part of the axis within that span, and where in the span it lies.
    """
    length = (count - 1) * stride + (kernel - 1) * dilation + 1
    start, stop = (min(max(i, 0), size) for i in (first, first + length))
    return length, slice(start, stop), slice(start - first, stop - first)


class _Patches:
    """The patches of x (N,H,W,C) as matrices (P, KH*KW*C), block by block.

    Window (0,0) starts at `origin`, possibly outside of x, where everything is zero. A matrix is
    overwritten by the next one that the same thread asks for.
    """

    def __init__(
        self, x: Array, columns: int, kernel_size: Pair, stride: Pair, dilation: Pair, origin: Pair
    ) -> None:
        self.x, self.columns = x, columns
        self.kernel_size, self.stride, self.dilation = kernel_size, stride, dilation
        self.top = origin[0]
        self.across = self._read(1, origin[1], columns)
        self.prepared: dict[tuple[int, ...], tuple[Array, Array, Array, Array]] = {}

    def _read(self, axis: int, first: int, count: int) -> tuple[int, slice, slice]:
        step, kernel, spread = self.stride[axis], self.kernel_size[axis], self.dilation[axis]
        return _read(first, count, self.x.shape[1 + axis], step, kernel, spread)

    def __call__(self, block: Block) -> Array:
        images, rows = block
        sh, sw = self.stride
        count = rows.stop - rows.start
        h, rows_in, rows_at = self._read(0, self.top + rows.start * sh, count)
        w, cols_in, cols_at = self.across
        x = self.x[images, rows_in, cols_in]
        if self.kernel_size == (1, 1) and x.shape[1:3] == (h, w):
            return x[:, ::sh, ::sw].reshape(-1, x.shape[3])
        # The border around `rows_at` and `cols_at` is zero, and stays so from block to block.
        key = (threading.get_ident(), len(x), count, rows_at.start, rows_at.stop)
        if key not in self.prepared:
            padded = np.zeros((len(x), h, w, x.shape[3]), x.dtype)
            self.prepared[key] = padded[:, rows_at, cols_at], *self._windows(padded, count)
        inside, windows, target, matrix = self.prepared[key]
        np.copyto(inside, x)
        np.copyto(target, windows)
        return matrix

    def _windows(self, padded: Array, rows: int) -> tuple[Array, Array, Array]:
        """The windows of `padded`, a matrix for them, and that matrix in the windows' shape."""
        (KH, KW), (sh, sw), (dh, dw) = self.kernel_size, self.stride, self.dilation
        N, C = len(padded), padded.shape[3]
        n, h, w, c = padded.strides
        P, K = N * rows * self.columns, KH * KW * C
        run = KW if dw == 1 else 1  # so many pixels of a window are neighbours in memory
        if run * C < SHORT_RUN:
            windows = np.lib.stride_tricks.as_strided(
                padded,
                (KH, KW, C, N, rows, self.columns),
                (h * dh, w * dw, c, n, h * sh, w * sw),
            )
            matrix = scratch("patches", (K, P), padded.dtype)
            return windows, matrix.reshape(windows.shape), matrix.T
        # NumPy copies a run faster as one opaque element than as an axis of numbers.
        element = np.dtype((np.void, run * C * padded.itemsize))
        windows = np.ndarray(
            (N, rows, self.columns, KH, KW // run),
            element,
            padded,
            strides=(n, h * sh, w * sw, h * dh, w * dw),
        )
        matrix = scratch("patches", (P, K), padded.dtype)
        return windows, matrix.view(element).reshape(windows.shape), matrix


def _pieces(rows: int, row_work: int) -> int:
    """Into how many equal pieces to cut a product, so that each is small for OpenBLAS."""
    for n in range(1, rows // 96 + 1):
        if rows % n == 0 and rows // n * row_work <= SMALL_PRODUCT:
            return n
    return 1


class _Correlation:
    """y[n,i,j] = sum over kh, kw of x[n, i*sh + kh*dh + top, j*sw + kw*dw + left] @ w[kh,kw].

    x (N,H,W,C), w (KH,KW,C,O), y (N,OH,OW,O), any strides; origin is (top, left), and outside of
    the image x is zero.
    """

    def __init__(
        self, x: Array, w: Array, y: Array, *, stride: Pair, dilation: Pair, origin: Pair
    ) -> None:
        KH, KW, C, O = w.shape
        N, OH, OW, _ = y.shape
        self.w = np.ascontiguousarray(w).reshape(KH * KW * C, O)
        self.y = y
        self.patches = _Patches(x, OW, (KH, KW), stride, dilation, origin)
        self.geometry = N, OH, OW * max(self.w.shape)
        self.work = N * OH * OW * max(self.w.shape)

    def compute(self, block: Block) -> None:
        rows, y = self.patches(block), self.y[block]
        K, O = self.w.shape
        direct = y.flags.c_contiguous
        product = y if direct else scratch("product", y.shape, y.dtype)
        n = _pieces(len(rows), K * O)
        np.matmul(rows.reshape(n, -1, K), self.w, out=product.reshape(n, -1, O))
        if not direct:
            np.copyto(_pixels(y), _pixels(product))


def _correlate(correlations: list[_Correlation]) -> None:
    """Compute them all, side by side."""
    threads = get_num_threads()
    todo = [(c, block) for c in correlations for block in _blocks(*c.geometry, threads)]
    todo.sort(key=lambda item: item[1][0].start)  # a span has a share of each

    def job(span: Sequence[tuple[_Correlation, Block]]) -> None:
        for correlation, block in span:
            correlation.compute(block)

    in_spans(job, todo, sum(c.work for c in correlations), threads=threads)


def _pixels(x: Array) -> Array:
    """x (...,C), contiguous along C, with one opaque element per pixel: NumPy copies it faster."""
    return x.view(np.dtype((np.void, x.shape[-1] * x.itemsize)))


def _covers(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.dtype in (np.float32, np.float64) and a.size > 0 and b.size > 0


def _groups(n: int, *channels: int) -> Iterator[tuple[slice, ...]]:
    """For each of n groups, its slice of every one of the given numbers of channels."""
    for i in range(n):
        yield tuple(slice(c // n * i, c // n * (i + 1)) for c in channels)


def _merged(groups: int, channels: int) -> int:
    """How many groups to put into one, so that it has channels enough for a matrix product."""
    fit = range(1, max(1, min(groups, 16 // channels)) + 1)
    return max(m for m in fit if groups % m == 0)


def _block_diagonal(x: Array, w: Array, groups: int) -> tuple[Array, int]:
    """w (O,C/G,KH,KW) for fewer groups, with zeros between channels of different ones.

    Unless x, which w shall multiply, has a NaN or infinity: 0 times that would spread.
    """
    O, CG, KH, KW = w.shape
    m = _merged(groups, CG)
    if m == 1 or not np.isfinite(x).all():
        return w, groups
    dense = np.zeros((groups // m, m, O // groups, m, CG, KH, KW), w.dtype)
    parts = w.reshape(groups // m, m, O // groups, CG, KH, KW)
    for i in range(m):
        dense[:, i, :, i] = parts[:, i]
    return dense.reshape(O, m * CG, KH, KW), groups // m


def _diagonal_blocks(w: Array, groups: int, m: int) -> Array:
    """The adjoint of `_block_diagonal`, which merged m groups."""
    O, C, KH, KW = w.shape
    dense = w.reshape(groups // m, m, O // groups, m, C // m, KH, KW)
    parts = np.stack([dense[:, i, :, i] for i in range(m)], 1)
    return parts.reshape(O, C // m, KH, KW)


def _channels_last(x: Array) -> Array:
    return x.transpose(0, 2, 3, 1)


def _empty(N: int, C: int, H: int, W: int, dtype: Any) -> Array:
    """(N,C,H,W) to the caller, channels-last in memory."""
    return empty((N, H, W, C), dtype).transpose(0, 3, 1, 2)


def conv2d(
    x: Array, w: Array, *, stride: Pair, padding: Padding, dilation: Pair, groups: int
) -> Array:
    """See `reference.conv2d`."""
    if not _covers(x, w):
        return NotImplemented
    (top, _), (left, _) = padding
    N, C = x.shape[:2]
    size = reference.output_size(x.shape[2:], w.shape[2:], stride, dilation, padding)
    y = _empty(N, len(w), *size, x.dtype)
    if not y.size:
        return y
    w, groups = _block_diagonal(x, w, groups)
    _correlate(
        [
            _Correlation(
                _channels_last(x[:, cs]),
                w[os_].transpose(2, 3, 1, 0),
                _channels_last(y[:, os_]),
                stride=stride,
                dilation=dilation,
                origin=(-top, -left),
            )
            for cs, os_ in _groups(groups, C, len(w))
        ]
    )
    return y


def stride_phases(
    size: int, kernel: int, stride: int, pad: int, dilation: int
) -> Iterator[tuple[slice, slice, int, int]]:
    """Along one axis: the input at start::stride meets only some taps of the kernel.

    With i = start + stride*t, i + pad = stride*o + dilation*k has solutions for every step-th k
    from some `first` on, and o falls by `dilation'` from one to the next: a stride-1 correlation
    with these taps in reverse. Yields (input slice, taps, dilation', origin); no taps: zero.
    """
    step = stride // math.gcd(stride, dilation)
    spread = dilation * step // stride
    for start in range(min(stride, size)):
        hits = (k for k in range(kernel) if (start + pad - k * dilation) % stride == 0)
        first = next(hits, kernel)
        taps = slice(first, kernel, step)
        origin = (start + pad - first * dilation) // stride
        last = len(range(first, kernel, step)) - 1
        yield slice(start, size, stride), taps, spread, origin - spread * last


def met_border(dx: Array, w: Array) -> bool:
    """Did a weight that is not finite meet the zeros around g, which are in no window?

    They are around every image, so the first one shows it.
    """
    return not (np.isfinite(dx[:1]).all() or np.isfinite(w).all())


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
    if not _covers(g, w):
        return NotImplemented
    C = w.shape[1] * groups
    weights = w
    w, groups = _block_diagonal(g, w, groups)
    dx = _empty(len(g), C, *input_size, g.dtype)
    phases = [
        list(stride_phases(*axis))
        for axis in zip(
            input_size, w.shape[2:], stride, (padding[0][0], padding[1][0]), dilation, strict=True
        )
    ]
    correlations = [
        _Correlation(
            _channels_last(g[:, os_]),
            w[os_, :, kh, kw][:, :, ::-1, ::-1].transpose(2, 3, 0, 1),
            _channels_last(dx[:, cs, rows, cols]),
            stride=(1, 1),
            dilation=(dh, dw),
            origin=(top, left),
        )
        for rows, kh, dh, top in phases[0]
        for cols, kw, dw, left in phases[1]
        for cs, os_ in _groups(groups, C, len(w))
        if w[0, 0, kh, kw].size
    ]
    if len(correlations) < len(phases[0]) * len(phases[1]) * groups:
        dx[...] = 0
    _correlate(correlations)
    return NotImplemented if met_border(dx, weights) else dx


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
    if not _covers(x, g):
        return NotImplemented
    C, O = x.shape[1], g.shape[1]
    m = _merged(groups, C // groups)
    dw = np.empty((O, m * C // groups, *kernel_size), x.dtype)
    for cs, os_ in _groups(groups // m, C, O):
        dw[os_] = _correlate_weight(
            _channels_last(x[:, cs]),
            _channels_last(g[:, os_]),
            kernel_size,
            stride=stride,
            dilation=dilation,
            origin=(-padding[0][0], -padding[1][0]),
        ).transpose(3, 2, 0, 1)
    return dw if m == 1 else _diagonal_blocks(dw, groups, m)


def _correlate_weight(
    x: Array, g: Array, kernel_size: Pair, *, stride: Pair, dilation: Pair, origin: Pair
) -> Array:
    """The adjoint of `_correlate` in w: x (N,H,W,C), g (N,OH,OW,O) to (KH,KW,C,O)."""
    C = x.shape[3]
    N, OH, OW, O = g.shape
    K = kernel_size[0] * kernel_size[1] * C
    patches = _Patches(x, OW, kernel_size, stride, dilation, origin)

    def job(blocks: Sequence[Block]) -> Array:
        total = np.zeros((K, O))  # of millions of pixels: wider than each block's
        for block in blocks:
            rows = patches(block)
            if K * O <= sums.SMALL:  # of which OpenBLAS adds all in one go
                total += sums.product(rows.reshape(-1, K).T, g[block].reshape(-1, O), 2**8)
                continue
            n = _pieces(len(rows), K * O)
            pixels = g[block].reshape(n, -1, O)
            products = np.matmul(rows.reshape(n, -1, K).transpose(0, 2, 1), pixels)
            total += products[0] if n == 1 else products.sum(0, dtype=np.float64)
        return total

    per_thread = max(1, min(4, 4 * BLOCK // (K * O)))  # totals of a large kernel take memory
    threads = get_num_threads()
    blocks = _blocks(N, OH, OW * max(K, O), threads)
    totals = in_spans(job, blocks, N * OH * OW * max(K, O), per_thread, threads=threads)
    return sum(totals[1:], totals[0]).astype(x.dtype).reshape(*kernel_size, C, O)


# ------------------------------------------------------------------- batch norm and ReLU


def channel_rows(x: Array) -> Array:
    """x (N,C,...) channels-last as a matrix (rows, L): each row holds L/C pixels."""
    axes, _, rows, _ = _row_layout(x.shape)
    return contiguous(x.transpose(axes)).reshape(rows)


@functools.lru_cache(maxsize=4096)
def _row_layout(shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Of (N,C,...): the axes in channels-last order, the shape then, that of rows, the way back.

    NumPy's inner loop is one row; rows of a mere 16 channels would be all overhead.
    """
    N, C, *size = shape
    axes = range(len(shape))
    length, axis = C, len(size)
    while length < 256 and axis > 0:
        axis -= 1
        length *= size[axis]
    rows = math.prod(shape) // length if length else 0
    last = len(shape) - 1
    return (0, *axes[2:], 1), (N, *size, C), (rows, length), (0, last, *axes[1:last])


def contiguous(x: Array) -> Array:
    """x itself if it is row-major, else a copy, in recycled memory where that is worth it."""
    if x.flags.c_contiguous:
        return x
    y = empty(x.shape, x.dtype)
    y[...] = x
    return y


def from_rows(rows: Array, x: Array) -> Array:
    """Back from `channel_rows` to the shape of x."""
    _, last, _, axes = _row_layout(x.shape)
    return rows.reshape(last).transpose(axes)


def _channel_sums(
    x: Array, shift: Array | None, g: Array | None, channels: int
) -> tuple[Array, Array]:
    """Per channel, in float64: the sums of g and of g * (x - shift); without g of x - shift for g.

    x and g are `channel_rows`, shift is one row.
    """

    def job(span: Sequence[slice]) -> list[tuple[Array, Array]]:
        found = []
        for block in span:
            d = x[block]
            if shift is not None:
                d = np.subtract(d, shift, out=scratch("deviation", d.shape, d.dtype))
            p = d if g is None else g[block]
            for start in range(0, len(p), SHORT_SUM):
                a, b = p[start : start + SHORT_SUM], d[start : start + SHORT_SUM]
                found.append((np.dot(np.ones(len(a), a.dtype), a), np.einsum("ij,ij->j", a, b)))
        return found

    parts = [part for span in _in_blocks(job, x, x.size) for part in span]
    first, second = (
        sums.sum(np.concatenate([part[i] for part in parts]).reshape(-1, channels), 0, False, "f8")
        for i in (0, 1)
    )
    return first, second


def _far_from_zero(mean: Array, var: Array) -> bool:
    """Would sums of x^2, not of (x - mean)^2, lose more than a digit?"""
    return bool((mean**2 > 16 * var).any())


def batch_norm(
    x: Array, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    """See `reference.batch_norm`.

    One pass over x gives sum x and sum x^2, which is enough where the mean is of the order of the
    standard deviation; only otherwise does a second pass sum the deviations.
    """
    if x.size < FEW or not _covers(x, x):
        return NotImplemented
    C, rows = x.shape[1], channel_rows(x)
    total = x.size // C

    def row(v: Array) -> Array:
        return np.tile(v.astype(x.dtype), rows.shape[1] // C)

    first, second = _channel_sums(rows, None, None, C)
    mean = first / total
    var = second / total - mean**2
    if _far_from_zero(mean, var):
        mean = mean.astype(x.dtype).astype(np.float64)  # the very shift that is subtracted
        first, second = _channel_sums(rows, row(mean), None, C)
        var = second / total - (first / total) ** 2
        mean += first / total
    var = np.maximum(var, 0)

    scale = 1 / np.sqrt(var + eps)
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    scales, shifts = row(scale), row(shift)
    y = empty_like(rows)

    def normalise(span: Sequence[slice]) -> None:
        for block in span:
            part = np.multiply(rows[block], scales, out=y[block])
            part += shifts

    _in_blocks(normalise, rows, x.size)
    return from_rows(y, x), mean.astype(x.dtype), var.astype(x.dtype)


def batch_norm_backward(
    g: Array, x: Array, weight: Array | None, mean: Array, var: Array, eps: float
) -> tuple[Array, Array, Array]:
    """See `reference.batch_norm_backward`."""
    if x.size < FEW or not _covers(x, g):
        return NotImplemented
    C, xs, gs = x.shape[1], channel_rows(x), channel_rows(g)
    total = x.size // C

    def row(v: Array) -> Array:
        return np.tile(v.astype(x.dtype), xs.shape[1] // C)

    # dx = scale * (g - slope * (x - mean) - <g>); where it is safe, the mean moves to the offset.
    shift = row(mean) if _far_from_zero(mean, var) else None
    center = 0 if shift is not None else mean.astype(np.float64)
    sum_g, sum_gd = _channel_sums(xs, shift, gs, C)
    sum_gd = sum_gd - center * sum_g
    scale = 1 / np.sqrt(var.astype(np.float64) + eps)
    slope = scale**2 * sum_gd / total
    slopes, offsets = row(slope), row(sum_g / total - slope * center)
    scales = row(scale if weight is None else scale * weight)
    dx = empty_like(xs)

    def combine(span: Sequence[slice]) -> None:
        for block in span:
            part = xs[block]
            if shift is not None:
                part = np.subtract(part, shift, out=dx[block])
            part = np.multiply(part, slopes, out=dx[block])
            part += offsets
            np.subtract(gs[block], part, out=part)
            part *= scales

    _in_blocks(combine, xs, x.size)
    return from_rows(dx, x), (scale * sum_gd).astype(x.dtype), sum_g.astype(x.dtype)


def dense(x: Array) -> bool:
    """Is there an order of the axes in which x is contiguous?"""
    return bool(x.transpose(memory_order(x)).flags.c_contiguous)


def flat(x: Array) -> Array:
    """A dense x as a vector, in the order of its memory."""
    return x.transpose(memory_order(x)).reshape(-1)


class _Zeros(dict[Any, Array]):
    """0 as an array, by dtype: NumPy takes twice as long over a Python number."""

    def __missing__(self, dtype: Any) -> Array:
        self[dtype] = np.zeros((), dtype)
        return self[dtype]


_zeros = _Zeros()


def copy(x: Array) -> Array:
    """See `reference.copy`."""
    if not dense(x):
        return NotImplemented
    twin = empty_like(x)
    source, target = flat(x), flat(twin)

    def job(span: Sequence[slice]) -> None:
        for block in span:
            np.copyto(target[block], source[block])

    _in_blocks(job, source, x.size, blas=False)
    return twin


def add(x: Array, y: Array) -> Array:
    """See `reference.add`."""
    if x.strides != y.strides or x.dtype != y.dtype or not dense(x):
        return NotImplemented
    return _sum(x, y, empty_like(x))


def add_to(x: Array, y: Array) -> Array:
    """See `reference.add_to`."""
    if x.strides != y.strides or x.dtype != y.dtype or not dense(x):
        return NotImplemented
    return _sum(x, y, x)


def _sum(x: Array, y: Array, total: Array) -> Array:
    """x + y in `total`, all three dense and of one layout."""
    a, b, target = flat(x), flat(y), flat(total)

    def job(span: Sequence[slice]) -> None:
        for block in span:
            np.add(a[block], b[block], out=target[block])

    _in_blocks(job, a, x.size, blas=False)
    return total


@complete
def relu(x: Array) -> Array:
    """See `reference.relu`."""
    if x.size < WORTH_THREADS or not dense(x):
        return np.maximum(x, _zeros[x.dtype])
    y = empty_like(x)
    source, target = flat(x), flat(y)

    def job(span: Sequence[slice]) -> None:
        for block in span:
            np.maximum(source[block], 0, out=target[block])

    _in_blocks(job, source, x.size, blas=False)
    return y


@complete
def relu_backward(g: Array, y: Array) -> Array:
    """See `reference.relu_backward`."""
    if y.size < FEW:  # faster than the reference, which counts when there are 8 numbers
        dx, zero = np.array(g), _zeros[y.dtype]
        dx[y <= zero] = zero
        return dx
    if not _covers(g, y) or not dense(y):
        return reference.relu_backward(g, y)
    if g.strides != y.strides:
        same = empty_like(y)
        same[...] = g
        g = same
    dx = empty_like(y)
    # A branch per element is slow, and as a float infinity times 0 is NaN: multiply the bits.
    bits = f"i{y.itemsize}"
    ys, gs, target = flat(y), flat(g).view(bits), flat(dx).view(bits)

    def job(span: Sequence[slice]) -> None:
        for block in span:
            keep = scratch("keep", target[block].shape, bits)
            np.not_equal(ys[block], 0, out=keep, casting="unsafe")  # NaN keeps its gradient
            np.multiply(gs[block], keep, out=target[block])

    _in_blocks(job, ys, y.size, blas=False)
    return dx


def batch_norm_relu(
    x: Array, weight: Array | None, bias: Array | None, residual: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    """See `reference.batch_norm_relu`."""
    found = batch_norm(x, weight, bias, eps)
    if found is NotImplemented:
        return NotImplemented
    y, mean, var = found
    if residual is not None:
        y += residual
    return relu(y), mean, var


def batch_norm_relu_backward(
    g: Array,
    y: Array,
    x: Array,
    weight: Array | None,
    mean: Array,
    var: Array,
    eps: float,
    residual: bool,
    *_more: Array,
) -> tuple[Array, Array, Array, Array | None]:
    """See `reference.batch_norm_relu_backward`."""
    passed = relu_backward(g, y)
    found = batch_norm_backward(passed, x, weight, mean, var, eps)
    if found is NotImplemented:
        return NotImplemented
    return *found, passed if residual else None


# ------------------------------------------------------------------------------- pooling


def max_pool2d(
    x: Array, *, kernel_size: Pair, stride: Pair, padding: Padding, dilation: Pair
) -> tuple[Array, Array]:
    """See `reference.max_pool2d`. Where a maximum is not finite, that one decides."""
    if x.dtype.kind != "f":
        return NotImplemented
    (top, bottom), (left, right) = padding
    N, C, H, W = x.shape
    padded = x
    if any(map(any, padding)):
        padded = _empty(N, C, top + H + bottom, left + W + right, x.dtype)
        padded[...] = -np.inf
        padded[:, :, top : top + H, left : left + W] = x
    size = reference.output_size(padded.shape[2:], kernel_size, stride, dilation)
    taps = list(reference.taps(size, kernel_size, stride, dilation))
    values = [padded[:, :, rows, cols] for _, (rows, cols) in taps]
    y = functools.reduce(np.maximum, values[1:], values[0].copy(order="K"))
    if not np.isfinite(y).all():
        return NotImplemented
    # The first tap that equals the maximum: count those before it.
    before = np.zeros_like(y, np.min_scalar_type(len(taps)))
    missing = np.ones_like(y, bool)
    for value in values:
        missing &= value != y
        before += missing
    offsets = [kh * dilation[0] * W + kw * dilation[1] for (kh, kw), _ in taps]
    first = np.add.outer(
        (np.arange(size[0]) * stride[0] - top) * W, np.arange(size[1]) * stride[1] - left
    )
    return y, np.array(offsets, np.int64)[before] + first
