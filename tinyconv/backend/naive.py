"""A minimal Conv2d: the definition, one multiply-add at a time.

A convolution is trilinear. It is a list of index triples (i, j, k), and <g, conv2d(x, w)> is the
sum of g[i] * x[j] * w[k] over that list. Leave one factor out and what remains is a kernel:
without g the forward pass, without x the gradient of the input, without w that of the weight.

Axes: N batch, C channels, H W image, O output channels, OH OW output image, KH KW kernel.
The geometry is that of `tinyconv.backend.reference`: stride, padding, dilation, groups.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinyconv.backend.array import Array, array_module
from tinyconv.backend.reference import output_size
from tinyconv.backend.sums import cast, wide_dtype

Index = tuple[int, ...]
Triples = Iterator[tuple[Index, Index, Index]]


def multiply_adds(y_shape: Index, x_size: Index, w_shape: Index, **geometry: Any) -> Triples:
    """Every multiply-add once: its index into y (N,O,OH,OW), x (N,C,H,W), w (O,C/groups,KH,KW)."""
    (sh, sw), (dh, dw) = geometry["stride"], geometry["dilation"]
    (top, _), (left, _) = geometry["padding"]
    O, CG = w_shape[:2]
    for n, o, oh, ow, c, kh, kw in np.ndindex(*y_shape, *w_shape[1:]):
        group = o // (O // geometry["groups"])
        h, w = oh * sh + kh * dh - top, ow * sw + kw * dw - left
        if 0 <= h < x_size[0] and 0 <= w < x_size[1]:  # outside lies the padding: zeros
            yield (n, o, oh, ow), (n, group * CG + c, h, w), (o, c, kh, kw)


def conv2d(x: Array, w: Array, **geometry: Any) -> Array:
    """The convolution, y (N,O,OH,OW)."""
    how = (geometry[name] for name in ("stride", "dilation", "padding"))
    size = output_size(x.shape[2:], w.shape[2:], *how)
    y = array_module(x).zeros((len(x), len(w), *size), wide_dtype(x.dtype))
    for i, j, k in multiply_adds(y.shape, x.shape[2:], w.shape, **geometry):
        y[i] += x[j] * w[k]
    return cast(y, x.dtype)


def conv2d_input(g: Array, w: Array, *, input_size: Index, **geometry: Any) -> Array:
    """The gradient of x (N,C,H,W), given that of y."""
    channels = w.shape[1] * geometry["groups"]
    dx = array_module(g).zeros((len(g), channels, *input_size), wide_dtype(g.dtype))
    for i, j, k in multiply_adds(g.shape, input_size, w.shape, **geometry):
        dx[j] += g[i] * w[k]
    return cast(dx, g.dtype)


def conv2d_weight(x: Array, g: Array, *, kernel_size: Index, **geometry: Any) -> Array:
    """The gradient of w (O,C/groups,KH,KW), given that of y."""
    channels = x.shape[1] // geometry["groups"]
    dw = array_module(x).zeros((g.shape[1], channels, *kernel_size), wide_dtype(x.dtype))
    for i, j, k in multiply_adds(g.shape, x.shape[2:], dw.shape, **geometry):
        dw[k] += x[j] * g[i]
    return cast(dw, x.dtype)
