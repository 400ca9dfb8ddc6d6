"""Padding, resizing and rearranging images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinyconv.backend import array_module
from tinyconv.dtypes import float64
from tinyconv.errors import DTypeError, ShapeError, not_taken
from tinyconv.nn.functional.checks import whole
from tinyconv.ops.elementwise import clone
from tinyconv.ops.move import band_product, linear_band, nearest_band
from tinyconv.ops.shape import broadcast_to, pad_zeros, permute, reshape
from tinyconv.samples import function, sample

IMAGE = (2, 3, 4, 5)

# --- padding


@function(
    sample(IMAGE, [1, 2]),
    sample(IMAGE, [1, 2, 0, 3], "constant", 1.5),
    sample(IMAGE, [-1, 2, 1, -1]),
    sample(IMAGE, [1, -2, -1, 2], "circular"),
    sample(IMAGE, [-1, 2, 1, -2], "reflect"),
    sample(IMAGE, [2, 1, 3, 0], "reflect"),
    sample(IMAGE, [2, 1, 3, 6], "replicate"),
    sample(IMAGE, [2, 1, 3, 0], "circular"),
)
def pad(input: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """(before, after) for the last axis, then the one before it, and so on; negative: cut off.

    mode: "constant" (``value``, 0 by default), "reflect" (without the border),
    "replicate" (the border again), "circular" (from the other side).
    """
    around = [whole("pad", "pad", n) for n in pad]
    counts = [(around[i], around[i + 1]) for i in range(0, len(around) - 1, 2)][::-1]
    if len(around) % 2 or len(counts) > input.ndim:
        raise ShapeError(
            "pad",
            f"pad={tuple(pad)} needs (before, after) for at most {input.ndim} axes, last first",
        )
    per_axis = ((0, 0),) * (input.ndim - len(counts)) + tuple(counts)
    if mode == "constant":
        _check_cut(input.shape, per_axis)
        return pad_zeros(input, padding=per_axis, value=_filling(input.dtype, value))
    if mode not in POSITIONS:
        raise ValueError(f"pad: mode={mode!r} is none of 'constant', {str([*POSITIONS])[1:-1]}")
    if value:
        raise ValueError(f"pad: value={value} is for mode='constant'; mode={mode!r} has its own")
    left = [n + a + b for n, (a, b) in zip(input.shape, per_axis, strict=True)]
    if mode != "circular" and max(left[input.ndim - len(counts) :], default=1) < 1:
        raise ShapeError("pad", f"pad={tuple(pad)} leaves nothing of {input.shape}")
    y = input
    for axis, (before, after) in enumerate(per_axis):
        if before or after:
            positions = _positions(input.shape, axis, before, after, mode)
            y = y[(slice(None),) * axis + (array_module(y.array).asarray(positions),)]
    return clone(y) if y is input else y


def _positions(shape: tuple[int, ...], axis: int, before: int, after: int, mode: str) -> Any:
    """Which entry stands where along one axis; negative counts cut off, a circle before it closes.

    The others mirror and repeat what is cut off, as in PyTorch.
    """
    n, start = shape[axis], 0
    if mode == "circular":
        start, n = max(-before, 0), n + min(before, 0) + min(after, 0)
        before, after = max(before, 0), max(after, 0)
    if max(before, after) > _MOST[mode](n):
        raise ShapeError(
            "pad",
            f"({before}, {after}) along axis {axis} of {shape}: "
            f"{mode} of {n} entries takes 0..{_MOST[mode](n)} on each side; "
            "mode='replicate' takes any number",
        )
    if n < 0 or n + before + after < 0:
        said = f"({before}, {after}) cuts off more than there is along axis {axis} of {shape}"
        raise ShapeError("pad", said)
    return start + POSITIONS[mode](np.arange(-before, n + after), n)


def _check_cut(shape: tuple[int, ...], padding: tuple[tuple[int, int], ...]) -> None:
    for axis, (n, (before, after)) in enumerate(zip(shape, padding, strict=True)):
        if n + min(before, 0) + min(after, 0) < 0:
            raise ShapeError(
                "pad", f"({before}, {after}) cuts more off than the {n} entries of axis {axis}"
            )


def _filling(dtype: Any, value: float | None) -> Any:
    """The value as the dtype holds it: integers cut off what comes after the point."""
    if value is None or dtype.kind == "b":
        return bool(value)
    limits = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
    if dtype.kind == "f" and not math.isfinite(value):
        return value
    if not float(limits.min) <= value <= float(limits.max):
        raise DTypeError("pad", f"value={value} does not fit into {dtype}")
    return int(value) if dtype.kind in "iu" else value


POSITIONS: dict[str, Callable[[Any, int], Any]] = {
    "reflect": lambda i, n: (n - 1) - np.abs((n - 1) - np.abs(i)),
    "replicate": lambda i, n: np.clip(i, 0, n - 1),
    "circular": lambda i, n: i % n,
}
_MOST: dict[str, Callable[[int], int]] = {
    "reflect": lambda n: n - 1,
    "replicate": lambda n: 2**31 if n else 0,
    "circular": lambda n: n,
}


# --- resizing


@function(
    sample((1, 2, 3, 4), scale_factor=2),
    sample((1, 2, 3, 4), [5, 3]),
    sample((2, 3, 5), 8),
    sample((1, 2, 3, 4), [5, 7], None, "bilinear"),
    sample((1, 2, 3, 4), [5, 7], None, "bilinear", True),
    sample((1, 2, 5, 6), None, (0.5, 1.5), "bilinear"),
)
def interpolate(
    input: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Any:
    """Images (N, C, H, W), or signals (N, C, L), in another size.

    mode: "nearest", "bilinear" ("linear" for signals).  align_corners, not for "nearest": the
    corner pixels' centres stay, else the image's edges do.
    """
    spatial = input.shape[2:]
    linear_mode = {1: "linear", 2: "bilinear"}.get(len(spatial))
    if linear_mode is None:
        raise ShapeError(
            "interpolate", f"input {input.shape} is {input.ndim}-D, need (N,C,H,W) or (N,C,L)"
        )
    if (size is None) == (scale_factor is None):
        raise ValueError("interpolate: give either size or scale_factor")
    if mode not in ("nearest", linear_mode):
        raise ValueError(
            f"interpolate: mode={mode!r}; for {input.ndim}-D input 'nearest' or {linear_mode!r}"
        )
    if mode == "nearest" and align_corners is not None:
        raise ValueError(
            f"interpolate: align_corners={align_corners} does not apply to mode='nearest'; leave "
            f"it out or use mode={linear_mode!r}"
        )
    factors: list[float | None] = [None] * len(spatial)
    if size is None:
        several = isinstance(scale_factor, (tuple, list))
        factors = list(scale_factor) if several else [scale_factor] * len(spatial)
        size = [math.floor(n * f) for n, f in zip(spatial, factors, strict=False)]
        size += [1] * (len(factors) - len(spatial))  # one too many, which is an error
    several = isinstance(size, (tuple, list))
    size = list(size) if several else [size] * len(spatial)
    size = [whole("interpolate", "size", n) for n in size]
    if len(size) != len(spatial) or min(size) < 1 or 0 in input.shape[1:]:
        raise ShapeError(
            "interpolate",
            f"{spatial} cannot become {tuple(size)}: {len(spatial)} sizes of at least 1",
        )
    if mode == "nearest":
        return _nearest(input, size, factors)
    if input.dtype.kind != "f":
        raise not_taken("interpolate", "input", input.dtype)
    y = input
    for axis, (n, out, factor) in enumerate(zip(spatial, size, factors, strict=True), 2):
        if out == n:  # nothing to do, also for a factor such as 1.2 that the size rounds away
            continue
        double = input.dtype == float64
        band = linear_band(n, out, factor, bool(align_corners), double)
        y = band_product(y, band=band, dim=axis)
    return clone(y) if y is input else y


def _nearest(x: Any, size: list[int], given: list[float | None]) -> Any:
    times = [out / n for n, out in zip(x.shape[2:], size, strict=True)]
    # a factor such as 1.2 that rounds to the same size, or to twice the size, does not count
    factors = [t if f is None or t in (1, 2) else f for f, t in zip(given, times, strict=True)]
    if factors == times and all(t == int(t) for t in times):
        return _repeated(x, [int(t) for t in times])
    for axis, (out, factor) in enumerate(zip(size, factors, strict=True), 2):
        n = x.shape[axis]
        scale = np.float32(n / out if factor == out / n else 1 / factor)
        x = band_product(x, band=nearest_band(n, out, scale), dim=axis)
    return x


def _repeated(x: Any, times: list[int]) -> Any:
    """Every pixel a block of equal ones: a broadcast, whose adjoint is a sum."""
    lead, spatial = x.shape[:2], x.shape[2:]
    apart = [k for n in spatial for k in (n, 1)]
    wide = [k for n, t in zip(spatial, times, strict=True) for k in (n, t)]
    y = broadcast_to(reshape(x, shape=(*lead, *apart)), shape=(*lead, *wide))
    y = clone(y, order="C")  # memory of its own, also where the view needs no copy
    return reshape(y, shape=(*lead, *(n * t for n, t in zip(spatial, times, strict=True))))


# --- rearranging


@function(sample((2, 12, 2, 3), 2), sample((4, 2, 3), 2), sample((2, 3, 4, 1, 2), 2))
def pixel_shuffle(input: Any, upscale_factor: int) -> Any:
    """(..., C r^2, H, W) -> (..., C, H r, W r): channels become pixels."""
    *lead, c, h, w = _planes("pixel_shuffle", input)
    r = _factor("pixel_shuffle", "upscale_factor", upscale_factor)
    if c % (r * r):
        raise ShapeError("pixel_shuffle", f"{c} channels are not a multiple of {r}^2 = {r * r}")
    x = reshape(input, shape=(*lead, c // (r * r), r, r, h, w))
    x = clone(_moved(x, 0, 3, 1, 4, 2), order="C")
    return reshape(x, shape=(*lead, c // (r * r), h * r, w * r))


@function(sample((2, 3, 4, 6), 2), sample((3, 4, 6), 2))
def pixel_unshuffle(input: Any, downscale_factor: int) -> Any:
    """(..., C, H r, W r) -> (..., C r^2, H, W): `pixel_shuffle` undone."""
    *lead, c, h, w = _planes("pixel_unshuffle", input)
    r = _factor("pixel_unshuffle", "downscale_factor", downscale_factor)
    if h % r or w % r:
        raise ShapeError("pixel_unshuffle", f"{h} x {w} is not a multiple of {r} each way")
    x = reshape(input, shape=(*lead, c, h // r, r, w // r, r))
    x = clone(_moved(x, 0, 2, 4, 1, 3), order="C")
    return reshape(x, shape=(*lead, c * r * r, h // r, w // r))


def _planes(name: str, x: Any) -> tuple[int, ...]:
    """The shape, which must end in (C, H, W)."""
    if x.ndim < 3:
        raise ShapeError(name, f"input {x.shape} is {x.ndim}-D, need (..., C, H, W)")
    return x.shape


def _factor(name: str, what: str, value: Any) -> int:
    r = whole(name, what, value)
    if r < 1:
        raise ShapeError(name, f"{what} is {r}, it must be at least 1")
    return r


def _moved(x: Any, *last: int) -> Any:
    """The last axes in another order."""
    lead = x.ndim - len(last)
    return permute(x, dims=(*range(lead), *(lead + i for i in last)))
