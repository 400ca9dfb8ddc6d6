"""The heavy kernels once each, in plain array code that runs unchanged on NumPy and CuPy.

A convolution is a view of all windows and one matrix product; `fold` is the adjoint of the view.

Axes: N batch, C channels, H W image, O output channels, OH OW output image, KH KW kernel,
G groups. Sizes are pairs (height, width); padding is ((top, bottom), (left, right)).
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from tinyconv.backend import sums
from tinyconv.backend.array import Array, array_module
from tinyconv.random import generator

Pair: TypeAlias = tuple[int, int]
Padding: TypeAlias = tuple[Pair, Pair]


# ------------------------------------------------------------------------------- windows


NO_PADDING: Padding = ((0, 0), (0, 0))


def output_size(
    size: Pair, kernel_size: Pair, stride: Pair, dilation: Pair, padding: Padding = NO_PADDING
) -> Pair:
    """How many windows fit into an image of `size` with that border, down and across."""
    H, W = (n + before + after for n, (before, after) in zip(size, padding, strict=True))
    (KH, KW), (sh, sw), (dh, dw) = kernel_size, stride, dilation
    return (H - dh * (KH - 1) - 1) // sh + 1, (W - dw * (KW - 1) - 1) // sw + 1


def pad(x: Array, padding: Padding, value: float = 0) -> Array:
    """`x` (N,C,H,W) with a border of `value`; `x` itself where there is no border."""
    if not any(map(any, padding)):
        return x
    return array_module(x).pad(x, ((0, 0), (0, 0), *padding), constant_values=value)


def windows(x: Array, kernel_size: Pair, stride: Pair, dilation: Pair) -> Array:
    """View of a padded `x`: [n,c,oh,ow,kh,kw] is x[n, c, oh*sh + kh*dh, ow*sw + kw*dw]."""
    size = output_size(x.shape[2:], kernel_size, stride, dilation)
    n, c, h, w = x.strides
    return array_module(x).lib.stride_tricks.as_strided(
        x,
        (*x.shape[:2], *size, *kernel_size),
        (n, c, h * stride[0], w * stride[1], h * dilation[0], w * dilation[1]),
    )


def taps(
    out_size: Pair, kernel_size: Pair, stride: Pair, dilation: Pair
) -> Iterator[tuple[Pair, tuple[slice, slice]]]:
    """Each kernel element (kh, kw) with the rows and columns of the padded image it meets."""
    for tap in ((kh, kw) for kh in range(kernel_size[0]) for kw in range(kernel_size[1])):
        first = [k * d for k, d in zip(tap, dilation, strict=True)]
        rows, cols = (
            slice(f, f + (n - 1) * s + 1, s)
            for f, n, s in zip(first, out_size, stride, strict=True)
        )
        yield tap, (rows, cols)


def fold(
    patches: Array, *, input_size: Pair, stride: Pair, padding: Padding, dilation: Pair
) -> Array:
    """Adjoint of `pad` and `windows`: (N,C,OH,OW,KH,KW) summed back into (N,C,H,W)."""
    N, C, OH, OW, *kernel_size = patches.shape
    (top, bottom), (left, right) = padding
    H, W = input_size
    wide = sums.widest_dtype(patches, terms_of(kernel_size, stride))
    x = array_module(patches).zeros((N, C, top + H + bottom, left + W + right), wide)
    for (kh, kw), (rows, cols) in taps((OH, OW), tuple(kernel_size), stride, dilation):
        x[:, :, rows, cols] += patches[..., kh, kw]
    return sums.cast(x[:, :, top : top + H, left : left + W], patches.dtype)


def terms_of(kernel_size: Sequence[int], stride: Sequence[int]) -> int:
    """How many windows a pixel is in, at most."""
    return math.prod(-(-k // s) for k, s in zip(kernel_size, stride, strict=True))


# --------------------------------------------------------------------------- convolution


def conv2d(
    x: Array, w: Array, *, stride: Pair, padding: Padding, dilation: Pair, groups: int
) -> Array:
    """Convolve x (N,C,H,W) with w (O,C/G,KH,KW): y (N,O,OH,OW).

    y[n,o,oh,ow] = sum over c, kh, kw of w[o,c,kh,kw] * padded[n, c, oh*sh + kh*dh, ow*sw + kw*dw]
    """
    patches = windows(pad(x, padding), w.shape[2:], stride, dilation)
    N, _, OH, OW = patches.shape[:4]
    y = _matmul(_weight_rows(w, groups), _columns(patches, groups))
    return _images(y, (len(w), N, OH, OW))


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
    """The adjoint of conv2d in x: g (N,O,OH,OW) to (N,C,H,W). It is also ConvTranspose2d."""
    N, _, OH, OW = g.shape
    _, CG, KH, KW = w.shape
    columns = _matmul(_weight_rows(w, groups).swapaxes(1, 2), _pixel_rows(g, groups))
    patches = columns.reshape(groups * CG, KH, KW, N, OH, OW).transpose(3, 0, 4, 5, 1, 2)
    return fold(patches, input_size=input_size, stride=stride, padding=padding, dilation=dilation)


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
    """The adjoint of conv2d in w: x (N,C,H,W), g (N,O,OH,OW) to (O,C/G,KH,KW)."""
    OH, OW = g.shape[2:]
    # Rows and columns of x that no window reads may make room for one window more than g has.
    patches = windows(pad(x, padding), kernel_size, stride, dilation)[:, :, :OH, :OW]
    dw = _matmul(_pixel_rows(g, groups), _columns(patches, groups).swapaxes(1, 2))
    return dw.reshape(g.shape[1], x.shape[1] // groups, *kernel_size)


def matmul(a: Array, b: Array) -> Array:
    """a (...,M,K) @ b (...,K,N); the leading axes broadcast."""
    return sums.product(a, b)


# Matrices of a convolution, one per group, with all pixels of the batch as columns: on a GPU the
# three products are then one plain 2-D GEMM each.


def _columns(patches: Array, groups: int) -> Array:
    """(N,C,OH,OW,KH,KW) to (G, C/G*KH*KW, N*OH*OW)."""
    N, C, OH, OW, KH, KW = patches.shape
    return patches.transpose(1, 4, 5, 0, 2, 3).reshape(groups, C // groups * KH * KW, N * OH * OW)


def _pixel_rows(g: Array, groups: int) -> Array:
    """(N,O,OH,OW) to (G, O/G, N*OH*OW)."""
    N, O, OH, OW = g.shape
    return g.transpose(1, 0, 2, 3).reshape(groups, O // groups, N * OH * OW)


def _weight_rows(w: Array, groups: int) -> Array:
    """(O,C/G,KH,KW) to (G, O/G, C/G*KH*KW)."""
    return w.reshape(groups, len(w) // groups, math.prod(w.shape[1:]))


def _images(rows: Array, shape: tuple[int, int, int, int]) -> Array:
    """(G, O/G, N*OH*OW) to (N,O,OH,OW), contiguous; `shape` is (O,N,OH,OW)."""
    images = rows.reshape(shape).transpose(1, 0, 2, 3)
    return array_module(rows).ascontiguousarray(images)


def _matmul(a: Array, b: Array) -> Array:
    # CuPy sends 2-D products to cuBLAS without copies, 3-D ones with.
    return sums.product(a[0], b[0])[None] if len(a) == 1 else sums.product(a, b)


# ------------------------------------------------------------------------------- pooling


def max_pool2d(
    x: Array, *, kernel_size: Pair, stride: Pair, padding: Padding, dilation: Pair
) -> tuple[Array, Array]:
    """The maximum of every window (N,C,OH,OW), and its place h*W + w in x as int64.

    The first of equal values wins and NaN beats everything, as in PyTorch.
    """
    xp = array_module(x)
    H, W = x.shape[2:]
    lowest = -math.inf if x.dtype.kind == "f" else xp.iinfo(x.dtype).min
    values = windows(pad(x, padding, lowest), kernel_size, stride, dilation)
    places = xp.arange(H * W, dtype=xp.int64).reshape(1, 1, H, W)
    places = windows(pad(places, padding, H * W), kernel_size, stride, dilation)
    y = xp.full(values.shape[:4], lowest, x.dtype)
    # A window of -inf alone still points into the image: at its first element.
    indices = xp.broadcast_to(places.min((4, 5)), y.shape)
    for kh, kw in ((kh, kw) for kh in range(kernel_size[0]) for kw in range(kernel_size[1])):
        value = values[..., kh, kw]
        better = (value > y) | (value != value)
        y = xp.where(better, value, y)
        indices = xp.where(better, places[..., kh, kw], indices)
    return y, indices


def pool_gather(x: Array, indices: Array) -> Array:
    """The values of x (N,C,H,W) at `indices` (N,C,OH,OW) into its flattened images."""
    N, C, H, W = x.shape
    flat = indices.reshape(N, C, math.prod(indices.shape[2:]))
    return array_module(x).take_along_axis(x.reshape(N, C, H * W), flat, 2).reshape(indices.shape)


def pool_scatter(
    g: Array, indices: Array, *, input_size: Pair, window: dict[str, Any] | None = None
) -> Array:
    """The adjoint of `pool_gather`: g (N,C,OH,OW) added up at `indices` in (N,C,H,W).

    window: the geometry of the max-pool that picked the indices, where one did.
    """
    xp = array_module(g)
    (N, C), (H, W) = g.shape[:2], input_size
    x = xp.zeros(N * C * H * W, g.dtype)
    images = xp.arange(N * C, dtype=xp.int64).reshape(N, C, 1, 1) * (H * W)
    add_at(x, (images + indices).ravel(), g.ravel())
    return x.reshape(N, C, H, W)


def add_at(out: Array, index: Any, values: Array) -> None:
    """out[index] += values, where a place that the index names twice gets both."""
    dtype = sums.widest_dtype(out, values.size)
    total = sums.cast(out, dtype)
    array_module(out).add.at(total, index, sums.cast(values, dtype))
    if total is not out:
        out[...] = total


def window_sum(x: Array, *, kernel_size: Pair, stride: Pair, padding: Padding) -> Array:
    """The sum of every window (N,C,OH,OW)."""
    return sums.sum(windows(pad(x, padding), kernel_size, stride, (1, 1)), (4, 5), False, x.dtype)


def window_sum_input(
    g: Array, *, input_size: Pair, kernel_size: Pair, stride: Pair, padding: Padding
) -> Array:
    """The adjoint of `window_sum`: every g (N,C,OH,OW) added to its whole window in (N,C,H,W)."""
    patches = array_module(g).broadcast_to(g[..., None, None], (*g.shape, *kernel_size))
    return fold(patches, input_size=input_size, stride=stride, padding=padding, dilation=(1, 1))


# ------------------------------------------------------------------- batch norm and ReLU


def batch_norm(
    x: Array, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    """Normalise each channel of x (N,C,...) over all other axes: y, mean (C,), variance (C,).

    The variance is the biased one, from the deviations (two passes): E[x^2] - E[x]^2 loses every
    digit where the mean is large.  Of float16 the statistics are float32: a variance overflows.
    """
    axes, channel = _channel_axes(x)
    mean, d = sums.deviations(x, axes)
    var = sums.mean(d * d, axes, True, None)
    scale = _reciprocal_std(var, eps)
    if weight is not None:
        scale = scale * channel(weight)
    y = d * scale
    if bias is not None:
        y = y + channel(bias)
    return sums.cast(y, x.dtype), mean.reshape(-1), var.reshape(-1)


def batch_norm_backward(
    g: Array, x: Array, weight: Array | None, mean: Array, var: Array, eps: float
) -> tuple[Array, Array, Array]:
    """Gradients of x, weight and bias, given that of y (Ioffe and Szegedy 2015, section 3).

    With n = (x - mean) / sqrt(var + eps):
    dbias = sum g;  dweight = sum g n;  dx = weight / sqrt(var + eps) * (g - <g> - n <g n>)
    """
    axes, channel = _channel_axes(x)
    dtype, wide = x.dtype, sums.wide_dtype(x.dtype)
    scale = _reciprocal_std(sums.cast(var, wide), eps)
    normal = (x - channel(sums.cast(mean, wide))) * channel(scale)
    if weight is not None:
        scale = scale * weight
    g = sums.cast(g, wide)
    gn, n = g * normal, sums.count(x.shape, axes)
    sum_g, sum_gn = sums.sum(g, axes, False, wide), sums.sum(gn, axes, False, wide)
    dx = (g - channel(sum_g / n) - normal * channel(sum_gn / n)) * channel(scale)
    return sums.cast(dx, dtype), sums.cast(sum_gn, dtype), sums.cast(sum_g, dtype)


def batch_norm_relu(
    x: Array, weight: Array | None, bias: Array | None, residual: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    """relu(batch norm of x + residual), and the batch's mean and variance."""
    y, mean, var = batch_norm(x, weight, bias, eps)
    return relu(y if residual is None else y + residual), mean, var


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
    """Gradients of x, weight, bias and, if there was one, of the residual; y is the output.

    A layer's forward may return more than y, mean and var: it comes last, for the same layer.
    """
    g = relu_backward(g, y)
    return *batch_norm_backward(g, x, weight, mean, var, eps), g if residual else None


def affine(x: Array, scale: Array, shift: Array) -> Array:
    """x (N,C,...) * scale (C,) + shift (C,)."""
    _, channel = _channel_axes(x)
    return sums.cast(x * channel(scale) + channel(shift), x.dtype)


def affine_relu(x: Array, scale: Array, shift: Array, residual: Array | None) -> Array:
    """relu(affine of x + residual)."""
    y = affine(x, scale, shift)
    return relu(y if residual is None else y + residual)


def scale_and_shift(
    mean: Array, var: Array, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array]:
    """Batch norm with fixed statistics is x * scale + shift: both (C,), as all the operands."""
    scale = (1.0 if weight is None else weight) / array_module(var).sqrt(var + eps)
    return scale, -mean * scale if bias is None else bias - mean * scale


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
    """Batch norm of x (N,C,...) with fixed statistics (C,), or relu(batch norm + residual)."""
    fixed = scale_and_shift(mean, var, weight, bias, eps)
    return affine_relu(x, *fixed, residual) if relu else affine(x, *fixed)


def _channel_axes(x: Array) -> tuple[tuple[int, ...], Any]:
    """All axes but 1, and what turns a vector (C,) into something to broadcast against x."""
    return (0, *range(2, x.ndim)), lambda v: v.reshape(1, -1, *(1,) * (x.ndim - 2))


def _reciprocal_std(var: Array, eps: float) -> Array:
    return (var + eps) ** -0.5


def kept(x: Array, shape: tuple[int, ...], p: float) -> Array:
    """Booleans of `shape`, each False with probability p: what dropout keeps."""
    return array_module(x).asarray(generator().random(shape, "float32") >= p)


def copy(x: Array) -> Array:
    """x again, in its own memory and the same layout."""
    return x.copy("K")


def add(x: Array, y: Array) -> Array:
    """x + y, of one shape."""
    return x + y


def add_to(x: Array, y: Array) -> Array:
    """x with y of the same shape added in place."""
    x += y
    return x


def relu(x: Array) -> Array:
    """max(x, 0); NaN stays NaN."""
    return array_module(x).maximum(x, 0)


def relu_backward(g: Array, y: Array) -> Array:
    """g, but 0 where the output y of `relu` is 0."""
    return array_module(g).where(y <= 0, 0, g)


# ---------------------------------------------------------------------------- optimizers


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
    """Change parameters, and their velocities (None without momentum), in place; see `optim.SGD`.

    shares: what each velocity takes of the gradient, 1 - dampening.
    """
    for i, (p, g, share) in enumerate(zip(ps, gs, shares, strict=True)):
        if weight_decay:
            g = g + weight_decay * p
        if buffers is not None:
            velocity = buffers[i]
            velocity *= momentum
            velocity += share * g if share != 1 else g
            g = g + momentum * velocity if nesterov else velocity
        p -= lr * g


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
    """Change parameters and the running means of g and g^2 in place; see `optim.Adam`.

    step_sizes: lr / (1 - beta1^t); roots: sqrt(1 - beta2^t); shrink: what AdamW multiplies p by;
    largest: the largest means of g^2 so far, where amsgrad wants them.
    """
    xp = array_module(ps[0])
    rows = zip(ps, gs, ms, vs, step_sizes, roots, strict=True)
    for i, (p, g, m, v, step_size, root) in enumerate(rows):
        if shrink != 1:
            p *= shrink
        if weight_decay:
            g = g + weight_decay * p
        m *= beta1
        m += (1 - beta1) * g
        v *= beta2
        v += (1 - beta2) * (g * g)
        if largest is not None:
            xp.maximum(largest[i], v, out=largest[i])
            v = largest[i]
        p -= step_size * m / (xp.sqrt(v) / root + eps)
