"""Padding, resizing and rearranging images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinyconv.autograd import exact_number, wrap
from tinyconv.backend import array_module
from tinyconv.dtypes import float64
from tinyconv.errors import ShapeError, not_taken
from tinyconv.nn.functional.checks import check_images
from tinyconv.ops.move import band_product, linear_band
from tinyconv.ops.shape import broadcast_to, pad_zeros, permute, reshape
from tinyconv.samples import function, sample

IMAGE = (2, 3, 4, 5)

# --- padding


@function(
    sample(IMAGE, [1, 2]),
    sample(IMAGE, [1, 2, 0, 3], "constant", 1.5),
    sample(IMAGE, [-1, 2, 1, -1]),
    sample(IMAGE, [2, 1, 3, 0], "reflect"),
    sample(IMAGE, [2, 1, 3, 6], "replicate"),
    sample(IMAGE, [2, 1, 3, 0], "circular"),
)
def pad(input: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """(before, after) for the last axis, then the one before it, and so on.

    mode: "constant" (``value``; negative counts cut off), "reflect" (without the border),
    "replicate" (the border again), "circular" (from the other side).
    """
    counts = [(int(pad[i]), int(pad[i + 1])) for i in range(0, len(pad) - 1, 2)][::-1]
    if len(pad) % 2 or len(counts) > input.ndim:
        raise ShapeError(
            "pad",
            f"pad={tuple(pad)} needs (before, after) for at most {input.ndim} axes, last first",
        )
    per_axis = ((0, 0),) * (input.ndim - len(counts)) + tuple(counts)
    if mode == "constant":
        return _constant(input, per_axis, value or 0.0)
    if mode not in _POSITIONS:
        raise ValueError(f"pad: mode={mode!r} is none of 'constant', {str([*_POSITIONS])[1:-1]}")
    for axis, (before, after) in enumerate(per_axis):
        if before or after:
            n, most = input.shape[axis], _MOST[mode](input.shape[axis])
            if not 0 <= min(before, after) <= max(before, after) <= most:
                raise ShapeError(
                    "pad",
                    f"({before}, {after}) along axis {axis} of {input.shape}: "
                    f"{mode} of {n} entries takes 0..{most} on each side; "
                    "mode='replicate' takes any number",
                )
            positions = _POSITIONS[mode](np.arange(-before, n + after), n)
            input = input[(slice(None),) * axis + (array_module(input.array).asarray(positions),)]
    return input


_POSITIONS: dict[str, Callable[[Any, int], Any]] = {
    "reflect": lambda i, n: (n - 1) - np.abs((n - 1) - np.abs(i)),
    "replicate": lambda i, n: np.clip(i, 0, n - 1),
    "circular": lambda i, n: i % n,
}
_MOST: dict[str, Callable[[int], int]] = {
    "reflect": lambda n: n - 1,
    "replicate": lambda n: 2**31,
    "circular": lambda n: n,
}


def _constant(x: Any, padding: tuple[tuple[int, int], ...], value: float) -> Any:
    y = pad_zeros(x, padding=padding)
    if value == 0:
        return y
    number = value if x.dtype.kind == "f" else exact_number("pad", int(value), x.dtype)
    frame = array_module(x.array).full(y.shape, number, x.dtype)
    frame[
        tuple(slice(max(a, 0), n - max(b, 0)) for n, (a, b) in zip(y.shape, padding, strict=True))
    ] = 0
    return y + wrap(frame)


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
        factors = (
            list(scale_factor)
            if isinstance(scale_factor, (tuple, list))
            else [scale_factor] * len(spatial)
        )
        size = [math.floor(n * f) for n, f in zip(spatial, factors, strict=True)]
    size = [size] * len(spatial) if isinstance(size, int) else list(size)
    if len(size) != len(spatial) or min(size) < 1:
        raise ShapeError(
            "interpolate",
            f"{spatial} cannot become {tuple(size)}: {len(spatial)} sizes of at least 1",
        )
    if mode == "nearest":
        return _nearest(input, size, factors)
    if input.dtype.kind != "f":
        raise not_taken("interpolate", "input", input.dtype)
    for axis, (n, out, factor) in enumerate(zip(spatial, size, factors, strict=True), 2):
        if out == n:  # nothing to do, also for a factor such as 1.2 that the size rounds away
            continue
        double = input.dtype == float64
        band = linear_band(n, out, factor, bool(align_corners), double)
        input = band_product(input, band=band, dim=axis)
    return input


def _nearest(x: Any, size: list[int], given: list[float | None]) -> Any:
    times = [out / n for n, out in zip(x.shape[2:], size, strict=True)]
    # a factor such as 1.2 that rounds to the same size, or to twice the size, does not count
    factors = [t if f is None or t in (1, 2) else f for f, t in zip(given, times, strict=True)]
    if factors == times and all(t == int(t) for t in times):
        return _repeated(x, [int(t) for t in times])
    for axis, (out, factor) in enumerate(zip(size, factors, strict=True), 2):
        n = x.shape[axis]
        scale = np.float32(n / out if factor == out / n else 1 / factor)
        positions = np.minimum((np.arange(out, dtype=np.float32) * scale).astype(np.int64), n - 1)
        x = x[(slice(None),) * axis + (array_module(x.array).asarray(positions),)]
    return x


def _repeated(x: Any, times: list[int]) -> Any:
    """Every pixel a block of equal ones: a broadcast, whose adjoint is a sum."""
    lead, spatial = x.shape[:2], x.shape[2:]
    apart = [k for n in spatial for k in (n, 1)]
    wide = [k for n, t in zip(spatial, times, strict=True) for k in (n, t)]
    y = broadcast_to(reshape(x, shape=(*lead, *apart)), shape=(*lead, *wide))
    return reshape(y, shape=(*lead, *(n * t for n, t in zip(spatial, times, strict=True))))


# --- rearranging


@function(sample((2, 12, 2, 3), 2))
def pixel_shuffle(input: Any, upscale_factor: int) -> Any:
    """(N, C r^2, H, W) -> (N, C, H r, W r): channels become pixels."""
    check_images("pixel_shuffle", input)
    n, c, h, w = input.shape
    r = upscale_factor
    if c % (r * r):
        raise ShapeError("pixel_shuffle", f"{c} channels are not a multiple of {r}^2 = {r * r}")
    x = reshape(input, shape=(n, c // (r * r), r, r, h, w))
    return reshape(permute(x, dims=(0, 1, 4, 2, 5, 3)), shape=(n, c // (r * r), h * r, w * r))


@function(sample((2, 3, 4, 6), 2))
def pixel_unshuffle(input: Any, downscale_factor: int) -> Any:
    """(N, C, H r, W r) -> (N, C r^2, H, W): `pixel_shuffle` undone."""
    check_images("pixel_unshuffle", input)
    n, c, h, w = input.shape
    r = downscale_factor
    if h % r or w % r:
        raise ShapeError("pixel_unshuffle", f"{h} x {w} is not a multiple of {r} each way")
    x = reshape(input, shape=(n, c, h // r, r, w // r, r))
    return reshape(permute(x, dims=(0, 1, 3, 5, 2, 4)), shape=(n, c * r * r, h // r, w // r))
