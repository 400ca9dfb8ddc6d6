"""Which cells meet in each step: index arithmetic of convolutions and pools, one axis at a time.

A layer has a *driver* side and a *window* side. Each driver cell has one window: the places that a
convolution's output reads, or that a transposed convolution's input writes (it is the adjoint, so
the sides change places). Weights are (drivers, windows / groups, KH, KW) for both layers.

Axes as everywhere: N batch, C channels, H x W image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from tinyconv.nn.functional.conv import same_padding, span
from tinyconv.see.axes import Adaptive, Window

Index = tuple[int, ...]


@dataclass(frozen=True)
class Axis:
    """Rows (or columns): driver row i has the window of places ``windows[i]``.

    Place 0 is the first row of the image; places outside of 0..size-1 are padding.
    """

    reach: Window | Adaptive  # the window side's rows as each driver row reads them
    windows: list[list[int]]
    rules: list[str]  # how windows[i] was computed, with its numbers
    pad: tuple[int, int] = (0, 0)  # before, after
    counted: range = range(0)  # of a mean: the places that count

    @property
    def size(self) -> int:
        """How many rows the window side has."""
        return self.reach.n

    @property
    def places(self) -> range:
        """Everything there is to see: the image, its padding, and what only windows reach."""
        ends = [p for window in self.windows for p in window]
        return range(
            min(0, -self.pad[0], *ends), max(self.size, self.size + self.pad[1], max(ends) + 1)
        )

    @property
    def unread(self) -> list[int]:
        """Rows of the image that no window has."""
        return self.reach.unread

    def source(self, place: int) -> int | None:
        """The row whose value stands at that place; None where a zero stands."""
        return self.reach.source(place)


def strided(
    size: int, count: int, kernel: int, stride: int, dilation: int, pad: tuple[int, int],
    letter: str, mode: str = "zeros",
) -> Axis:  # fmt: skip
    """Window i starts at i*stride - pad; its rows are ``dilation`` apart."""
    fit = (count - 1) * stride + span(kernel, dilation) - size - pad[0]  # ``count`` windows
    reach = Window(size, kernel, stride, pad[0], fit, dilation, mode=mode)
    windows = [reach.places(i).tolist() for i in range(count)]
    shift = f" {'-' if pad[0] >= 0 else '+'} {abs(pad[0])}"
    rules = [
        f"{i}*{stride} + k{letter}*{dilation}{shift} = {_listed(window)}"
        for i, window in enumerate(windows)
    ]
    return Axis(reach, windows, rules, pad)


def adaptive(size: int, count: int) -> Axis:
    """Window i covers rows floor(i n / count) to ceil((i + 1) n / count), the last excluded."""
    reach = Adaptive(size, count)
    windows = [reach.reads(i).tolist() for i in range(count)]
    rules = [
        f"floor({i}*{size}/{count}) .. ceil({i + 1}*{size}/{count})-1 = {_listed(window)}"
        for i, window in enumerate(windows)
    ]
    return Axis(reach, windows, rules, counted=range(size))


def _listed(window: list[int]) -> str:
    return ", ".join(map(str, window))


@dataclass(frozen=True)
class Geometry:
    """The index triples of a layer: driver cell, place in its window, tap of the kernel."""

    rows: Axis
    columns: Axis
    drivers: int  # channels of the driver side
    per_group: int  # channels of the window side that one driver channel meets
    groups: int

    def triples(self, driver: Index) -> Iterator[tuple[Index, Index]]:
        """For one driver cell (n, channel, i, j): each place (n, c, h, w), and its tap."""
        n, channel, i, j = driver
        first = channel // (self.drivers // self.groups) * self.per_group
        for c in range(self.per_group):
            for t, h in enumerate(self.rows.windows[i]):
                for u, w in enumerate(self.columns.windows[j]):
                    yield (n, first + c, h, w), (channel, c, t, u)

    def source(self, place: Index) -> Index | None:
        """The cell whose value stands at that place; None in a padding of zeros."""
        n, c, h, w = place
        row, column = self.rows.source(h), self.columns.source(w)
        return None if row is None or column is None else (n, c, row, column)


# --- the geometry of each kind of layer


def conv(layer: Any, x_shape: Index, y_shape: Index) -> Geometry:
    """Driver: the output. Window side: the input."""
    pads = _pads(layer)
    axes = [
        strided(x_shape[2 + a], y_shape[2 + a], layer.kernel_size[a], layer.stride[a],
                layer.dilation[a], pads[a], "hw"[a], layer.padding_mode)
        for a in (0, 1)
    ]  # fmt: skip
    return Geometry(axes[0], axes[1], y_shape[1], x_shape[1] // layer.groups, layer.groups)


def _pads(layer: Any) -> list[tuple[int, int]]:
    if layer.padding == "valid":
        return [(0, 0), (0, 0)]
    if layer.padding == "same":
        return [same_padding(k, d) for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
    return [(p, p) for p in layer.padding]


def transposed(layer: Any, x_shape: Index, y_shape: Index) -> Geometry:
    """Driver: the input. Window side: the output, from which ``padding`` rows are cut off."""
    axes = [
        strided(y_shape[2 + a], x_shape[2 + a], layer.kernel_size[a], layer.stride[a],
                layer.dilation[a], (layer.padding[a], 0), "hw"[a])
        for a in (0, 1)
    ]  # fmt: skip
    return Geometry(axes[0], axes[1], x_shape[1], y_shape[1] // layer.groups, layer.groups)


def zeros_between(layer: Any, x_shape: Index, y_shape: Index) -> Geometry:
    """A transposed convolution as a plain one: input with stride-1 zeros between its rows.

    Stride 1, the kernel flipped, dilation*(K-1) - padding zeros before, output_padding more after.
    """
    axes = []
    for a in (0, 1):
        k, s, p = layer.kernel_size[a], layer.stride[a], layer.padding[a]
        before = span(k, layer.dilation[a]) - 1 - p
        pad = (before, before + layer.output_padding[a])
        size = (x_shape[2 + a] - 1) * s + 1
        axes.append(strided(size, y_shape[2 + a], k, 1, layer.dilation[a], pad, "hw"[a]))
    return Geometry(axes[0], axes[1], y_shape[1], x_shape[1] // layer.groups, layer.groups)


def pool(
    x_shape: Index, y_shape: Index, kernel: Index, stride: Index, padding: Index,
    dilation: Index = (1, 1), include_pad: bool = True,
) -> Geometry:  # fmt: skip
    """Driver: the output, each channel by itself. ceil_mode may let windows reach beyond."""
    axes = []
    for a in (0, 1):
        n, k, p = x_shape[2 + a], kernel[a], padding[a]
        made = strided(n, y_shape[2 + a], k, stride[a], dilation[a], (p, p), "hw"[a])
        counted = range(-p, n + p) if include_pad else range(n)
        axes.append(replace(made, counted=counted))
    return Geometry(axes[0], axes[1], y_shape[1], 1, y_shape[1])


def adaptive_pool(x_shape: Index, y_shape: Index) -> Geometry:
    """Driver: the output, each channel by itself."""
    rows, columns = adaptive(x_shape[2], y_shape[2]), adaptive(x_shape[3], y_shape[3])
    return Geometry(rows, columns, y_shape[1], 1, y_shape[1])


def elementwise(y_shape: Index) -> Geometry:
    """Every cell by itself: the bias gradient."""
    return pool(y_shape, y_shape, (1, 1), (1, 1), (0, 0))
