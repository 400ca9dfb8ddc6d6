"""What a pixel of the output is computed from: the receptive field, read off the recorded graph.

The walk goes from one output pixel back to the input, as a gradient does, with sets of positions
in the place of numbers; so it is exact for residual sums, branches and transposed convolutions.
Layers that mix all pixels (linear, global pooling) read everything, and so do operations that this
file does not know.

Reference: Araujo, Norris and Sim, Computing receptive fields of convolutional neural networks,
Distill 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from tinyconv import nn
from tinyconv.autograd import Edge, Node, newest_first
from tinyconv.backend import backend_of
from tinyconv.creation import eye
from tinyconv.nn.conv import sizes
from tinyconv.nn.functional.conv import same_padding
from tinyconv.nn.functional.shape import interpolate
from tinyconv.see.axes import (
    Adaptive,
    Axis,
    Everything,
    Shift,
    Stamp,
    Table,
    Window,
    union,
)

Axes: TypeAlias = tuple[Axis, Axis]
Jumps: TypeAlias = Mapping[Edge, tuple[Edge, Axes]]  # a layer's output: its input, its geometry

# operations whose output pixel reads the same pixel of each operand
_LOCAL = (
    "abs", "add", "affine", "affine_relu", "clamp", "clone", "cos", "div", "erf", "exp", "expm1",
    "log", "log1p", "maximum", "minimum", "mul", "neg", "pow", "relu", "rsqrt", "sigmoid", "sin",
    "softplus", "sqrt", "sub", "tanh", "to_dtype", "where",
)  # fmt: skip
_ALONG = (
    "softmax", "log_softmax", "sum", "mean", "var", "std", "amax", "amin", "cumsum",
)  # fmt: skip


# --- layers


def layer_axes(layer: nn.Module, shape: tuple[int, ...]) -> tuple[Axis, ...] | None:
    """A layer's geometry for an input (N, C, H, W) or (N, C, L): one Axis each for H and W, or L.

    None where the layer is not made of windows, has a forward of the user's own, or the input has
    no spatial axes.
    """
    spatial = shape[2:]
    if not 1 <= len(spatial) <= 2:
        return None
    for kinds, describe in _LAYERS:
        if type(layer).forward in [kind.forward for kind in kinds]:
            return tuple(describe(layer, i, n) for i, n in enumerate(spatial))
    return None


def _of(layer: Any, name: str, i: int) -> int:
    """The i-th of a layer's ``stride``, say, however it was written."""
    return sizes(getattr(layer, name), 2, type(layer).__name__, name)[i]


def _conv(layer: Any, i: int, n: int) -> Axis:
    k, s, d = layer.kernel_size[i], layer.stride[i], layer.dilation[i]
    if layer.padding == "same":
        before, after = same_padding(k, d)
    else:
        before = after = 0 if layer.padding == "valid" else layer.padding[i]
    return Window(n, k, s, before, after, d, False, layer.padding_mode)


def _transposed(layer: Any, i: int, n: int) -> Axis:
    return Stamp(n, layer.kernel_size[i], layer.stride[i], layer.padding[i],
                 layer.output_padding[i], layer.dilation[i])  # fmt: skip


def _pool(layer: Any, i: int, n: int) -> Axis:
    k = _of(layer, "kernel_size", i)
    s = k if layer.stride is None else _of(layer, "stride", i)
    p = _of(layer, "padding", i) if hasattr(layer, "padding") else 0
    d = _of(layer, "dilation", i) if hasattr(layer, "dilation") else 1
    return Window(n, k, s, p, p, d, ceil=layer.ceil_mode)


def _adaptive(layer: Any, i: int, n: int) -> Axis:
    wanted = layer.output_size
    size = wanted if wanted is None or isinstance(wanted, int) else wanted[i]
    return Adaptive(n, n if size is None else size)


def _pad(layer: Any, i: int, n: int) -> Axis:
    before, after = layer.padding[::-1][2 * i : 2 * i + 2][::-1]  # it lists the last axis first
    if layer.mode == "constant":
        return Shift(n, before, after)
    window = Window(n, 1, 1, before, after, 1, False, layer.mode)
    rows = tuple(tuple(map(int, window.reads(o))) for o in range(window.out))
    return Table(n, rows, f"{n} + {before} + {after}")


def _upsample(layer: Any, i: int, n: int) -> Axis:
    """Which neighbours count is asked of the layer's own arithmetic, on a row of unit vectors."""
    pick = [v[i] if isinstance(v, (tuple, list)) else v for v in (layer.size, layer.scale_factor)]
    mode = layer.mode.removeprefix("bi")
    weights = interpolate(eye(n)[None], pick[0], pick[1], mode, layer.align_corners).array[0]
    rows = tuple(tuple(map(int, np.flatnonzero(column))) for column in weights.T)
    return Table(n, rows, f"floor({n}*{pick[1]:g})" if pick[0] is None else "as asked")


def _shuffle(layer: Any, i: int, n: int) -> Axis:
    r = layer.upscale_factor
    return Table(n, tuple((o // r,) for o in range(n * r)), f"{n}*{r}")


_LAYERS: list[tuple[tuple[type[nn.Module], ...], Callable[[Any, int, int], Axis]]] = [
    ((nn.Conv1d, nn.Conv2d), _conv),
    ((nn.ConvTranspose1d, nn.ConvTranspose2d), _transposed),
    ((nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d), _pool),
    ((nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d), _adaptive),
    ((nn.ConstantPad1d, nn.ZeroPad1d, nn.ReflectionPad1d, nn.ReplicationPad1d, nn.CircularPad1d),
     _pad),
    ((nn.Upsample,), _upsample),
    ((nn.PixelShuffle,), _shuffle),
]  # fmt: skip


def two_axes(axes: tuple[Axis, ...]) -> Axes:
    """Signals (N, C, L) are images one pixel high."""
    return (Axis(1), axes[0]) if len(axes) == 1 else (axes[0], axes[1])


# --- operations


def _view(shape: tuple[int, ...]) -> tuple[int, int]:
    """The pixels of a tensor: (H, W), (1, L), or (1, 1) for features without a place."""
    return (shape[2], shape[3]) if len(shape) == 4 else (1, shape[2]) if len(shape) == 3 else (1, 1)


def _op_axes(node: Node, i: int) -> Axes:
    """How the pixels of an operation's output read those of its input i."""
    edge = node.inputs[i]
    assert edge is not None
    rule = _RULES.get(node.op.name)
    found = rule(node, edge.shape, i) if rule is not None else None
    if found is not None:
        return found
    rows, columns = (
        Everything(n, out) for n, out in zip(_view(edge.shape), _view(node.shape), strict=True)
    )
    return rows, columns


def _conv2d(node: Node, shape: tuple[int, ...], i: int) -> Axes | None:
    kernel = node.params.get("kernel_size")
    if kernel is None:
        assert node.values is not None
        kernel = node.values[1].shape[2:]
    dilation = node.params.get("dilation", (1, 1))
    rows, columns = (
        Window(n, k, s, p[0], p[1], d)
        for n, k, s, p, d in zip(
            shape[2:], kernel, node.params["stride"], node.params["padding"], dilation, strict=True
        )
    )
    return (rows, columns) if i == 0 else None


def _conv2d_input(node: Node, shape: tuple[int, ...], i: int) -> Axes | None:
    assert node.values is not None
    geometry = node.params
    made = []
    for axis, (n, k) in enumerate(zip(shape[2:], node.values[1].shape[2:], strict=True)):
        plain = Stamp(n, k, geometry["stride"][axis], geometry["padding"][axis][0], 0,
                      geometry["dilation"][axis])  # fmt: skip
        extra = geometry["input_size"][axis] - plain.out
        made.append(Stamp(n, k, plain.s, plain.p, extra, plain.d))
    return (made[0], made[1]) if i == 0 else None


def _pool_gather(node: Node, shape: tuple[int, ...], i: int) -> Axes | None:
    if node.params.get("window") is not None:
        stride, padding, dilation, kernel = (
            node.params["window"][name] for name in ("stride", "padding", "dilation", "kernel_size")
        )
        rows, columns = (
            Window(n, k, s, p[0], p[1], d)
            for n, k, s, p, d in zip(shape[2:], kernel, stride, padding, dilation, strict=True)
        )
        return rows, columns
    return Adaptive(shape[2], node.shape[2]), Adaptive(shape[3], node.shape[3])


def _local(node: Node, shape: tuple[int, ...], i: int) -> Axes | None:
    """The same pixel, or the only one where it was broadcast."""
    rows, columns = (
        Axis(n) if n == out else Everything(n, out)
        for n, out in zip(_view(shape), _view(node.shape), strict=True)
    )
    return rows, columns


def _along(node: Node, shape: tuple[int, ...], i: int) -> Axes | None:
    """Everything along the axes that are reduced, the same pixel along the others."""
    dim = node.params.get("dim")
    if dim is None or len(node.shape) != len(shape):
        return None
    dims = {d % len(shape) for d in ((dim,) if isinstance(dim, int) else dim)}
    pair = [Axis(n) for n in _view(shape)]
    for d in dims & {2, 3}:
        at = d - 2 if len(shape) == 4 else 1
        pair[at] = Everything(pair[at].n, _view(node.shape)[at])
    return pair[0], pair[1]


def _reshape(node: Node, shape: tuple[int, ...], i: int) -> Axes | None:
    """A pixel stays one where a signal becomes an image one pixel high, or back."""
    same = _view(shape) == _view(node.shape) and shape[:2] == node.shape[:2]
    return _local(node, shape, i) if same and {len(shape), len(node.shape)} <= {3, 4} else None


def _pad_zeros(node: Node, shape: tuple[int, ...], i: int) -> Axes | None:
    around = node.params["padding"]
    if len(shape) not in (3, 4):
        return None
    pair = [(0, 0), *around[2:]][-2:]
    rows, columns = (Shift(n, *p) for n, p in zip(_view(shape), pair, strict=True))
    return rows, columns


def _getitem(node: Node, shape: tuple[int, ...], i: int) -> Axes | None:
    """Slices, and one list of positions on one axis: cropping, reflected padding."""
    index = node.params["index"]
    index = index if isinstance(index, tuple) else (index,)
    lists = [one for one in index if not isinstance(one, slice)]
    if (
        len(shape) not in (3, 4)
        or len(node.shape) != len(shape)
        or len(lists) > 1
        or any(one is None or one is Ellipsis for one in lists)
    ):
        return None
    pair: list[Axis] = [Axis(n) for n in _view(shape)]
    for axis, one in enumerate(index):
        at = axis - (2 if len(shape) == 4 else 1)
        if axis >= 2 and not (isinstance(one, slice) and one == slice(None)):
            picked = np.arange(shape[axis])[np.asarray(one) if not isinstance(one, slice) else one]
            if picked.ndim != 1:
                return None
            pair[at] = Table(shape[axis], tuple((int(p),) for p in picked))
    return pair[0], pair[1]


def _cat(node: Node, shape: tuple[int, ...], i: int) -> Axes | None:
    dim = node.params["dim"] % len(shape)
    if len(shape) not in (3, 4) or dim == 0:
        return None
    pair = [Axis(n) for n in _view(shape)]
    if dim >= 2:
        before = sum(_width(node, j, dim) for j in range(i))
        at = dim - (2 if len(shape) == 4 else 1)
        pair[at] = Shift(shape[dim], before, node.shape[dim] - before - shape[dim])
    return pair[0], pair[1]


def _matmul(node: Node, shape: tuple[int, ...], i: int) -> Axes | None:
    """A product mixes the columns of its left operand, the rows of its right one.

    With a constant table it mixes those of its non-zeros.
    """
    if len(shape) != len(node.shape) or len(shape) not in (3, 4):
        return None
    pair: list[Axis] = [Axis(n) for n in _view(shape)]
    if i == 1 and len(shape) == 3:
        return pair[0], pair[1]  # (N, C, L): the channels are mixed
    at, out = 1 - i, node.shape[-1 - i]
    assert node.values is not None
    other = node.values[1 - i]
    if node.inputs[1 - i] is None and getattr(other, "ndim", 0) == 2:
        table = backend_of(other).to_numpy(other)
        weights = table.T if i == 0 else table
        pair[at] = Table(shape[-1 - i], tuple(tuple(map(int, np.flatnonzero(w))) for w in weights))
    else:
        pair[at] = Everything(shape[-1 - i], out)
    return pair[0], pair[1]


def _band_product(node: Node, shape: tuple[int, ...], i: int) -> Axes | None:
    """Resizing and adaptive means: what is in a row's run and weighs something."""
    band, dim = node.params["band"], node.params["dim"] % len(shape)
    if len(shape) not in (3, 4) or dim < 2:
        return None
    pair: list[Axis] = [Axis(n) for n in _view(shape)]
    rows = tuple(
        tuple(int(start + k) for k in np.flatnonzero(weights[:count]))
        for start, count, weights in zip(band.starts, band.counts, band.weights, strict=True)
    )
    pair[dim - (2 if len(shape) == 4 else 1)] = Table(shape[dim], rows)
    return pair[0], pair[1]


def _width(node: Node, j: int, dim: int) -> int:
    edge = node.inputs[j]
    assert node.values is not None
    return int((edge if edge is not None else node.values[j]).shape[dim])


_RULES: dict[str, Callable[[Node, tuple[int, ...], int], Axes | None]] = {
    "conv2d": _conv2d,
    "window_sum": _conv2d,
    "conv2d_input": _conv2d_input,
    "pool_gather": _pool_gather,
    "reshape": _reshape,
    "pad_zeros": _pad_zeros,
    "getitem": _getitem,
    "cat": _cat,
    "matmul": _matmul,
    "band_product": _band_product,
    **dict.fromkeys(_LOCAL, _local),
    **dict.fromkeys(_ALONG, _along),
}


# --- the walk


def _sources(node: Edge, jumps: Jumps) -> list[tuple[Edge, Axes]]:
    if node in jumps:
        return [jumps[node]]
    if not isinstance(node, Node):
        return []
    return [(edge, _op_axes(node, i)) for i, edge in enumerate(node.inputs) if edge is not None]


def _walk_back(root: Edge, leaf: Edge, start: Any, jumps: Jumps, pull: Any, join: Any) -> Any:
    """What ``start``, a part of the root's pixels, becomes on the leaf; None if unreached."""
    pending = {root: start}
    for node in newest_first([root]):
        part = pending.get(node) if node is leaf else pending.pop(node, None)
        if part is None or node is leaf:
            continue
        for edge, axes in _sources(node, jumps):
            share = pull(part, axes)
            pending[edge] = join(pending[edge], share) if edge in pending else share
    return pending.get(leaf)


def read_mask(
    root: Edge, leaf: Edge, jumps: Jumps, at: tuple[int, int] | None = None
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(H, W) of the leaf: which pixels the root's pixel ``at`` reads (None: any pixel of it)."""
    start = np.ones(_view(root.shape), bool)
    if at is not None:
        start[:] = False
        start[at] = True
    found = _walk_back(root, leaf, start, jumps, _pull_mask, np.logical_or)
    return np.zeros(_view(leaf.shape), bool) if found is None else found


def _pull_mask(mask: Any, axes: Axes) -> Any:
    rows, columns = (axis.matrix.astype(np.float32) for axis in axes)
    return rows.T @ mask.astype(np.float32) @ columns > 0


def _pull_spans(part: Any, axes: Axes) -> Any:
    rows, columns = (
        axis.reads(0) if isinstance(axis, Everything) else
        at if type(axis) is Axis else union(map(axis.reads, at))
        for at, axis in zip(part[:2], axes, strict=True)
    )  # fmt: skip
    mixed = any(isinstance(axis, Everything) and axis.n > 1 for axis in axes)
    return rows, columns, part[2] or mixed


def _join_spans(a: Any, b: Any) -> Any:
    return np.union1d(a[0], b[0]), np.union1d(a[1], b[1]), a[2] or b[2]


@dataclass(frozen=True)
class ReceptiveField:
    """What one output pixel reads of an input of ``size`` (H, W).

    at:       the output pixel, (row, column)
    rows:     first and last row of the hull, as if no layer's image had an end: where padding is
              read they may lie outside of the image
    columns:  the same
    everything: a layer on the way (linear, global pooling) reads all pixels
    signal:   the input is (N, C, L), an image of one row
    """

    at: tuple[int, int]
    size: tuple[int, int]
    rows: tuple[int, int]
    columns: tuple[int, int]
    everything: bool
    signal: bool  # (N, C, L): the only row means nothing
    _walk: Callable[[], np.ndarray[Any, np.dtype[np.bool_]]]

    @property
    def height(self) -> int:
        """Rows of the hull."""
        return self.rows[1] - self.rows[0] + 1

    @property
    def width(self) -> int:
        """Columns of the hull."""
        return self.columns[1] - self.columns[0] + 1

    @cached_property
    def mask(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """(H, W) of bool: the pixels that are read."""
        return self._walk()

    @property
    def box(self) -> tuple[slice, slice]:
        """Rows and columns of the smallest box around the pixels that are read."""
        rows, columns = (np.flatnonzero(self.mask.any(axis)) for axis in (1, 0))
        if not len(rows):
            return slice(0, 0), slice(0, 0)
        return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)

    @property
    def holes(self) -> int:
        """How many pixels inside that box are not read."""
        return int((~self.mask[self.box]).sum())

    def picture(self) -> str:
        """The box as text: # is read, a dot is a hole."""
        return "\n".join(
            " ".join("#" if hit else "." for hit in row) for row in self.mask[self.box]
        )

    def __str__(self) -> str:
        (top, bottom), (left, right) = self.rows, self.columns
        (height, width), at = self.size, self.at[1] if self.signal else self.at
        image = f"{width}" if self.signal else f"{height}x{width}"
        if self.everything:
            seen = "all" if self.mask.all() else "all that the layers before it read"
            return f"output pixel {at} reads {seen} of the {image} input"
        text = (
            f"{self.width} positions: {left}..{right}"
            if self.signal
            else (
                f"{self.height}x{self.width} pixels: rows {top}..{bottom}, columns {left}..{right}"
            )
        )
        if self.mask.all():
            text += f", which covers the whole {image} input"
        elif top < 0 or left < 0 or bottom >= height or right >= width:
            text += f" (the input is {image}, the rest is padding)"
        inside = self.mask[self.box].size
        holes = f"{self.holes} of the {inside} inside are holes" if self.holes else "no holes"
        return f"output pixel {at} reads {text}; {holes}"


def receptive_field(
    root: Edge, leaf: Edge, jumps: Jumps, at: tuple[int, int] | None = None
) -> ReceptiveField | None:
    """The receptive field of the root's pixel ``at`` (default: the middle); None if unreached."""
    height, width = _view(root.shape)
    where = (height // 2, width // 2) if at is None else at
    start = (np.array([where[0]]), np.array([where[1]]), False)
    found = _walk_back(root, leaf, start, jumps, _pull_spans, _join_spans)
    if found is None or not len(found[0]) or not len(found[1]):
        return None
    rows, columns, everything = found
    return ReceptiveField(
        where,
        _view(leaf.shape),
        (int(rows[0]), int(rows[-1])),
        (int(columns[0]), int(columns[-1])),
        everything,
        len(leaf.shape) == 3,
        lambda: read_mask(root, leaf, jumps, where),
    )
