"""What nn, optim and data do in several steps and a GPU does in one launch: the references.

Plain array code that runs unchanged on NumPy and CuPy, as in `tinyconv.backend.reference`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyconv.backend import sums
from tinyconv.backend.array import Array, array_module


def cross_entropy(
    x: Array, targets: Array, *, reduction: str, ignore_index: int
) -> tuple[Array, Array, Array, Array | None]:
    """-log softmax(x) at the targets (R,), and what its gradient reads.

    x (R,C) logits, targets (R,) integers; log softmax is x - largest - logsum.  An ignored row
    costs 0, a target that is no class NaN: looking for it to raise an error would stop the GPU.

    Returns the losses (R,), or their "sum" or "mean" over the rows that count, (); largest and
    logsum, (R,); and for a mean how many rows count, () int64.
    """
    xp = array_module(x)
    dtype, x = x.dtype, sums.wide(x)
    largest = x.max(1)
    logsums = xp.log(sums.sum(xp.exp(x - largest[:, None]), 1, False, None))
    known, safe = _classes(x, targets)
    at_target = xp.take_along_axis(x, safe[:, None], 1)[:, 0]
    losses = xp.where(known, largest - at_target + logsums, xp.nan)
    losses = xp.where(targets == ignore_index, 0, losses)
    if reduction == "none":
        return sums.cast(losses, dtype), largest, logsums, None
    total = sums.sum(losses, None, False, np.float64)
    if reduction == "sum":
        return sums.cast(total, dtype), largest, logsums, None
    rows = (targets != ignore_index).sum()
    with np.errstate(invalid="ignore"):  # the mean of nothing is NaN
        return sums.cast(total / rows, dtype), largest, logsums, rows


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
    """g (softmax(x) - 1 at the target): (R,C), given the gradient g of the losses, (R,) or ().

    rows: what g is divided by, if it is that of a mean.
    """
    xp = array_module(x)
    dtype, x = x.dtype, sums.wide(x)
    known, safe = _classes(x, targets)
    if rows is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            g = sums.wide(g) / rows
    g = xp.where(targets == ignore_index, 0, xp.where(known, g, xp.nan)).astype(x.dtype, copy=False)
    dx = xp.exp(x - (largest + logsums)[:, None])
    dx *= g[:, None]
    dx[xp.arange(len(x)), safe] -= g
    return sums.cast(dx, dtype)


def _classes(x: Array, targets: Array) -> tuple[Array, Array]:
    """Which targets are classes of x (R,C), and the targets with 0 for the others."""
    known = (targets >= 0) & (targets < x.shape[1])
    return known, array_module(x).where(known, targets, 0)


def move_statistics(
    running_mean: Array,
    running_var: Array,
    mean: Array,
    var: Array,
    seen: Array | None,
    *,
    momentum: float | None,
    unbias: float,
) -> None:
    """running <- (1 - momentum) running + momentum now, in place; var counts `unbias` times.

    seen: () int64, how many batches there were; counted up.  momentum None: 1 / seen, which makes
    the running statistics the mean over all batches.
    """
    if seen is not None:
        seen += 1
    share: Any = momentum
    if seen is not None and momentum is None:
        share = 1.0 / seen.astype(mean.dtype)
    for running, now in ((running_mean, mean), (running_var, var * unbias)):
        running *= 1 - share
        running += share * now


def gather_images(images: Array, indices: Array, *, mean: float, std: float) -> Array:
    """Grey images (count,H,W) uint8 at indices (B,), normalised: (B,1,H,W) float32.

    (grey / 255 - mean) / std in float32, as torchvision's ToTensor and Normalize.
    """
    return (images[indices][:, None].astype("float32") / 255 - mean) / std
