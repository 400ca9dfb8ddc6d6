"""Windows laid out as columns, runs weighed and added up; and the adjoints.

None of these is a product with a table of zeros and ones: 0 * inf is NaN, and a pixel is to reach
only the outputs that read it.

Axes as in conv.py: (N, C, H, W), kernels KH x KW.
"""

from functools import lru_cache
from typing import Any

import numpy as np

from tinyconv.autograd import op
from tinyconv.backend import Array, array_module, reference
from tinyconv.dtypes import float16, float32
from tinyconv.samples import sample

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]
Host = np.ndarray[Any, Any]

# --- windows as columns


@op
def unfold(
    x: Array, *, kernel_size: Pair, stride: Pair, padding: Padding, dilation: Pair
) -> Array:
    """The windows as columns: (N, C, H, W) -> (N, C KH KW, L), L windows in row-major order."""
    n, c = x.shape[:2]
    padded = reference.pad(x, padding)
    patches = reference.windows(padded, kernel_size, stride, dilation)  # N, C, OH, OW, KH, KW
    (oh, ow), (kh, kw) = patches.shape[2:4], kernel_size
    columns = array_module(x).empty((n, c, kh, kw, oh, ow), x.dtype)
    columns[...] = patches.transpose(0, 1, 4, 5, 2, 3)
    return columns.reshape(n, c * kh * kw, oh * ow)


@op
def fold(
    columns: Array, *, input_size: Pair, kernel_size: Pair, stride: Pair, padding: Padding,
    dilation: Pair,
) -> Array:  # fmt: skip
    """Columns added up to an image, `unfold`'s adjoint: (N, C KH KW, L) -> (N, C, H, W)."""
    kh, kw = kernel_size
    oh, ow = reference.output_size(input_size, kernel_size, stride, dilation, padding)
    n, c = len(columns), columns.shape[1] // (kh * kw)
    patches = columns.reshape(n, c, kh, kw, oh, ow).transpose(0, 1, 4, 5, 2, 3)
    return reference.fold(
        patches, input_size=input_size, stride=stride, padding=padding, dilation=dilation
    )


_WINDOW: dict[str, Any] = {
    "kernel_size": (2, 3), "stride": (1, 2), "padding": ((1, 1), (0, 0)), "dilation": (2, 1),
}  # fmt: skip
unfold.defvjp(
    lambda g, _y, _x, **window: fold(g, input_size=_x.shape[2:], **window),
    samples=[sample((2, 3, 5, 6), **_WINDOW)],
)
fold.defvjp(
    lambda h, _y, _columns, *, input_size, **window: unfold(h, **window),
    samples=[sample((2, 18, 10), input_size=(5, 6), **_WINDOW)],
)

# --- runs


class Band:
    """A matrix whose rows are runs: row i holds weights[i] from column starts[i] on.

    starts and ends must not decrease, so that its columns are runs, too.  weights (rows, longest),
    or None for ones.  Only what is in a run is ever read.
    """

    def __init__(self, columns: int, starts: Host, counts: Host, weights: Host | None) -> None:
        self.columns, self.starts, self.counts, self.weights = columns, starts, counts, weights
        self._transposed: Band | None = None

    @property
    def T(self) -> "Band":
        if self._transposed is None:
            self._transposed = self._turned()
            self._transposed._transposed = self
        return self._transposed

    def _turned(self) -> "Band":
        ends, column = self.starts + self.counts, np.arange(self.columns)
        first = np.searchsorted(ends, column, "right")  # the first row that ends behind it
        counts = np.searchsorted(self.starts, column, "right") - first
        weights = None
        if self.weights is not None:
            rows = np.minimum(first[:, None] + np.arange(counts.max()), len(self.starts) - 1)
            within = np.clip(column[:, None] - self.starts[rows], 0, self.weights.shape[1] - 1)
            weights = self.weights[rows, within]
        return Band(len(self.starts), first, counts, weights)

    def __repr__(self) -> str:
        return f"Band({len(self.starts)} x {self.columns})"


@op
def band_product(x: Array, *, band: Band, dim: int) -> Array:
    """The band's rows times x along ``dim``: each output is a weighed sum over one run."""
    kind = x.dtype
    x = x.astype(float32) if kind == float16 else x
    few = len(band.starts) < band.counts.max(initial=0)
    y = _row_by_row(x, band, dim) if few else _step_by_step(x, band, dim)
    return y.astype(kind, copy=False)


band_product.defvjp(
    lambda g, _y, _x, *, band, dim: band_product(g, band=band.T, dim=dim),
)


def _weights(x: Array, values: Host, dim: int) -> Array:
    """As an array to broadcast along dim."""
    return array_module(x).asarray(values, x.dtype).reshape((-1,) + (1,) * (x.ndim - 1 - dim))


def _row_by_row(x: Array, band: Band, dim: int) -> Array:
    """For few long runs."""
    xp, before = array_module(x), (slice(None),) * dim
    rows = []
    for i, (start, count) in enumerate(zip(band.starts, band.counts, strict=True)):
        run = x[(*before, slice(int(start), int(start + count)))]
        if band.weights is not None:
            run = run * _weights(x, band.weights[i, :count], dim)
        rows.append(run.sum(dim, keepdims=True))
    return xp.concatenate(rows, dim)


def _step_by_step(x: Array, band: Band, dim: int) -> Array:
    """For many short runs: the first entries of all, then the second ones where there are any."""
    xp, before = array_module(x), (slice(None),) * dim
    y = None
    for step in range(int(band.counts.max(initial=0))):
        some = np.flatnonzero(band.counts > step)
        part = x.take(xp.asarray(band.starts[some] + step), dim)
        if band.weights is not None:
            part *= _weights(x, band.weights[some, step], dim)
        if len(some) < len(band.starts):
            if y is None:
                y = xp.zeros((*x.shape[:dim], len(band.starts), *x.shape[dim + 1 :]), x.dtype)
            y[(*before, xp.asarray(some))] += part
        elif y is None:
            y = part
        else:
            y += part
    return y


@lru_cache(maxsize=512)
def even_band(size: int, out: int) -> Band:
    """Ones: row i covers columns floor(i size / out) to ceil((i + 1) size / out)."""
    i = np.arange(out)
    starts = i * size // out
    return Band(size, starts, -(-(i + 1) * size // out) - starts, None)


@lru_cache(maxsize=512)
def linear_band(
    size: int, out: int, factor: float | None, align_corners: bool, double: bool
) -> Band:
    """The two neighbours of each new pixel's centre, weighed; positions are float32 or float64."""
    kind = np.float64 if double else np.float32
    i = np.arange(out, dtype=kind)
    if align_corners:
        at = i * (kind(size - 1) / kind(out - 1) if out > 1 else kind(0))
    else:
        scale = kind(size) / kind(out) if factor is None else kind(1 / factor)
        at = np.maximum((i + kind(0.5)) * scale - kind(0.5), kind(0))
    low = np.minimum(at.astype(np.int64), size - 1)
    share = np.clip(at - low, 0, 1)
    pair = low < size - 1  # else both neighbours are the last pixel
    weights = np.stack([np.where(pair, 1 - share, 1), np.where(pair, share, 0)], 1)
    return Band(size, low, 1 + pair, weights)


band_product.samples += [
    sample((2, 4, 3), band=linear_band(4, 7, None, False, True), dim=1),
    sample((2, 7), band=linear_band(7, 3, None, True, True), dim=1),
    sample((2, 7), band=even_band(7, 3), dim=1),
    sample((9, 2), band=even_band(9, 2), dim=0),
]
