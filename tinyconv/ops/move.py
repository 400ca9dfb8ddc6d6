"""Windows laid out as columns, runs weighed and added up; and the adjoints.

None of these is a product with a table of zeros and ones: 0 * inf is NaN, and a pixel is to reach
only the outputs that read it.

Axes as in conv.py: (N, C, H, W), kernels KH x KW.
"""

from functools import lru_cache
from typing import Any

import numpy as np

from tinyconv.autograd import op
from tinyconv.backend import Array, array_module, backend_of, reference
from tinyconv.backend.band import Band
from tinyconv.dtypes import float16, float32
from tinyconv.errors import DTypeError
from tinyconv.samples import sample

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]

# --- windows as columns


@op(takes="floats")
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


@op(takes="floats")
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


@op
def band_product(x: Array, *, band: Band, dim: int) -> Array:
    """The band's rows times x along ``dim``: each output is a weighed sum over one run."""
    kind = x.dtype
    if kind.kind != "f" and (band.weights != 1).any():  # picking is right for integers, too
        raise DTypeError("interpolation and means", f"the input is {kind}, need floats: x.float()")
    x = x.astype(float32) if kind == float16 else x
    return backend_of(x).band_product(x, band, dim).astype(kind, copy=False)


band_product.defvjp(
    lambda g, _y, _x, *, band, dim: band_product(g, band=band.T, dim=dim),
)


@lru_cache(maxsize=512)
def even_band(size: int, out: int) -> Band:
    """Means: row i covers columns floor(i size / out) to ceil((i + 1) size / out)."""
    i = np.arange(out)
    starts = i * size // out
    counts = -(-(i + 1) * size // out) - starts
    return Band(size, starts, counts, np.repeat(1 / counts[:, None], counts.max(initial=0), 1))


@lru_cache(maxsize=512)
def linear_band(
    size: int, out: int, factor: float | None, align_corners: bool, double: bool
) -> Band:
    """The two neighbours of each new pixel's centre, weighed; positions are float32 or float64."""
    kind: Any = np.float64 if double else np.float32
    i: Any = np.arange(out, dtype=kind)
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


@lru_cache(maxsize=512)
def nearest_band(size: int, out: int, scale: float) -> Band:
    """One entry a row: that at i * scale, rounded down."""
    starts = (np.arange(out, dtype=np.float32) * np.float32(scale)).astype(np.int64)
    ones = np.ones((out, 1))
    return Band(size, np.minimum(starts, size - 1), np.ones(out, np.int64), ones)


band_product.samples += [
    sample((2, 4, 3), band=linear_band(4, 7, None, False, True), dim=1),
    sample((2, 7), band=linear_band(7, 3, None, True, True), dim=1),
    sample((2, 7), band=even_band(7, 3), dim=1),
    sample((9, 2), band=even_band(9, 2), dim=0),
]
