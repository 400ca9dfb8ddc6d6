"""Backends: one small object per array library, and its heavy kernels.

A heavy kernel is looked up in the backend's layers from the fastest to the reference.  A layer need
not have every kernel, and a kernel need not cover every case: it returns NotImplemented, and the
next layer's is asked.  So a faster implementation overrides one kernel at a time, and the
reference, written once in plain ``xp`` code, stands behind all of them.

    compiled    register tiles, compiled by Numba where that is installed
    blocked     plain NumPy, block by block so that each stays in cache
    reference   the mathematics
    naive       loops over every multiply-add
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from tinyconv.backend import blocked, compiled, naive, reference, special
from tinyconv.backend.array import Array, array_module, register_array_type
from tinyconv.errors import DeviceError

__all__ = [
    "BACKENDS",
    "Array",
    "Backend",
    "array_module",
    "backend_named",
    "backend_of",
    "kernels",
    "register_array_type",
]


class Backend:
    """One array library.

    device:  the name that users write, "cpu"
    xp:      its namespace (``numpy``)
    layers:  modules of kernels, fastest first; attribute access finds a kernel in them
    """

    def __init__(self, device: str, xp: ModuleType, layers: dict[str, list[ModuleType]]) -> None:
        self.device = device
        self.xp = xp
        self.choices = layers
        self._found: list[str] = []  # kernels that were looked up, now plain attributes
        self.served: Counter[tuple[str, str]] = Counter()  # calls by (kernel, layer)
        self.use("fast")

    def use(self, choice: str) -> None:
        """Pick an implementation: "fast", "reference" or "naive"."""
        for name in self._found:
            del self.__dict__[name]
        self._found = []
        self.choice = choice
        self.layers = self.choices[choice]

    def to_numpy(self, x: Array) -> np.ndarray[Any, Any]:
        """The array in host memory."""
        return np.asarray(x)

    def __getattr__(self, kernel: str) -> Any:
        layers = self.__dict__.get("layers", ())
        found = {
            layer.__name__.rpartition(".")[2]: getattr(layer, kernel)
            for layer in layers
            if hasattr(layer, kernel)
        }
        if not found:
            raise AttributeError(f"backend {self.device!r} has no kernel {kernel!r}")
        first = next(iter(found.values()))
        alone = getattr(first, "complete", len(found) == 1)
        chosen = first if alone else self._first_that_covers(kernel, found)
        if least := getattr(first, "least", 0):
            chosen = self._by_size(least, [*found.values()][1], chosen)
        self.__dict__[kernel] = chosen
        self._found.append(kernel)
        return chosen

    @staticmethod
    def _by_size(least: int, small: Callable[..., Any], large: Callable[..., Any]) -> Any:
        """The first layer does not cover small arrays, and they are too quick for asking it."""
        if not getattr(small, "complete", False):
            return large

        def kernel(x: Array, *args: Any) -> Any:
            return small(x, *args) if x.size < least else large(x, *args)

        return kernel

    def _first_that_covers(
        self, name: str, layers: dict[str, Callable[..., Any]]
    ) -> Callable[..., Any]:
        def kernel(*args: Any, **params: Any) -> Any:
            for layer, implementation in layers.items():
                result = implementation(*args, **params)
                if result is not NotImplemented:
                    self.served[name, layer] += 1
                    return result
            raise NotImplementedError(f"no layer covers this {name}")  # the last covers all

        return kernel


CPU = Backend(
    "cpu",
    np,
    {
        "fast": [*([compiled] if compiled.AVAILABLE else []), blocked, reference, special],
        "numpy": [blocked, reference, special],
        "reference": [reference, special],
        "naive": [naive, reference, special],
    },
)
BACKENDS = {"cpu": CPU}
_OF_MODULE = {np: CPU}
_OF_TYPE = {np.ndarray: CPU}  # the same one look-up shorter, for the overhead of small operations


def backend_of(x: Array) -> Backend:
    """The backend that holds the array ``x``."""
    found = _OF_TYPE.get(type(x))
    return _OF_MODULE[array_module(x)] if found is None else found


def backend_named(device: str | None) -> Backend:
    """The backend of a device name (None means "cpu"); DeviceError names those there are."""
    try:
        return BACKENDS["cpu" if device is None else str(device)]
    except KeyError:
        known = ", ".join(repr(name) for name in BACKENDS)
        raise DeviceError("device", f"no backend for {device!r}; there is {known}") from None


def _choose_from_environment() -> None:
    choice = os.environ.get("TINYCONV_KERNELS", "fast")
    for backend in BACKENDS.values():
        if choice not in backend.choices:
            raise ValueError(f"TINYCONV_KERNELS={choice!r} is none of {', '.join(backend.choices)}")
        backend.use(choice)


_choose_from_environment()


@contextmanager
def _restore(backends: dict[Backend, str]) -> Iterator[None]:
    try:
        yield
    finally:
        for backend, choice in backends.items():
            backend.use(choice)


def kernels(choice: str) -> Any:
    """Pick the implementation of the heavy kernels, conv2d's above all.

    ``tc.kernels("naive")``      loops over every multiply-add: for reading, and as an oracle
    ``tc.kernels("reference")``  windows and a matrix product
    ``tc.kernels("numpy")``      the same in blocks and threads: the fastest without a compiler
    ``tc.kernels("fast")``       the default: compiled by Numba where that is installed

    The environment variable TINYCONV_KERNELS picks what is used from the start.
    Acts at once; used as ``with tc.kernels("naive"):`` it is undone at the end of the block.
    """
    before = {backend: backend.choice for backend in BACKENDS.values()}
    for backend in before:
        if choice not in backend.choices:
            raise ValueError(f"kernels: {choice!r} is none of {', '.join(backend.choices)}")
        backend.use(choice)
    return _restore(before)
