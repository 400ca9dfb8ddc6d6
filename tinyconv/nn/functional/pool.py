"""Pooling.  Axes as everywhere: (N, C, H, W) -> (N, C, OH, OW)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyconv.autograd import wrap
from tinyconv.backend import array_module, backend_of
from tinyconv.errors import DTypeError, ShapeError
from tinyconv.nn.functional.checks import check_images, or_one, whole
from tinyconv.nn.functional.conv import Padding, Pair, check_least, pair, span
from tinyconv.ops import pool as ops
from tinyconv.ops.elementwise import abs_, in_float32, maximum, ones_like, pow, relu, sign, where
from tinyconv.ops.index import take_along as gather
from tinyconv.ops.move import band_product, even_band
from tinyconv.ops.reduce import argmax, mean
from tinyconv.samples import function, positive, sample

# places that no two windows share, as pooling without overlap returns them
UNPOOLED = np.array([0, 3, 9, 10]).reshape(1, 1, 2, 2).repeat(2, 0).repeat(3, 1)


def _stride(stride: Any, kernel: Pair) -> Pair:
    """The kernel's size where it is not given."""
    return kernel if stride is None or stride == [] else pair(stride, "stride")


def _geometry(
    name: str, x: Any, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil_mode: bool
) -> tuple[Pair, Padding]:
    """Output size, and the padding with what ceil_mode adds after."""
    check_images(name, x)
    top, left = padding
    check_least(name, stride, ((top, top), (left, left)), dilation)
    if min(kernel) < 1:
        raise ShapeError(name, f"kernel_size {kernel} must be at least 1")
    _check_filled(name, x)
    size, pads = [], []
    for n, k, s, p, d in zip(x.shape[2:], kernel, stride, padding, dilation, strict=True):
        if p > k // 2:
            raise ShapeError(
                name,
                f"padding {p} is more than half of the kernel {k}: a window would see nothing but "
                f"padding. At most {k // 2}",
            )
        free = n + 2 * p - span(k, d)
        if free <= (-s if ceil_mode else -1):
            raise ShapeError(
                name,
                f"the window spans {d}*({k}-1)+1 = {span(k, d)} > {n} + 2*{p} = {n + 2 * p}; "
                f"use a kernel of at most {(n + 2 * p - 1) // d + 1}",
            )
        out = (-(-free // s) if ceil_mode else free // s) + 1
        if ceil_mode and (out - 1) * s >= n + p:
            out -= 1  # the last window must start inside the image or its left padding
        size.append(out)
        pads.append((p, p + max(0, (out - 1) * s + span(k, d) - n - 2 * p)))
    return (size[0], size[1]), (pads[0], pads[1])


def _check_filled(name: str, x: Any) -> None:
    """A batch may be empty, an image may not."""
    if 0 in x.shape[1:]:
        said = f"input {x.shape} has no pixels; only the batch, axis 0, may be empty"
        raise ShapeError(name, said)


# --- maxima


@function(
    sample((2, 3, 6, 6), 2),
    sample((2, 3, 7, 6), [3, 2], [2, 1], 1, [1, 2], True),
    sample((1, 2, 5, 5), 3, return_indices=True),
    sample((2, 4, 4), 2, return_indices=True),
    sample((1, 2, 2, 2), 3, 2, 0, 1, True),
)
@or_one(4)
def max_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest entry of each window; a NaN wins.  stride: the kernel's size by default.

    return_indices: also where they were, flat positions h * W + w, int64.
    """
    kernel = pair(kernel_size, "kernel_size")
    stride = _stride(stride, kernel)
    padding, dilation = pair(padding, "padding"), pair(dilation, "dilation")
    size, pads = _geometry("max_pool2d", input, kernel, stride, padding, dilation, ceil_mode)
    window = {"kernel_size": kernel, "stride": stride, "padding": pads, "dilation": dilation}
    indices = ops.max_pool2d_indices(input, **window)
    hidden = None if dilation == (1, 1) else _hidden(input.shape[2:], size, window)
    if hidden is None:
        values = ops.pool_gather(input, indices, window=window)
    else:
        values, indices = _seen(input, indices, hidden)
    return (values, indices) if return_indices else values


def _hidden(size: Sequence[int], out: Sequence[int], window: dict[str, Any]) -> Any:
    """The windows (OH, OW) that hop over the image, all entries in the padding, or None."""
    axes = []
    for n, m, k, s, (p, _), d in zip(size, out, *window.values(), strict=True):
        reads = (np.arange(m) * s - p)[:, None] + np.arange(k) * d
        axes.append(~((reads >= 0) & (reads < n)).any(axis=1))
    hidden = np.logical_or.outer(*axes)
    return hidden if hidden.any() else None


def _seen(x: Any, indices: Any, blind: np.ndarray[Any, Any]) -> tuple[Any, Any]:
    """The maxima and where they are; of a window without entries, the least number, place 0."""
    xp = array_module(x.array)
    hidden = wrap(xp.asarray(blind))
    indices = where(hidden, 0, indices).to(indices.dtype)
    is_float = x.array.dtype.kind == "f"
    least = xp.full((1,), -math.inf if is_float else xp.iinfo(x.array.dtype).min, x.array.dtype)
    return where(hidden, wrap(least), ops.pool_gather(x, indices)), indices


@function(sample((2, 3, 2, 2), UNPOOLED, 2), sample((3, 2, 2), UNPOOLED[0], 2), takes="floats")
@or_one(4, tensors=2)
def max_unpool2d(
    input: Any,
    indices: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: Any = None,
) -> Any:
    """The entries back at the places that `max_pool2d` returned, zeros elsewhere.

    Where windows overlapped and name a place twice, the entries are averaged.
    """
    check_images("max_unpool2d", input)
    if input.shape != indices.shape:
        raise ShapeError("max_unpool2d", f"input {input.shape} and indices {indices.shape} differ")
    kernel = pair(kernel_size, "kernel_size")
    stride, padding = _stride(stride, kernel), pair(padding, "padding")
    height, width = (
        (n - 1) * s - 2 * p + k
        for n, s, p, k in zip(input.shape[2:], stride, padding, kernel, strict=True)
    )
    if output_size is not None:
        height, width = _unpooled_size(tuple(output_size), (height, width), stride)
    _check_places(indices, height, width)
    placed = ops.pool_scatter(input, indices, input_size=(height, width))
    count = ops.pool_scatter(ones_like(input), indices, input_size=(height, width))
    return placed / maximum(count, 1.0)


def _unpooled_size(given: tuple[Any, ...], usual: Pair, stride: Pair) -> Pair:
    """The size that was asked for: one that pooling could have come from."""
    if len(given) not in (2, 4):
        said = f"output_size={given} must be (height, width), or (N, C, height, width)"
        raise ShapeError("max_unpool2d", said)
    height, width = (whole("max_unpool2d", "output_size", n) for n in given[-2:])
    for n, middle, s in zip((height, width), usual, stride, strict=True):
        if not middle - s < n < middle + s:
            raise ShapeError(
                "max_unpool2d",
                f"output_size={given}: with stride {s} pooling comes from "
                f"{max(middle - s + 1, 1)}..{middle + s - 1}, not from {n}",
            )
    return height, width


def _check_places(indices: Any, height: int, width: int) -> None:
    """int64 in the image.  On a GPU the values are not looked at: the program would wait."""
    array = indices.array
    if array.dtype != np.int64:
        raise DTypeError("max_unpool2d", f"indices are {array.dtype}: indices.long()")
    if backend_of(array).waits or not array.size:
        return
    least, top = int(array.min()), int(array.max())
    if least < 0 or top >= height * width:
        size = math.isqrt(max(top, 0)) + 1
        fix = f"; say which size was pooled, at least output_size={(size, size)}" * (least >= 0)
        raise ShapeError(
            "max_unpool2d",
            f"an index is {least if least < 0 else top}, the places of {height} x {width} are "
            f"0..{height * width - 1}{fix}",
        )


# --- means


@function(
    sample((2, 3, 6, 6), 2),
    sample((2, 3, 7, 6), [3, 2], [2, 1], [1, 1], True, False),
    sample((2, 3, 7, 6), 3, 2, 1, True, True),
    sample((1, 2, 5, 5), 2, 1, divisor_override=3),
    sample((2, 4, 4), 2),
    sample((1, 2, 3, 2), 4, 3, 1, True, False),
    takes="floats",
)
@or_one(4)
@in_float32
def avg_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """The mean of each window.  stride: the kernel's size by default.

    count_include_pad: padding counts as zeros.  What ceil_mode adds never counts.
    divisor_override: divide by this instead.
    """
    if divisor_override == 0:
        raise ValueError("avg_pool2d: divisor_override is 0; None divides by the window's size")
    kernel = pair(kernel_size, "kernel_size")
    stride, padding = _stride(stride, kernel), pair(padding, "padding")
    size, pads = _geometry("avg_pool2d", input, kernel, stride, padding, (1, 1), ceil_mode)
    total = ops.window_sum(input, kernel_size=kernel, stride=stride, padding=pads)
    if divisor_override is not None:
        return total / divisor_override
    if all(before == after and (before == 0 or count_include_pad) for before, after in pads):
        return total / (kernel[0] * kernel[1])
    rows, columns = (
        _counted(n, out, k, s, p, count_include_pad)
        for n, out, k, s, p in zip(input.shape[2:], size, kernel, stride, padding, strict=True)
    )
    return total / _host(np.outer(rows, columns), input)


def _counted(n: int, out: int, k: int, s: int, p: int, include_pad: bool) -> np.ndarray[Any, Any]:
    """How many rows of each window count."""
    start = np.arange(out) * s - p
    end = np.minimum(start + k, n + p)
    return end - start if include_pad else np.minimum(end, n) - np.maximum(start, 0)


@function(
    sample((2, 3, 6, 6), 2, 2),
    positive((2, 3, 6, 7), 3.0, [2, 3], 2, True),
    positive((2, 4, 4), 2, 2),
    takes="floats",
)
@or_one(4)
@in_float32
def lp_pool2d(
    input: Any, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Any:
    """(sum x^p)^(1/p) over each window; of p = inf the largest |x|."""
    if norm_type == 0:
        raise ValueError("lp_pool2d: norm_type is 0; the root of order 0 is not defined")
    if norm_type == math.inf:
        return max_pool2d(abs_(input), kernel_size, stride, ceil_mode=ceil_mode)
    kernel = pair(kernel_size, "kernel_size")
    y = avg_pool2d(pow(input, float(norm_type)), kernel, stride, 0, ceil_mode)
    return pow(sign(y) * relu(abs_(y)) * (kernel[0] * kernel[1]), 1 / norm_type)


# --- a given output size


def _windows(n: int, out: int) -> list[tuple[int, int]]:
    """Window i covers rows floor(i n / out) to ceil((i + 1) n / out)."""
    return [(i * n // out, -(-(i + 1) * n // out)) for i in range(out)]


def _target(name: str, x: Any, output_size: Any) -> Pair:
    check_images(name, x)
    given = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * 2
    if len(given) != 2:
        raise ShapeError(name, f"output_size={output_size} must be one number, or (height, width)")
    height, width = (
        n if w is None else whole(name, "output_size", w)
        for n, w in zip(x.shape[2:], given, strict=True)
    )
    if min(height, width) < 1:
        raise ShapeError(name, f"output_size={output_size} must be at least 1, the global mean or "
                               "maximum")  # fmt: skip
    return height, width


@function(
    sample((2, 3, 6, 6), 1), sample((2, 3, 6, 4), [3, 2]), sample((2, 3, 7, 5), (3, None)),
    sample((2, 5, 4), 3), sample((1, 2, 5, 4), [8, 4]),
    takes="floats",
)  # fmt: skip
@or_one(4)
@in_float32
def adaptive_avg_pool2d(input: Any, output_size: Any) -> Any:
    """Means over windows that tile the image into ``output_size`` (None: keep that size)."""
    size = _target("adaptive_avg_pool2d", input, output_size)
    if size == (1, 1):
        return mean(input, dim=(2, 3), keepdim=True)
    if 0 in input.shape[2:]:
        raise ShapeError("adaptive_avg_pool2d", f"input {input.shape} has no pixels")
    even = all(n % out == 0 for n, out in zip(input.shape[2:], size, strict=True))
    if even and input.shape[1]:
        return avg_pool2d(input, (input.shape[2] // size[0], input.shape[3] // size[1]))
    rows, columns = (even_band(n, out) for n, out in zip(input.shape[2:], size, strict=True))
    return band_product(band_product(input, band=rows, dim=2), band=columns, dim=3)


def _host(values: np.ndarray[Any, Any], like: Any) -> Any:
    """A table worked out here, where the input is and of its dtype."""
    return wrap(array_module(like.array).asarray(values, like.dtype))


@function(
    sample((2, 3, 6, 6), 1), sample((2, 3, 6, 4), [3, 2]),
    sample((2, 3, 7, 5), (3, None)), sample((1, 2, 7, 5), [3, 2], True),
    sample((2, 5, 4), 3, True),
)  # fmt: skip
@or_one(4)
def adaptive_max_pool2d(input: Any, output_size: Any, return_indices: bool = False) -> Any:
    """Maxima over windows that tile the image into ``output_size`` (None: keep that size)."""
    size = _target("adaptive_max_pool2d", input, output_size)
    _check_filled("adaptive_max_pool2d", input)
    n, c, height, width = input.shape
    xp = array_module(input.array)
    rows, columns = (_padded_windows(m, out) for m, out in zip((height, width), size, strict=True))
    places = rows[:, None, :, None] * width + columns[None, :, None, :]  # OH, OW, rows, columns
    places = xp.asarray(places.reshape(*size, -1))
    found = _last_nan_or_first(input.array.reshape(n, c, height * width)[:, :, places])
    everywhere = xp.broadcast_to(places, (n, c, *places.shape))
    indices = wrap(gather(everywhere, found, dim=-1)[..., 0])
    values = ops.pool_gather(input, indices)
    return (values, indices) if return_indices else values


def _last_nan_or_first(values: Any) -> Any:
    """Where the maximum along the last axis is, as pools count: the first, but of NaN the last."""
    xp = array_module(values)
    found = argmax(values, dim=-1, keepdim=True)
    missing = values != values
    if not (backend_of(values).waits or missing.any()):
        return found
    last = values.shape[-1] - 1 - argmax(missing[..., ::-1], dim=-1, keepdim=True)
    return xp.where(missing.any(-1, keepdims=True), last, found)


def _padded_windows(n: int, out: int) -> np.ndarray[Any, Any]:
    """(out, longest): the rows of each window; a shorter one repeats its last row."""
    windows = _windows(n, out)
    longest = max(end - start for start, end in windows)
    return np.array([[min(start + i, end - 1) for i in range(longest)] for start, end in windows])
