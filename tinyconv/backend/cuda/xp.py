"""Kernels that a GPU needs in another way than the reference has them, in plain array code.

Deterministic mode: `add.at` adds with atomics there, whose order differs from run to run, and so do
the last bits of a sum of floats.

Random numbers: drawn on the host they would have to travel, as many as an activation has.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyconv.backend import modes
from tinyconv.backend.array import Array, array_module
from tinyconv.backend.reference import Pair
from tinyconv.context import context
from tinyconv.random import generator


def add_at(out: Array, index: Any, values: Array) -> None:
    """See `reference.add_at`."""
    parts = index if isinstance(index, tuple) else (index,)
    masks = any(hasattr(part, "dtype") and part.dtype.kind == "b" for part in parts)
    if not modes.deterministic() or masks or out.dtype.kind != "f":
        return NotImplemented  # a mask names no place twice; integers add up in any order
    xp = array_module(out)
    places = xp.arange(out.size).reshape(out.shape)[index]
    values = xp.broadcast_to(values, places.shape).astype(out.dtype, copy=False)
    out += _sums(places.ravel(), values.ravel(), out.size).reshape(out.shape)
    return None


def pool_scatter(
    g: Array, indices: Array, *, input_size: Pair, window: dict[str, Any] | None = None
) -> Array:
    """See `reference.pool_scatter`."""
    if not modes.deterministic():
        return NotImplemented
    xp = array_module(g)
    (N, C), (H, W) = g.shape[:2], input_size
    images = xp.arange(N * C).reshape(N, C, 1, 1) * (H * W)
    return _sums((images + indices).ravel(), g.ravel(), N * C * H * W).reshape(N, C, H, W)


def kept(x: Array, shape: tuple[int, ...], p: float) -> Array:
    """Made where x is, from one seed that travels; see `reference.kept`.

    Number i is the output of SplitMix64 after i steps from the seed (Steele, Lea and Flood, Fast
    splittable pseudorandom number generators, 2014).
    """
    xp = array_module(x)
    seed = _seed() if context.capture is None else context.capture.number(_seed, np.uint64)
    z = xp.arange(1, math.prod(shape) + 1, dtype=xp.uint64) * xp.uint64(0x9E3779B97F4A7C15) + seed
    z = (z ^ (z >> xp.uint64(30))) * xp.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> xp.uint64(27))) * xp.uint64(0x94D049BB133111EB)
    z = z ^ (z >> xp.uint64(31))
    return (z >= xp.uint64(min(int(p * 2**64), 2**64 - 1))).reshape(shape)


def _seed() -> np.uint64:
    return generator().integers(2**64, dtype=np.uint64)


def _sums(places: Array, values: Array, size: int) -> Array:
    """(size,): the sum of the values of each place, added in an order that never changes.

    Sorted by place, the values of one stand together; each takes over the sum at the distances
    1, 2, 4, ... before it within its place, and the last one has them all (Hillis and Steele, Data
    parallel algorithms, 1986).
    """
    xp = array_module(values)
    if not len(values):
        return xp.zeros(size, values.dtype)
    order = xp.argsort(places, kind="stable")
    places, sums = places[order], values[order]
    step = 1
    while step < len(sums):
        before = xp.where(places[step:] == places[:-step], sums[:-step], 0)
        sums = xp.concatenate([sums[:step], sums[step:] + before])
        step *= 2
    every = xp.arange(size)
    last = xp.maximum(xp.searchsorted(places, every, side="right") - 1, 0)
    return xp.where(places[last] == every, sums[last], 0)
