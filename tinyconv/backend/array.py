"""Which library does an array belong to?  One dictionary look-up on its type."""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeAlias, TypeVar

import numpy as np

# numpy.ndarray or cupy.ndarray: the two share an interface, not a base class
Array: TypeAlias = Any
Kernel = TypeVar("Kernel", bound=Callable[..., Any])

_MODULES: dict[type, ModuleType] = {np.ndarray: np, float: np, int: np, bool: np}


def array_module(x: Array) -> Any:
    """The namespace (``numpy``, ``cupy``) whose functions accept ``x``.

    Raises TypeError for anything that is not an array or a number.
    """
    try:
        return _MODULES[type(x)]
    except KeyError:
        return _discover(type(x))


def is_array(x: object) -> bool:
    """Is x an array, or a number, that tinyconv computes with?"""
    try:
        array_module(x)
    except TypeError:
        return False
    return True


def register_array_type(array_type: type, module: ModuleType) -> None:
    """Tell `array_module` that arrays of ``array_type`` are handled by ``module``."""
    _MODULES[array_type] = module


def complete(kernel: Kernel) -> Kernel:
    """Mark a kernel that covers every case, so that no other layer need be asked."""
    kernel.complete = True  # type: ignore[attr-defined]
    return kernel


def _discover(array_type: type) -> ModuleType:
    if issubclass(array_type, (np.ndarray, np.generic)):
        register_array_type(array_type, np)
        return np
    if array_type.__module__.partition(".")[0] == "cupy" and array_type.__name__ == "ndarray":
        register_array_type(array_type, sys.modules["cupy"])  # whoever made the array imported it
        return sys.modules["cupy"]
    raise TypeError(
        f"a {array_type.__name__} is not an array that tinyconv computes with; "
        "make it a tensor first: tc.tensor(value)"
    )
