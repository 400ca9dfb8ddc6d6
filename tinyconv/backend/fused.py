"""What nn, optim and data do in several steps and a GPU does in one launch: the references.

Plain array code that runs unchanged on NumPy and CuPy, as in `tinyconv.backend.reference`.
"""

from __future__ import annotations

from tinyconv.backend.array import Array, array_module


def cross_entropy(x: Array, targets: Array, *, ignore_index: int) -> tuple[Array, Array, Array]:
    """-log softmax(x) at the targets (R,), and what its gradient reads: two more numbers per row.

    x (R,C) logits, targets (R,) int64; log softmax is x - largest - logsum.  An ignored row
    costs 0, a target that is no class NaN: looking for it to raise an error would stop the GPU.
    """
    xp = array_module(x)
    largest = x.max(1)
    logsums = xp.log(xp.exp(x - largest[:, None]).sum(1))
    known, safe = _classes(x, targets)
    at_target = xp.take_along_axis(x, safe[:, None], 1)[:, 0]
    losses = xp.where(known, largest - at_target + logsums, xp.nan)
    return xp.where(targets == ignore_index, 0, losses).astype(x.dtype), largest, logsums


def cross_entropy_backward(
    g: Array, x: Array, targets: Array, largest: Array, logsums: Array, *, ignore_index: int
) -> Array:
    """g (softmax(x) - 1 at the target): (R,C), given the gradient g (R,) of the losses."""
    xp = array_module(x)
    known, safe = _classes(x, targets)
    at_target = xp.arange(x.shape[1]) == safe[:, None]
    dx = g[:, None] * (xp.exp(x - largest[:, None] - logsums[:, None]) - at_target)
    dx = xp.where(known[:, None], dx, xp.nan)
    return xp.where((targets == ignore_index)[:, None], 0, dx).astype(x.dtype)


def _classes(x: Array, targets: Array) -> tuple[Array, Array]:
    """Which targets are classes of x (R,C), and the targets with 0 for the others."""
    known = (targets >= 0) & (targets < x.shape[1])
    return known, array_module(x).where(known, targets, 0)


def move_statistics(
    running_mean: Array,
    running_var: Array,
    mean: Array,
    var: Array,
    *,
    momentum: float,
    unbias: float,
) -> None:
    """running <- (1 - momentum) running + momentum now, in place; var counts `unbias` times."""
    for running, now in ((running_mean, mean), (running_var, var * unbias)):
        running *= 1 - momentum
        running += momentum * now


def gather_images(images: Array, indices: Array, *, mean: float, std: float) -> Array:
    """Grey images (count,H,W) uint8 at indices (B,), normalised: (B,1,H,W) float32.

    (grey / 255 - mean) / std in float32, as torchvision's ToTensor and Normalize.
    """
    return (images[indices][:, None].astype("float32") / 255 - mean) / std
