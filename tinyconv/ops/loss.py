"""Softmax cross-entropy, one operation: the loss of nearly every classifier.

    -log softmax(x) at the target        of each row of logits x (R,C); targets (R,)

Taken together the two steps neither overflow nor need the probabilities in memory.  The VJP holds
to every order; a first-order backward uses the fused kernel, which reads what the forward pass
found: each row's largest logit and logarithm of the sum, and how many rows "mean" divides by.
"""

from typing import Any

from tinyconv.autograd import is_tensor, op
from tinyconv.backend import Array, array_module, backend_of
from tinyconv.ops.reduce import softmax
from tinyconv.ops.shape import reshape
from tinyconv.samples import ints, sample


@op(takes="floats", outputs=4, constants=(1, 2, 3))
def cross_entropy(x: Array, targets: Array, *, reduction: str, ignore_index: int) -> Any:
    """The losses (R,) of the rows, or their "sum" or "mean", ().

    Rows whose target is ``ignore_index`` cost 0 and do not count; a target that is no class, NaN.
    As constants what the fused kernel reads: each row's largest logit and logarithm of the sum,
    (R,), and how many rows "mean" divides by, () or None.
    """
    return backend_of(x).cross_entropy(x, targets, reduction=reduction, ignore_index=ignore_index)


def slope(x: Any, targets: Any) -> Any:
    """softmax(x) - 1 at the target: the derivative of each row's loss, (R,C)."""
    xp, targets = _constant(targets)
    at_target = targets[:, None] == xp.arange(x.shape[1])
    return softmax(x, dim=1) - at_target.astype(x.dtype)


def shares(g: Any, x: Any, targets: Any, *, reduction: str, ignore_index: int) -> Any:
    """g for each row, (R,1): 0 for an ignored one, NaN for a target that is no class."""
    xp, targets = _constant(targets)
    known = (targets >= 0) & (targets < x.shape[1])
    share = xp.where(targets == ignore_index, 0.0, xp.where(known, 1.0, xp.nan))
    if reduction == "mean":
        share = share / xp.maximum((targets != ignore_index).sum(), 1)
    return reshape(g, shape=(-1, 1)) * share.astype(g.dtype)[:, None]


def _constant(targets: Any) -> Any:
    """The array of targets, which no gradient reaches, and its library."""
    array = targets.array if is_tensor(targets) else targets
    return array_module(array), array


cross_entropy.defvjp(
    lambda g, _y, _m, _s, _n, x, targets, **how: shares(g, x, targets, **how) * slope(x, targets),
    None,
    fused=lambda g, _y, largest, logsums, rows, x, targets, *, reduction, ignore_index: (
        backend_of(x).cross_entropy_backward(
            g, x, targets, largest, logsums, rows, ignore_index=ignore_index
        ),
        None,
    ),
    samples=[
        sample((4, 3), ints(4, high=3), reduction="none", ignore_index=-100),
        sample((4, 3), ints(4, high=3), reduction="mean", ignore_index=0),
        sample((2, 5), ints(2, high=5), reduction="sum", ignore_index=-100),
    ],
)
