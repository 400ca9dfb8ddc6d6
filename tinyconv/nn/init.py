"""Filling tensors before training.  Names, arguments and distributions are torch.nn.init's.

Every function writes into its tensor and returns it.  The numbers come from tinyconv's one random
stream and are drawn in float64 on the host, so that every dtype and device starts from the same.

References: Glorot and Bengio, Understanding the difficulty of training deep feedforward neural
networks, 2010 (Xavier); He et al., Delving deep into rectifiers, 2015 (Kaiming).
"""

import math
from typing import Any

import numpy as np

from tinyconv.autograd import no_grad
from tinyconv.backend import backend_of
from tinyconv.errors import ShapeError
from tinyconv.random import generator
from tinyconv.tensor import Tensor

_GAINS = {
    "linear": 1.0, "conv1d": 1.0, "conv2d": 1.0, "conv_transpose1d": 1.0, "conv_transpose2d": 1.0,
    "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4,
}


def _write(tensor: Tensor, values: Any) -> Tensor:
    with no_grad():
        return tensor.copy_(backend_of(tensor.array).xp.asarray(values))


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Uniform in [a, b)."""
    return _write(tensor, generator().uniform(a, b, tensor.shape))


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Normal with the given mean and standard deviation."""
    return _write(tensor, generator().normal(mean, std, tensor.shape))


def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0
) -> Tensor:
    """Normal, cut off outside [a, b].

    By rejection: draw uniformly, keep with the probability that the density gives, redraw the rest.
    """
    low, high = max(a, mean - 8 * std), min(b, mean + 8 * std)  # beyond 8 std lies 1e-15 of it
    if low >= high:
        raise ValueError(f"trunc_normal_: [{a}, {b}] lies more than 8 * {std} from the mean {mean}")
    highest = (min(max(mean, low), high) - mean) ** 2
    out = np.empty(tensor.numel())
    pending = np.arange(out.size)
    while pending.size:
        x = out[pending] = generator().uniform(low, high, pending.size)
        accepted = np.exp((highest - (x - mean) ** 2) / (2 * std**2))
        pending = pending[generator().random(x.size) >= accepted]
    return _write(tensor, out.reshape(tensor.shape))


def constant_(tensor: Tensor, val: float) -> Tensor:
    """``val`` everywhere."""
    with no_grad():
        return tensor.fill_(val)


def ones_(tensor: Tensor) -> Tensor:
    """Ones."""
    return constant_(tensor, 1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """Zeros."""
    return constant_(tensor, 0.0)


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """By how much a non-linearity must be made up for to keep the variance.

    param: the negative slope of "leaky_relu" (0.01).
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2))
    if nonlinearity not in _GAINS:
        known = ", ".join([*_GAINS, "leaky_relu"])
        raise ValueError(f"calculate_gain: {nonlinearity!r} is none of {known}")
    return _GAINS[nonlinearity]


def fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    """How many inputs one output sums, and how many outputs one input reaches.

    For a weight (O, C/groups, KH, KW): C/groups * KH * KW and O * KH * KW.
    """
    if tensor.ndim < 2:
        raise ShapeError("fan", f"needs a weight (out, in, ...), got {tensor.shape}")
    out, into, *kernel = tensor.shape
    return into * math.prod(kernel), out * math.prod(kernel)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Uniform in +-gain * sqrt(6 / (fan_in + fan_out))."""
    bound = gain * math.sqrt(6 / sum(fan_in_and_fan_out(tensor)))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Normal with std gain * sqrt(2 / (fan_in + fan_out))."""
    return normal_(tensor, 0.0, gain * math.sqrt(2 / sum(fan_in_and_fan_out(tensor))))


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"kaiming: mode {mode!r} is neither 'fan_in' nor 'fan_out'")
    fan = fan_in_and_fan_out(tensor)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def kaiming_uniform_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Uniform in +-gain * sqrt(3 / fan); a is the negative slope of "leaky_relu"."""
    bound = math.sqrt(3) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Normal with std gain / sqrt(fan); a is the negative slope of "leaky_relu"."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity))


def default_(weight: Tensor, bias: Tensor | None) -> None:
    """What PyTorch's Linear and convolutions start from: both uniform in +-1 / sqrt(fan_in).

    PyTorch writes it as kaiming_uniform_(weight, a=sqrt(5)), which is the same.
    """
    bound = 1 / math.sqrt(fan_in_and_fan_out(weight)[0])
    uniform_(weight, -bound, bound)
    if bias is not None:
        uniform_(bias, -bound, bound)
