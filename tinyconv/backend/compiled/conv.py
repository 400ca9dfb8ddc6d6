"""Convolutions: which algorithm for which case.

winograd    3x3 of stride 1, channels that fill whole vectors
direct      everything else
"""

from __future__ import annotations

import numpy as np

from tinyconv.backend.array import Array
from tinyconv.backend.compiled import direct, winograd
from tinyconv.backend.reference import Padding, Pair, output_size


def _covers(*arrays: Array) -> bool:
    kind = arrays[0].dtype
    return kind in (np.float32, np.float64) and all(a.dtype == kind and a.size for a in arrays)


def conv2d(
    x: Array, w: Array, *, stride: Pair, padding: Padding, dilation: Pair, groups: int
) -> Array:
    """See `reference.conv2d`."""
    size = output_size(x.shape[2:], w.shape[2:], stride, dilation, padding)
    if not _covers(x, w) or 0 in size:
        return NotImplemented
    if winograd.covers(w.shape, stride, dilation, groups, len(x), size, x.dtype):
        return winograd.correlate(x, w, size, (padding[0][0], padding[1][0]), backward=False)
    return direct.conv2d(
        x, w, size, stride=stride, padding=padding, dilation=dilation, groups=groups
    )


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
    if not _covers(g, w) or 0 in input_size:
        return NotImplemented
    before = padding[0][0], padding[1][0]
    how = (w.shape, stride, dilation, groups, len(g), input_size, g.dtype)
    if max(before) <= 2 and winograd.covers(*how):
        return winograd.correlate(g, w, input_size, (2 - before[0], 2 - before[1]), backward=True)
    return direct.conv2d_input(
        g,
        w,
        input_size=input_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )


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
    shape = (g.shape[1], x.shape[1], *kernel_size)
    if winograd.covers(shape, stride, dilation, groups, len(x), g.shape[2:], x.dtype):
        return winograd.correlate_weight(x, g, (padding[0][0], padding[1][0]))
    return direct.conv2d_weight(
        x,
        g,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )
