"""The steps of a pass as data: which cells meet, the products, and where each product goes.

One step belongs to one driver cell (see `geometry`). The same windows serve every pass; what
changes is which of the three arrays is being written:

    pass      Conv2d                                 ConvTranspose2d
    forward   y[driver]  = sum of its window of x    y[window]  += x[driver] * kernel
    dx        dx[window] += dy[driver] * kernel      dx[driver]  = sum of its window of dy
    dw        dw[kernel] += dy[driver] * window      dw[kernel] += x[driver] * window
    db        db[channel] += dy[driver]              the same
    zeros     -                                      y[driver]   = sum of its window of z

z is x with zeros between its rows and columns: the transposed convolution as a plain one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tinyconv import nn
from tinyconv.errors import ShapeError
from tinyconv.nn.conv import sizes
from tinyconv.see.explain import geometry as geometries
from tinyconv.see.explain.geometry import Axis, Geometry, Index

Array = np.ndarray[Any, Any]
Ranges = tuple[range, ...]

PASSES = ("forward", "zeros", "dx", "dw", "db")
MOST_STEPS = 2_000
MOST_PRODUCTS = 50_000

TITLES = {
    "x": "input", "y": "output", "w": "kernel", "z": "input with zeros between",
    "wf": "flipped kernel", "dx": "input gradient", "dy": "output gradient",
    "dw": "kernel gradient", "db": "bias gradient",
}  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """An array as it is drawn: (N, C, H, W), a kernel (drivers, C/groups, KH, KW), or a row.

    values: what it holds before the first step, padding included; a result starts at zero or
        at its bias.
    origin: the index of the first value, negative where padding is drawn.
    """

    name: str
    values: Array
    origin: Index = (0, 0, 0, 0)
    axes: int = 4  # how many numbers an index has for the reader: db[2]
    size: Index | None = None  # H, W without the padding; None: there is none
    unread: tuple[Sequence[int], Sequence[int]] = ((), ())  # rows, columns that no window has
    inserted: Index = (1, 1)  # z: only every SH-th row and SW-th column is real
    padded: str = "padding"  # what lies outside: "padding", or "cut off" of a result

    @property
    def title(self) -> str:
        return TITLES[self.name]

    def at(self, index: Index) -> Index:
        """Where the cell lies in ``values``."""
        return tuple(i - o for i, o in zip(index, self.origin, strict=True))

    def value(self, index: Index) -> float:
        return float(self.values[self.at(index)])

    def label(self, index: Index) -> str:
        """x[0,0,1,2]"""
        return f"{self.name}[{','.join(map(str, index[4 - self.axes :]))}]"

    def outside(self, index: Index) -> bool:
        """Padding, or what is cut off."""
        return self.size is not None and not all(
            0 <= i < n for i, n in zip(index[2:], self.size, strict=True)
        )

    def is_inserted(self, index: Index) -> bool:
        """A zero between two rows or columns of z."""
        between = any(i % s for i, s in zip(index[2:], self.inserted, strict=True))
        return between and not self.outside(index)

    def is_unread(self, index: Index) -> bool:
        """A cell of the image that no window has."""
        rows, columns = self.unread
        return (index[2] in rows or index[3] in columns) and not self.outside(index)


class Step(NamedTuple):
    """One driver cell and its window; the lists run in parallel."""

    driver: Index
    places: list[Index]  # in the window grid
    taps: list[Index]  # in the kernel grid
    targets: list[Index | None]  # the cell that each term is added to; None: it falls off
    terms: list[float]
    shares: Sequence[float] = ()  # of a pool: what each place counts with


@dataclass(frozen=True)
class Pass:
    """One way through a layer: the three arrays, which one is written, and the steps."""

    name: str
    geometry: Geometry
    drive: Grid
    window: Grid | None
    kernel: Grid | None
    target: str  # "drive", "window" or "kernel"
    steps: list[Step]
    how: str = "product"  # how a pool's window becomes a number: "max", "mean"
    bias: Array | None = field(default=None, repr=False)  # what a result started with

    @property
    def result(self) -> Grid:
        """The array that is written."""
        grid = getattr(self, self.target)
        assert isinstance(grid, Grid)
        return grid

    def running(self) -> Iterator[tuple[Step, Array]]:
        """Each step, and the result as it stands after that step (one array, written on)."""
        result = self.result.values.copy()
        for step in self.steps:
            for target, term in zip(step.targets, step.terms, strict=True):
                if target is not None:
                    result[self.result.at(target)] += term
            yield step, result


# --- which steps


def chosen(region: Any, shape: Index) -> Ranges:
    """A region, as in ``np.s_[0:2, 0:8]`` for the last axes, as one range for each axis."""
    given = () if region is None else region if isinstance(region, tuple) else (region,)
    if len(given) > len(shape):
        raise ShapeError("explain", f"region has {len(given)} axes, the steps have {len(shape)}")
    full = (slice(None),) * (len(shape) - len(given))
    return tuple(_range(part, n, axis) for axis, (part, n)
                 in enumerate(zip((*full, *given), shape, strict=True)))  # fmt: skip


def _range(part: Any, n: int, axis: int) -> range:
    if isinstance(part, int | np.integer):
        part = slice(part, part + 1 or None)
    if not isinstance(part, slice) or part.step not in (None, 1):
        raise ShapeError("explain", f"region: {part!r} is no position and no start:stop; "
                                    "region=np.s_[0:1, 0:8, 0:8] takes channel 0, 8 rows and "
                                    "8 columns of the steps")  # fmt: skip
    found = range(n)[part]
    if not found:
        raise ShapeError("explain", f"region: {part.start}:{part.stop} takes nothing of axis "
                                    f"{axis}, which has {n}")  # fmt: skip
    return found


def check_count(name: str, ranges: Ranges, geometry: Geometry) -> None:
    """ShapeError with a region that fits, where there is too much to look at."""
    steps, each = _work(ranges, geometry)
    if steps <= MOST_STEPS and steps * each <= MOST_PRODUCTS:
        return
    crop = list(ranges)
    while crop[0][1:] or crop[1][1:] or crop[2][1:] or crop[3][1:]:
        # Images first, then channels, then the longer side is halved.
        axis = next((a for a in (0, 1) if len(crop[a]) > 1), 2 + (len(crop[3]) > len(crop[2])))
        keep = 1 if axis < 2 else (len(crop[axis]) + 1) // 2
        crop[axis] = crop[axis][:keep]
        count, each = _work(tuple(crop), geometry)
        if count <= MOST_STEPS and count * each <= MOST_PRODUCTS:
            break
    fits = ", ".join(f"{r.start}:{r.stop}" for r in crop)
    raise ShapeError(
        "explain",
        f"{name} has {'*'.join(str(len(r)) for r in ranges)} = {steps:,} steps of {each:,} "
        f"products; at most {MOST_STEPS:,} steps and {MOST_PRODUCTS:,} products can be followed. "
        f"Crop the steps: region=np.s_[{fits}]",
    )


def _work(ranges: Ranges, geometry: Geometry) -> tuple[int, int]:
    rows = max(map(len, geometry.rows.windows))
    columns = max(map(len, geometry.columns.windows))
    return math.prod(map(len, ranges)), geometry.per_group * rows * columns


# --- the arrays as they are drawn


def _drive_grid(name: str, values: Array, ranges: Ranges) -> Grid:
    return Grid(name, values[np.ix_(*ranges)], tuple(r.start for r in ranges))


def _window_grid(
    name: str,
    values: Array,
    geometry: Geometry,
    ranges: Ranges,
    whole: bool,
    padding: float = 0.0,
    **drawn: Any,
) -> Grid:
    """The window side with its padding; of a region, what its windows reach."""
    rows, columns = (
        axis.places if whole else _reach(axis, chosen)
        for axis, chosen in ((geometry.rows, ranges[2]), (geometry.columns, ranges[3]))
    )
    step = geometry.drivers // geometry.groups
    first, last = (ranges[1][i] // step * geometry.per_group for i in (0, -1))
    if whole:
        first, last = 0, values.shape[1] - geometry.per_group
    channels = range(first, last + geometry.per_group)
    part = values[np.ix_(ranges[0], channels)]
    for axis, places, at in ((geometry.rows, rows, 2), (geometry.columns, columns, 3)):
        part = _spread(part, [axis.source(p) for p in places], at, padding)
    return Grid(
        name, part, (ranges[0].start, first, rows.start, columns.start),
        size=(geometry.rows.size, geometry.columns.size),
        unread=(geometry.rows.unread, geometry.columns.unread), **drawn,
    )  # fmt: skip


def _spread(values: Array, sources: Sequence[int | None], axis: int, padding: float) -> Array:
    """Rows by their source; ``padding`` where there is none."""
    taken = np.take(values, [s or 0 for s in sources], axis)
    empty = [i for i, s in enumerate(sources) if s is None]
    np.moveaxis(taken, axis, 0)[empty] = padding
    return taken


def _reach(axis: Axis, chosen: range) -> range:
    places = {p for i in chosen for p in axis.windows[i]}
    places |= {s for p in places if (s := axis.source(p)) is not None}
    return range(min(places), max(places) + 1)


# --- the steps themselves


def convolution(
    name: str, geometry: Geometry, target: str, drive: tuple[str, Array],
    window: tuple[str, Array], kernel: tuple[str, Array], region: Any, *,
    bias: Array | None = None, **drawn: Any,
) -> Pass:  # fmt: skip
    """A pass of a convolution: products of the two arrays that ``target`` is not."""
    ranges = chosen(region, drive[1].shape)
    check_count(name, ranges, geometry)
    grids: dict[str, Any] = {
        "drive": _drive_grid(*drive, ranges),
        "window": _window_grid(*window, geometry, ranges, region is None, **drawn),
        "kernel": Grid(kernel[0], kernel[1][np.ix_(ranges[1])], (ranges[1].start, 0, 0, 0)),
    }

    def step(driver: Index) -> Step:
        pairs = list(geometry.triples(driver))
        places, taps = [p for p, _ in pairs], [t for _, t in pairs]
        sides = {"drive": [driver] * len(pairs), "window": places, "kernel": taps}
        left, right = (role for role in sides if role != target)
        terms = [
            grids[left].value(i) * grids[right].value(j)
            for i, j in zip(sides[left], sides[right], strict=True)
        ]
        targets = [geometry.source(p) for p in places] if target == "window" else sides[target]
        return Step(driver, places, taps, list(targets), terms)

    steps = [step(driver) for driver in _drivers(ranges)]
    return Pass(name, geometry, target=target, steps=steps, bias=bias, **grids)


def _drivers(ranges: Ranges) -> Iterator[Index]:
    starts = [r.start for r in ranges]
    for index in np.ndindex(*map(len, ranges)):
        yield tuple(i + s for i, s in zip(index, starts, strict=True))


def bias_gradient(grad: Array, region: Any) -> Pass:
    """db[channel] += dy[cell]."""
    geometry = geometries.elementwise(grad.shape)
    ranges = chosen(region, grad.shape)
    check_count("db", ranges, geometry)
    drive = _drive_grid("dy", grad, ranges)
    tap = {c: (0, 0, 0, c) for c in ranges[1]}
    steps = [Step(d, [], [tap[d[1]]], [tap[d[1]]], [drive.value(d)]) for d in _drivers(ranges)]
    zeros = np.zeros((1, 1, 1, len(ranges[1])))
    kernel = Grid("db", zeros, (0, 0, 0, ranges[1].start), axes=1)
    return Pass("db", geometry, drive, None, kernel, "kernel", steps)


def pooling(name: str, geometry: Geometry, how: str, x: Array, grad: Array, region: Any,
            divisor: int | None = None) -> Pass:  # fmt: skip
    """A pass of a pool: each cell of the window counts with its share.

    The share of a mean is 1/divisor; that of a maximum is 1 for the first greatest cell (a NaN
    is greatest), 0 for the others.
    """
    forward = name == "forward"
    ranges = chosen(region, grad.shape)
    check_count(name, ranges, geometry)
    nothing = -math.inf if how == "max" else 0.0  # padding never wins
    read = _window_grid("x", x, geometry, ranges, region is None, nothing)
    drive = _drive_grid("y" if forward else "dy", np.zeros_like(grad) if forward else grad, ranges)
    window = read
    if not forward:
        window = _window_grid("dx", np.zeros(x.shape), geometry, ranges, region is None)

    def step(driver: Index) -> Step:
        places = [p for p, _ in geometry.triples(driver)]
        if how == "max":
            inside = [p for p in places if geometry.source(p) is not None]
            counts = {inside[int(np.argmax([read.value(p) for p in inside]))]: 1.0}
        else:
            rows, columns = geometry.rows.counted, geometry.columns.counted
            inside = [p for p in places if p[2] in rows and p[3] in columns]
            counts = dict.fromkeys(inside, 1 / (divisor or len(inside)))
        shares = [counts.get(p, 0.0) for p in places]
        values = [read.value(p) if forward else drive.value(driver) for p in places]
        terms = [v * s if s else 0.0 for v, s in zip(values, shares, strict=True)]  # not inf * 0
        targets = [driver if forward else geometry.source(p) for p in places]
        return Step(driver, places, [], targets, terms, shares)

    steps = [step(driver) for driver in _drivers(ranges)]
    target = "drive" if forward else "window"
    return Pass(name, geometry, drive, window, None, target, steps, how)


# --- the passes of each layer: made when asked for

Makers = dict[str, Callable[[Any], Pass]]  # region -> Pass


def of_layer(layer: Any, x: Array, grad: Array) -> Makers:
    """The passes that the layer has; TypeError for a layer that is not explained."""
    for kind, makers in _LAYERS.items():
        if isinstance(layer, kind):
            return makers(layer, x, grad)
    known = ", ".join(kind.__name__ for kind in _LAYERS)
    one = (
        "; explain one layer of it, such as model.layer1[0].conv1" if list(layer.children()) else ""
    )
    raise TypeError(f"explain: a {type(layer).__name__} is not explained; there is {known}{one}")


def _conv(layer: nn.Conv2d, x: Array, g: Array) -> Makers:
    w, b = _array(layer.weight), layer.bias
    geo = geometries.conv(layer, x.shape, g.shape)
    bias = None if b is None else _array(b)
    y = np.zeros_like(g) if bias is None else np.broadcast_to(bias[:, None, None], g.shape)
    makers: Makers = {
        "forward": lambda region: convolution(
            "forward", geo, "drive", ("y", y), ("x", x), ("w", w), region, bias=bias
        ),
        "dx": lambda region: convolution(
            "dx", geo, "window", ("dy", g), ("dx", np.zeros(x.shape)), ("w", w), region
        ),
        "dw": lambda region: convolution(
            "dw", geo, "kernel", ("dy", g), ("x", x), ("dw", np.zeros(w.shape)), region
        ),
    }
    return makers if b is None else {**makers, "db": lambda region: bias_gradient(g, region)}


def _conv_transpose(layer: nn.ConvTranspose2d, x: Array, g: Array) -> Makers:
    w, b = _array(layer.weight), layer.bias
    geo = geometries.transposed(layer, x.shape, g.shape)
    plain = geometries.zeros_between(layer, x.shape, g.shape)
    bias = None if b is None else _array(b)
    y = np.zeros_like(g) if bias is None else np.broadcast_to(bias[:, None, None], g.shape)
    sh, sw = layer.stride
    z = np.zeros((*x.shape[:2], plain.rows.size, plain.columns.size))
    z[:, :, ::sh, ::sw] = x
    makers: Makers = {
        "forward": lambda region: convolution(
            "forward", geo, "window", ("x", x), ("y", y), ("w", w), region, bias=bias,
            padded="cut off",
        ),
        "zeros": lambda region: convolution(
            "zeros", plain, "drive", ("y", y), ("z", z), ("wf", _flipped(w, layer.groups)), region,
            bias=bias, inserted=(sh, sw),
        ),
        "dx": lambda region: convolution(
            "dx", geo, "drive", ("dx", np.zeros(x.shape)), ("dy", g), ("w", w), region
        ),
        "dw": lambda region: convolution(
            "dw", geo, "kernel", ("x", x), ("dy", g), ("dw", np.zeros(w.shape)), region
        ),
    }  # fmt: skip
    return makers if b is None else {**makers, "db": lambda region: bias_gradient(g, region)}


def _flipped(w: Array, groups: int) -> Array:
    """(C, O/groups, KH, KW) -> (O, C/groups, KH, KW), rows and columns backwards."""
    c, o, kh, kw = w.shape
    split = w.reshape(groups, c // groups, o, kh, kw).swapaxes(1, 2)
    return split.reshape(groups * o, c // groups, kh, kw)[:, :, ::-1, ::-1]


def _pool_makers(geo: Geometry, how: str, x: Array, g: Array, divisor: int | None = None) -> Makers:
    return {
        "forward": lambda region: pooling("forward", geo, how, x, g, region, divisor),
        "dx": lambda region: pooling("dx", geo, how, x, g, region, divisor),
    }


def _two(value: Any) -> Index:
    return sizes(value, 2, "explain", "size")


def _max_pool(layer: nn.MaxPool2d, x: Array, g: Array) -> Makers:
    geo = geometries.pool(x.shape, g.shape, _two(layer.kernel_size), _two(layer.stride),
                          _two(layer.padding), _two(layer.dilation))  # fmt: skip
    return _pool_makers(geo, "max", x, g)


def _avg_pool(layer: nn.AvgPool2d, x: Array, g: Array) -> Makers:
    geo = geometries.pool(x.shape, g.shape, _two(layer.kernel_size), _two(layer.stride),
                          _two(layer.padding), include_pad=layer.count_include_pad)  # fmt: skip
    return _pool_makers(geo, "mean", x, g, layer.divisor_override)


def _adaptive_avg(layer: nn.AdaptiveAvgPool2d, x: Array, g: Array) -> Makers:
    return _pool_makers(geometries.adaptive_pool(x.shape, g.shape), "mean", x, g)


def _adaptive_max(layer: nn.AdaptiveMaxPool2d, x: Array, g: Array) -> Makers:
    return _pool_makers(geometries.adaptive_pool(x.shape, g.shape), "max", x, g)


_LAYERS: dict[type, Callable[[Any, Array, Array], Makers]] = {
    nn.Conv2d: _conv,
    nn.ConvTranspose2d: _conv_transpose,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _avg_pool,
    nn.AdaptiveAvgPool2d: _adaptive_avg,
    nn.AdaptiveMaxPool2d: _adaptive_max,
}


def _array(tensor: Any) -> Array:
    return np.array(tensor.detach().cpu().numpy(), np.float64)  # its own: the layer may learn on
