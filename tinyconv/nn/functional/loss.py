"""Losses.  reduction: "mean", "sum" or "none", as in PyTorch."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np

from tinyconv.autograd import is_tensor, op, wrap
from tinyconv.backend import backend_of
from tinyconv.errors import DTypeError, ShapeError, not_a_tensor, not_taken
from tinyconv.nn.functional.checks import CASTS, check_positions, check_shape
from tinyconv.ops.elementwise import abs_, clamp, log, log1p, softplus, where
from tinyconv.ops.index import take_along as gather
from tinyconv.ops.loss import cross_entropy as _cross_entropy
from tinyconv.ops.reduce import log_softmax, mean, sum
from tinyconv.ops.shape import permute, reshape, squeeze, unsqueeze
from tinyconv.samples import constants, floats, function, ints, sample

IGNORED = -100
TINY = 1e-12  # PyTorch's, which keeps the derivatives of binary_cross_entropy finite
TARGETS = ints(4, high=3)
PROBABILITIES = floats(3, 4, low=0.05, high=0.95)


def _reduce(loss: Any, reduction: str) -> Any:
    _check_reduction(reduction)
    if reduction == "mean":
        return mean(loss)
    return sum(loss) if reduction == "sum" else loss


def _check_reduction(reduction: str) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction={reduction!r} is none of 'mean', 'sum', 'none'")


# --- classes


@function(
    sample((4, 3), TARGETS),
    sample((4, 3), TARGETS, constants(3), label_smoothing=0.1),
    sample((4, 3), TARGETS, ignore_index=1, reduction="sum"),
    sample((2, 3, 2, 2), ints(2, 2, 2, high=3), reduction="none"),
    sample((4, 3), (4, 3), constants(3), label_smoothing=0.2),
)
def cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    *,
    ignore_index: int = IGNORED,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """-log softmax(input) at the target, from logits (N, C) or (N, C, d1, ...).

    target: classes, integers (N, d1, ...), or probabilities, floats of input's shape.
    weight: (C,), one per class; "mean" divides by the weights used.
    label_smoothing: this share of the target is spread over all classes.
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing is {label_smoothing}, it lies in 0..1")
    target = _checked("cross_entropy", input, target)
    axis = 1 if input.ndim > 1 else 0
    check_shape("cross_entropy", "weight", weight, (input.shape[axis],))
    classes = target.dtype.kind != "f"
    if classes and weight is None and not label_smoothing and input.dtype.kind == "f":
        return _of_classes(input, target, reduction, ignore_index)
    log_p = log_softmax(input, dim=axis)
    if not classes and ignore_index >= 0:
        raise ValueError(f"cross_entropy: the target holds probabilities, so ignore_index="
                         f"{ignore_index} names no class of it; leave it out")
    if not classes:
        return _against_probabilities(log_p, target, weight, reduction, label_smoothing)
    picked, used = _pick("cross_entropy", log_p, target, weight, ignore_index)
    if not label_smoothing:
        return _weighed(-picked, used, reduction)
    weighed = log_p if weight is None else log_p * _per_class(weight, log_p)
    spread = sum(weighed, dim=axis) / log_p.shape[axis]
    spread = where(target == ignore_index, 0.0, spread)
    return _weighed(-(1 - label_smoothing) * picked - label_smoothing * spread, used, reduction)


@function(
    sample((4, 3), TARGETS),
    sample((4, 3), TARGETS, constants(3), reduction="sum"),
    sample((2, 3, 2, 2), ints(2, 2, 2, high=3), ignore_index=2),
)
def nll_loss(
    input: Any,
    target: Any,
    weight: Any = None,
    *,
    ignore_index: int = IGNORED,
    reduction: str = "mean",
) -> Any:
    """-input at the target, input being log-probabilities (N, C) or (N, C, d1, ...)."""
    target = _checked("nll_loss", input, target)
    check_shape("nll_loss", "weight", weight, (input.shape[1 if input.ndim > 1 else 0],))
    picked, used = _pick("nll_loss", input, target, weight, ignore_index)
    return _weighed(-picked, used, reduction)


def _checked(name: str, input: Any, target: Any) -> Any:
    """The target as a Tensor, NumPy's integers included; errors for what are no logits."""
    if isinstance(target, np.ndarray):
        target = wrap(target)
    for what, value in (("input", input), ("target", target)):
        if not is_tensor(value):
            raise DTypeError(name, not_a_tensor(what, value, what))
    if not input.ndim:
        raise ShapeError(name, "input is a number without an axis; the classes are axis 0 of (C,)")
    if input.dtype.kind == target.dtype.kind == "f" and input.dtype != target.dtype:
        cast = CASTS[str(input.dtype)]
        raise DTypeError(name, f"input is {input.dtype}, target {target.dtype}: target.{cast}()")
    if input.dtype.kind != "f" and target.dtype.kind == "f":
        raise DTypeError(
            name,
            f"input is {input.dtype} and target {target.dtype}: are they "
            f"swapped? {name}(logits, target)",
        )
    if input.dtype.kind != "f":
        raise not_taken(name, "input", input.dtype)
    return target


def _of_classes(logits: Any, target: Any, reduction: str, ignore_index: int) -> Any:
    """The plain case: one operation on rows of logits."""
    _check_reduction(reduction)
    _check_one_each("cross_entropy", logits.shape, target)
    shape = target.shape
    if logits.ndim > 2:  # the classes last, then all places as one axis of rows
        logits = permute(logits, dims=(0, *range(2, logits.ndim), 1))
    if logits.ndim != 2:
        logits = reshape(logits, shape=(math.prod(shape), logits.shape[-1]))
    waits = backend_of(target.array).waits
    safe = target if waits else _without(ignore_index, target)[0]
    _check_classes("cross_entropy", safe, logits.shape[1])
    rows = target if target.ndim == 1 else reshape(target, shape=(-1,))
    loss, *_ = _cross_entropy(logits, rows, reduction=reduction, ignore_index=ignore_index)
    return reshape(loss, shape=shape) if reduction == "none" and loss.shape != shape else loss


def _pick(name: str, log_p: Any, target: Any, weight: Any, ignore_index: int) -> tuple[Any, Any]:
    """Weighed log-probabilities at the targets, and the weights used there (None: all 1)."""
    _check_one_each(name, log_p.shape, target)
    axis = 1 if log_p.ndim > 1 else 0
    safe, ignored = _without(ignore_index, target)
    _check_classes(name, safe, log_p.shape[axis])
    picked = squeeze(gather(log_p, unsqueeze(safe, axis), dim=axis), axis)
    used = None if weight is None else weight[safe.long()]
    if ignored is not None:
        used = where(ignored, 0.0, 1.0 if used is None else used).to(log_p.dtype)
        picked = where(ignored, 0.0, picked)
    if weight is None:
        return picked, used
    return picked * used, used


def _without(ignore_index: int, target: Any) -> tuple[Any, Any]:
    """The target with class 0 where it is to be ignored, and where that is; None: nowhere."""
    ignored = wrap(target.array == ignore_index)
    if backend_of(target.array).waits or ignored.array.any():
        return where(ignored, 0, target), ignored
    return target, None


def _check_one_each(name: str, logits: tuple[int, ...], target: Any) -> None:
    """A class for each place of logits (N, C, d1, ...) or (C,)."""
    axis = 1 if len(logits) > 1 else 0
    expected = logits[:axis] + logits[axis + 1 :]
    if target.shape != expected:
        raise ShapeError(
            name,
            f"logits {logits} want one class each, target {expected}, got {target.shape}"
            + _labels_fix(logits, expected, target),
        )


def _check_classes(name: str, target: Any, classes: int) -> None:
    check_positions(
        name, "target", target, classes, "the logits have {n} classes (0..{last})",
        lambda data, value: _range_fix(data, value, classes),
    )  # fmt: skip


def _labels_fix(logits: tuple[int, ...], expected: tuple[int, ...], target: Any) -> str:
    """What to do about labels of another shape."""
    if math.prod(expected) == target.array.size:
        return f"; target.reshape({expected})"
    if target.shape == logits:
        return f"; that looks one-hot: target.argmax({len(logits) - 1 if len(logits) < 3 else 1})"
    if len(expected) == target.ndim == 1 and target.array.size and expected[0] > target.shape[0]:
        times, rest = divmod(expected[0], target.shape[0])
        if not rest:
            return (f": {times} rows for each label, as after a view(-1, ...) that cuts images "
                    "into pieces; x.flatten(1) keeps the batch")
    return ""


def _range_fix(target: Any, value: int, classes: int) -> str:
    """What to do about a label that is no class."""
    if value in (-1, 255):  # what data sets mark the unknown with
        return f". If that marks what to leave out: ignore_index={value}"
    if value < 0:
        return ""
    most = int(target.max())
    if target.min() == 1 and most == classes:
        return ". The labels count from 1: target - 1"
    return f". Labels up to {most} need a last layer with out_features={most + 1}"


def _weighed(loss: Any, used: Any, reduction: str) -> Any:
    if reduction != "mean" or used is None:
        return _reduce(loss, reduction)
    total = sum(used)
    if backend_of(total.array).waits or total.item():
        return sum(loss) / total
    return sum(loss) * math.nan  # nothing to average; NumPy would warn of 0 / 0


def _per_class(weight: Any, log_p: Any) -> Any:
    return reshape(weight, shape=(1, -1) + (1,) * (log_p.ndim - 2)) if log_p.ndim > 1 else weight


def _against_probabilities(
    log_p: Any, target: Any, weight: Any, reduction: str, smoothing: float
) -> Any:
    if target.shape != log_p.shape:
        raise ShapeError(
            "cross_entropy",
            f"target is {target.dtype} and so holds probabilities, but it is {target.shape} and "
            f"the logits are {log_p.shape}; for classes: target.long()",
        )
    axis = 1 if log_p.ndim > 1 else 0
    if smoothing:
        target = target * (1 - smoothing) + smoothing / log_p.shape[axis]
    weighed = log_p if weight is None else log_p * _per_class(weight, log_p)
    loss = -sum(weighed * target, dim=axis)
    if reduction != "mean":
        return _reduce(loss, reduction)
    return sum(loss) / (log_p.array.size // log_p.shape[axis])


# --- distances


def _check_same(name: str, input: Any, target: Any) -> None:
    if input.shape != target.shape:
        fix = ""
        if input.array.size == target.array.size:
            fix = f". The same numbers: target.reshape({input.shape})"
        raise ShapeError(
            name,
            f"input {input.shape} and target {target.shape} differ; broadcasting would compare "
            f"each with many{fix}",
        )
    if input.dtype != target.dtype and input.dtype.kind == target.dtype.kind == "f":
        raise DTypeError(
            name,
            f"input is {input.dtype}, target {target.dtype}: target.{CASTS[str(input.dtype)]}()",
        )


PAIR = ((3, 4), (3, 4))


@function(
    sample(*PAIR), sample(*PAIR, reduction="sum"), sample(*PAIR, reduction="none"), takes="floats"
)
def mse_loss(input: Any, target: Any, *, reduction: str = "mean") -> Any:
    """(input - target)^2"""
    _check_same("mse_loss", input, target)
    difference = input - target
    return _reduce(difference * difference, reduction)


@function(sample(*PAIR), sample(*PAIR, reduction="sum"), takes="floats")
def l1_loss(input: Any, target: Any, *, reduction: str = "mean") -> Any:
    """|input - target|"""
    _check_same("l1_loss", input, target)
    return _reduce(abs_(input - target), reduction)


@function(sample(*PAIR), sample(*PAIR, reduction="none", beta=0.7), takes="floats")
def smooth_l1_loss(input: Any, target: Any, *, reduction: str = "mean", beta: float = 1.0) -> Any:
    """d^2 / (2 beta) where d = |input - target| < beta, else d - beta / 2."""
    if beta < 0:
        raise ValueError(f"smooth_l1_loss: beta is {beta}, it must not be negative")
    if beta == 0:
        return l1_loss(input, target, reduction=reduction)
    return _reduce(_huber("smooth_l1_loss", input, target, beta) / beta, reduction)


@function(sample(*PAIR), sample(*PAIR, reduction="none", delta=0.7), takes="floats")
def huber_loss(input: Any, target: Any, reduction: str = "mean", delta: float = 1.0) -> Any:
    """d^2 / 2 where d = |input - target| < delta, else delta (d - delta / 2)."""
    delta = check_delta("huber_loss", delta)
    return _reduce(_huber("huber_loss", input, target, delta), reduction)


def check_delta(name: str, delta: Any) -> float:
    """Where the Huber loss turns linear; ValueError if that is no positive number."""
    if not isinstance(delta, Real) or not float(delta) > 0:  # nan is not
        raise ValueError(f"{name}: delta is {delta}, it must be a positive number")
    return float(delta)


def _huber(name: str, input: Any, target: Any, delta: float) -> Any:
    _check_same(name, input, target)
    d = input - target
    # |d| by its sign would lose the curvature at d = 0, d^2 beyond delta would overflow
    slope = where(abs_(d) < delta, d, clamp(d.detach(), min=-delta, max=delta))
    return slope * (d - 0.5 * slope)


# --- probabilities


def _check_probabilities(name: str, input: Any, target: Any) -> None:
    _check_same(name, input, target)
    if target.dtype.kind != "f":
        raise DTypeError(name, f"target is {target.dtype}; target.float()")
    if input.dtype.kind != "f":
        raise not_taken(name, "input", input.dtype)


def _logs(p: Any) -> tuple[Any, Any]:
    """log p and log(1 - p), both at least -100 as in PyTorch."""
    log_p = clamp(log(where(p > 0, p, 1.0)), min=-100.0)
    return where(p > 0, log_p, -100.0), where(p < 1, log1p(-where(p < 1, p, 0.0)), -100.0)


@op(name="binary_cross_entropy", takes="floats")
def _binary_cross_entropy(p: Any, t: Any) -> Any:
    """-(t log p + (1 - t) log(1 - p)), entry by entry.

    An operation of its own for the sake of its derivative, in which the infinities cancel.
    """
    log_p, log_q = _logs(p)
    return -(t * log_p + (1 - t) * log_q)


def _by_target(p: Any) -> Any:
    log_p, log_q = _logs(p)
    return log_q - log_p


@op(name="binary_cross_entropy_slope", takes="floats")
def _slope(p: Any, t: Any) -> Any:
    """(p - t) / (p (1 - p)), finite at 0 and 1: the derivative in p."""
    return (p - t) / clamp(p * (1 - p), min=TINY)


def _curvature(p: Any, t: Any) -> Any:
    """t / p^2 + (1 - t) / (1 - p)^2, finite at 0 and 1: what no bound on the slope can hide."""
    return t / (p + TINY) ** 2 + (1 - t) / (1 - p + TINY) ** 2


_slope.defvjp(
    lambda g, _y, p, t: g * _curvature(p, t),
    lambda g, _y, p, _t: -g / clamp(p * (1 - p), min=TINY),
    samples=[sample(PROBABILITIES, PROBABILITIES)],
)
_binary_cross_entropy.defvjp(
    lambda g, _y, p, t: g * _slope(p, t),
    lambda g, _y, p, _t: g * _by_target(p),
    samples=[sample(PROBABILITIES, PROBABILITIES)],
)


@function(
    sample(PROBABILITIES, PROBABILITIES),
    sample(PROBABILITIES, PROBABILITIES, constants(4), reduction="sum"),
    takes="floats",
)
def binary_cross_entropy(
    input: Any, target: Any, weight: Any = None, *, reduction: str = "mean"
) -> Any:
    """-(t log p + (1 - t) log(1 - p)) of probabilities p; logs are at least -100.

    The gradient is (p - t) / max(p (1 - p), 1e-12), as in PyTorch.
    """
    _check_probabilities("binary_cross_entropy", input, target)
    for name, x in (("input", input.array), ("target", target.array)):
        unseen = backend_of(x).waits or not x.size
        if not (unseen or (x.min() >= 0 and x.max() <= 1)):
            raise ShapeError(
                "binary_cross_entropy",
                f"{name} holds {x.min():.4g}..{x.max():.4g}, probabilities lie in 0..1; for "
                "logits: F.binary_cross_entropy_with_logits(input, target)",
            )
    loss = _binary_cross_entropy(input, target)
    return _reduce(loss if weight is None else loss * weight, reduction)


@function(
    sample((3, 4), PROBABILITIES),
    sample((3, 4), PROBABILITIES, constants(4), reduction="none"),
    sample((3, 4), PROBABILITIES, reduction="sum", pos_weight=constants(4)),
    takes="floats",
)
def binary_cross_entropy_with_logits(
    input: Any, target: Any, weight: Any = None, *, reduction: str = "mean", pos_weight: Any = None
) -> Any:
    """`binary_cross_entropy` of sigmoid(input), without overflow.

    pos_weight: multiplies the term of the positive class.
    """
    _check_probabilities("binary_cross_entropy_with_logits", input, target)
    # -log sigmoid(x) = softplus(-x), -log(1 - sigmoid(x)) = softplus(-x) + x
    positive = _softplus(-input)
    if pos_weight is None:
        loss = (1 - target) * input + positive
    else:
        loss = (1 - target) * input + (1 + (pos_weight - 1) * target) * positive
    return _reduce(loss if weight is None else loss * weight, reduction)


def _softplus(x: Any) -> Any:
    """log(1 + e^x), nowhere cut short."""
    return softplus(x, threshold=math.inf)
