"""Softmax cross-entropy of few classes: one loop where NumPy needs a dozen calls."""

from __future__ import annotations

import numpy as np

from tinyconv.backend.array import Array
from tinyconv.backend.compiled.jit import kernel

MANY = 2**6  # classes from which on NumPy's vectorised exp is the faster one


@kernel
def _losses(x, targets, ignored, losses, largests, logsums):
    """Fills losses, largests and logsums (R,); returns the sum, in float64, and how many count."""
    rows, classes = x.shape
    total, counted = 0.0, 0
    for r in range(rows):
        largest = x[r, 0]
        for c in range(1, classes):
            largest = max(largest, x[r, c])
        summed = 0.0
        for c in range(classes):
            summed += np.exp(x[r, c] - largest)
        largests[r], logsums[r] = largest, np.log(summed)
        target = targets[r]
        if target == ignored:
            losses[r] = 0
            continue
        known = 0 <= target < classes
        losses[r] = largest - x[r, target] + logsums[r] if known else np.nan
        total += losses[r]
        counted += 1
    return total, counted


@kernel
def _gradients(g, x, targets, ignored, largests, logsums, share, dx):
    """g: (R,), or (1,) for all rows."""
    rows, classes = x.shape
    for r in range(rows):
        target = targets[r]
        known = 0 <= target < classes
        factor = g[r if len(g) > 1 else 0] * share if known else g.dtype.type(np.nan)
        if target == ignored:
            factor = g.dtype.type(0)
        shift = largests[r] + logsums[r]
        for c in range(classes):
            dx[r, c] = factor * np.exp(x[r, c] - shift)
        if known:
            dx[r, target] -= factor


def _covers(x: Array, targets: Array) -> bool:
    return 0 < x.shape[1] < MANY and targets.dtype == np.int64


def cross_entropy(
    x: Array, targets: Array, *, reduction: str, ignore_index: int
) -> tuple[Array, Array, Array, Array | None]:
    """See `fused.cross_entropy`."""
    if not _covers(x, targets):
        return NotImplemented
    losses, largest, logsums = (np.empty(len(x), x.dtype) for _ in range(3))
    total, rows = _losses(x, targets, ignore_index, losses, largest, logsums)
    if reduction == "none":
        return losses, largest, logsums, None
    if reduction == "sum":
        return np.array(total, x.dtype), largest, logsums, None
    mean = total / rows if rows else np.nan
    return np.array(mean, x.dtype), largest, logsums, np.array(rows)


def cross_entropy_backward(
    g: Array,
    x: Array,
    targets: Array,
    largest: Array,
    logsums: Array,
    rows: Array | None,
    *,
    ignore_index: int,
) -> Array:
    """See `fused.cross_entropy_backward`."""
    if not _covers(x, targets):
        return NotImplemented
    dx = np.empty(x.shape, x.dtype)
    share = x.dtype.type(1 if rows is None else 1 / max(rows, 1))
    _gradients(g.reshape(-1), x, targets, ignore_index, largest, logsums, share, dx)
    return dx
