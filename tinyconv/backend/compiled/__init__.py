"""Kernels compiled by Numba: Python source with the speed of a vendor's library.

Optional: without Numba (``pip install numba``) the plain NumPy of `tinyconv.backend.blocked` does
the work.  Nothing is imported or compiled before the first array that is worth it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

AVAILABLE = importlib.util.find_spec("numba") is not None
MODULES = {
    "add": "elementwise",
    "add_to": "elementwise",
    "relu": "elementwise",
    "relu_backward": "elementwise",
    "band_product": "band",
    "adam": "optim",
    "sgd": "optim",
    "conv2d": "conv",
    "conv2d_input": "conv",
    "conv2d_weight": "conv",
    "cross_entropy": "loss",
    "cross_entropy_backward": "loss",
    "affine": "norm",
    "affine_relu": "norm",
    "batch_norm": "norm",
    "batch_norm_backward": "norm",
    "batch_norm_relu": "norm",
    "batch_norm_relu_backward": "norm",
    "move_statistics": "norm",
    "fixed_norm": "norm",
    "mean": "sums",
    "sum": "sums",
    "max_pool2d": "pool",
    "pool_gather": "pool",
    "pool_scatter": "pool",
    "window_sum": "pool",
    "window_sum_input": "pool",
}
FEW = 2**9  # numbers below which plain NumPy is as fast, and does not have to be compiled
MANY = 2**15  # the same for a mere loop over numbers
SOME = 2**15  # the same for a sum
LEAST = {"elementwise": MANY, "sums": SOME}
# Worth a compiled call also of a few numbers, because NumPy needs several.
ANY_SIZE = {"adam", "cross_entropy", "cross_entropy_backward", "move_statistics", "sgd"}
DTYPES = "fd"  # float32, float64


@cache
def _lazy(name: str) -> Callable[..., Any]:
    """The kernel, of arrays for which there is a compiled one, and for which it is worth it."""
    least, any_size = LEAST.get(MODULES[name], 0), name in ANY_SIZE

    def kernel(x: Any, *args: Any, **params: Any) -> Any:
        if x.size < (least or FEW) or x.dtype.char not in DTYPES:
            return NotImplemented
        return _implementation(name)(x, *args, **params)

    def kernel_of_any_size(x: Any, *args: Any, **params: Any) -> Any:
        first = x[0] if type(x) is list else x
        if (first.size < FEW and "numba" not in sys.modules) or first.dtype.char not in DTYPES:
            return NotImplemented
        return _implementation(name)(x, *args, **params)

    chosen = kernel_of_any_size if any_size else kernel
    chosen.least = least
    return chosen


@cache
def _implementation(name: str) -> Callable[..., Any]:
    implementation: Callable[..., Any] = getattr(
        importlib.import_module(f"{__name__}.{MODULES[name]}"), name
    )
    return implementation


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return _lazy(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
