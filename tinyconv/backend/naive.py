"""A minimal Conv2d: the definition, one multiply-add at a time.

A convolution is trilinear. It is a list of index triples (i, j, k), and <g, conv2d(x, w)> is the
sum of g[i] * x[j] * w[k] over that list. Leave one factor out and what remains is a kernel:
without g the forward pass, without x the gradient of the input, without w that of the weight.

Axes: N batch, C channels, H W image, O output channels, OH OW output image, KH KW kernel.
Arguments are those of the kernels in `tinyconv.backend.reference`.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinyconv.backend.array import Array, array_module

Index = tuple[int, ...]


def multiply_adds(
    y_shape: Index,
    x_size: Index,
    w_shape: Index,
    *,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Iterator[tuple[Index, Index, Index]]:
    """Every multiply-add once: its index into y (N,O,OH,OW), x (N,C,H,W), w (O,C/groups,KH,KW)."""
    O, CG = w_shape[:2]
    for n, o, oh, ow, c, kh, kw in np.ndindex(*y_shape, *w_shape[1:]):
        h = oh * stride[0] + kh * dilation[0] - padding[0][0]
        w = ow * stride[1] + kw * dilation[1] - padding[1][0]
        if 0 <= h < x_size[0] and 0 <= w < x_size[1]:  # outside lies the padding: zeros
            yield (n, o, oh, ow), (n, o // (O // groups) * CG + c, h, w), (o, c, kh, kw)


def conv2d(x: Array, w: Array, **geometry: Any) -> Array:
    """The convolution, y (N,O,OH,OW)."""
    y = array_module(x).zeros((len(x), len(w), *_output_size(x, w, **geometry)), x.dtype)
    for i, j, k in multiply_adds(y.shape, x.shape[2:], w.shape, **geometry):
        y[i] += x[j] * w[k]
    return y


def conv2d_input(g: Array, w: Array, *, input_size: Index, **geometry: Any) -> Array:
    """The gradient of x (N,C,H,W), given that of y."""
    channels = w.shape[1] * geometry["groups"]
    dx = array_module(g).zeros((len(g), channels, *input_size), g.dtype)
    for i, j, k in multiply_adds(g.shape, input_size, w.shape, **geometry):
        dx[j] += g[i] * w[k]
    return dx


def conv2d_weight(x: Array, g: Array, *, kernel_size: Index, **geometry: Any) -> Array:
    """The gradient of w (O,C/groups,KH,KW), given that of y."""
    channels = x.shape[1] // geometry["groups"]
    dw = array_module(x).zeros((g.shape[1], channels, *kernel_size), x.dtype)
    for i, j, k in multiply_adds(g.shape, x.shape[2:], dw.shape, **geometry):
        dw[k] += x[j] * g[i]
    return dw


def _output_size(
    x: Array, w: Array, *, stride: Any, padding: Any, dilation: Any, groups: int
) -> Index:
    return tuple(
        (n + sum(p) - d * (k - 1) - 1) // s + 1
        for n, p, k, s, d in zip(x.shape[2:], padding, w.shape[2:], stride, dilation, strict=True)
    )
