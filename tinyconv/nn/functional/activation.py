"""Activations, dropout: elementwise functions of one tensor.

``inplace``: the input itself becomes the result, as in PyTorch (`tinyconv.inplace`); it saves no
memory and no time here.
"""

from __future__ import annotations

import math
from typing import Any

from tinyconv.autograd import check_operands, wrap
from tinyconv.backend import backend_of
from tinyconv.errors import not_taken
from tinyconv.inplace import become
from tinyconv.nn.functional.checks import check_images
from tinyconv.ops import elementwise as ops
from tinyconv.ops.elementwise import clamp, erf, expm1, in_float32, where
from tinyconv.ops.reduce import log_softmax as _log_softmax, softmax as _softmax
from tinyconv.samples import function, sample

X = (3, 4)


def relu(input: Any, inplace: bool = False) -> Any:
    """max(x, 0)"""
    return become("relu_", input, ops.relu) if inplace else ops.relu(input)


def sigmoid(input: Any) -> Any:
    """1 / (1 + e^-x)"""
    return ops.sigmoid(input)


def tanh(input: Any) -> Any:
    """Hyperbolic tangent."""
    return ops.tanh(input)


def softplus(input: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """log(1 + e^(beta x)) / beta; x itself where beta x > threshold."""
    return ops.softplus(input, beta=beta, threshold=threshold)


@function(sample(X), sample(X, 0.3), takes="floats")
def leaky_relu(input: Any, negative_slope: float = 0.01, inplace: bool = False) -> Any:
    """x where x > 0, else negative_slope x"""
    if inplace:
        return become("leaky_relu_", input, leaky_relu, negative_slope)
    return where(input > 0, input, input * negative_slope)


@function(sample(X), sample(X, 0.7), takes="floats")
def elu(input: Any, alpha: float = 1.0, inplace: bool = False) -> Any:
    """x where x > 0, else alpha (e^x - 1)"""
    if inplace:
        return become("elu_", input, elu, alpha)
    return where(input <= 0, alpha * expm1(clamp(input, max=0.0)), input)  # NaN: slope 1


@function(sample(X), sample(X, approximate="tanh"), takes="floats")
@in_float32
def gelu(input: Any, approximate: str = "none") -> Any:
    """x Phi(x), Phi the normal distribution function; "tanh" is Hendrycks and Gimpel's form."""
    if approximate == "tanh":
        inner = math.sqrt(2 / math.pi) * (input + 0.044715 * input**3)
        return 0.5 * input * (1 + tanh(inner))
    if approximate != "none":
        raise ValueError(f"gelu: approximate={approximate!r} is neither 'none' nor 'tanh'")
    return 0.5 * input * (1 + erf(input * math.sqrt(0.5)))


@function(sample(X), takes="floats")
def silu(input: Any, inplace: bool = False) -> Any:
    """x sigmoid(x)"""
    if inplace:
        return become("silu_", input, silu)
    return input * sigmoid(input)


@function(sample(X), sample(X, -0.5, 0.75), takes="floats")
def hardtanh(input: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Any:
    """x limited to [min_val, max_val]; at a limit the gradient is 0, as in PyTorch."""
    if inplace:
        return become("hardtanh_", input, hardtanh, min_val, max_val)
    check_operands("hardtanh", (input, min_val, max_val))
    if min_val > max_val:
        raise ValueError(f"hardtanh: min_val {min_val} is above max_val {max_val}; exchange them")
    beyond = (input <= min_val) | (input >= max_val)  # NaN is not: its slope is 1, as in PyTorch
    return where(beyond, clamp(input.detach(), min=min_val, max=max_val), input)


@function(sample(X), takes="floats")
def relu6(input: Any, inplace: bool = False) -> Any:
    """x limited to [0, 6]"""
    return hardtanh(input, 0.0, 6.0, inplace)


@function(sample(X, dim=1), sample((2, 3, 4), 1), takes="floats")
def softmax(input: Any, dim: int | None = None, dtype: Any = None) -> Any:
    """e^x / sum e^x along ``dim``, which should be given; None guesses as PyTorch does."""
    return _softmax(input if dtype is None else input.to(dtype), dim=_guess(input, dim))


@function(sample(X, dim=1), sample((2, 3, 4), 1), takes="floats")
def log_softmax(input: Any, dim: int | None = None, dtype: Any = None) -> Any:
    """log softmax along ``dim``, without overflow."""
    return _log_softmax(input if dtype is None else input.to(dtype), dim=_guess(input, dim))


def _guess(x: Any, dim: int | None) -> int:
    """The channel axis: 1 where there is a batch axis before it."""
    if dim is not None:
        return dim
    return 0 if x.ndim in (0, 1, 3) else 1


def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Each entry is 0 with probability p, else divided by 1 - p; the input itself in evaluation."""
    if inplace:
        return become("dropout_", input, dropout, p, training)
    return _dropped("dropout", input, p, training, input.shape)


def dropout2d(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Whole channels, (H, W) planes of an (N, C, H, W) or (C, H, W) input, are dropped."""
    if inplace:
        return become("dropout2d_", input, dropout2d, p, training)
    if input.ndim != 3:
        check_images("dropout2d", input)
    return _dropped("dropout2d", input, p, training, (*input.shape[:-2], 1, 1))


def _dropped(name: str, x: Any, p: float, training: bool, shape: tuple[int, ...]) -> Any:
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: p is {p}, a probability lies in 0..1")
    if not training or p == 0:
        return x
    if x.dtype.kind != "f":
        raise not_taken(name, "input", x.dtype)
    keep = wrap(backend_of(x.array).kept(x.array, shape, p))
    return x * (keep.to(x.dtype) * (1 / (1 - p) if p < 1 else 0.0))
