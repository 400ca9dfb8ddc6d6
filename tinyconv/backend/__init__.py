"""Backends: one small object per array library, and its heavy kernels.

A heavy kernel is looked up in the backend's layers from the fastest to the reference.  A layer need
not have every kernel, and a kernel need not cover every case: it returns NotImplemented, and the
next layer's is asked.  So a faster implementation overrides one kernel at a time, and the
reference, written once in plain ``xp`` code, stands behind all of them.

    compiled    register tiles, compiled by Numba where that is installed
    blocked     plain NumPy, block by block so that each stays in cache
    reference   the mathematics; `fused`, `special` and `sums` have more of it
    naive       loops over every multiply-add

CuPy's backend is `tinyconv.backend.cuda`; nothing imports CuPy before it is asked for.
"""

from __future__ import annotations

import inspect
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from tinyconv.backend import blocked, compiled, fused, naive, reference, special, sums
from tinyconv.backend.array import Array, array_module, register_array_type
from tinyconv.backend.device import device

__all__ = [
    "BACKENDS",
    "Array",
    "Backend",
    "array_module",
    "backend_named",
    "backend_of",
    "connect",
    "device",
    "disconnect",
    "kernels",
    "moved",
    "register_array_type",
]


class Backend:
    """One array library.

    device:  what users write, "cpu"
    xp:      its namespace (``numpy``)
    layers:  modules of kernels, fastest first; attribute access finds a kernel in them
    waits:   does it cost time to look at a value?  A GPU has to finish first what it was given
    """

    waits = False

    def __init__(self, name: str, xp: ModuleType, layers: dict[str, list[ModuleType]]) -> None:
        self.device = device(name)
        self.xp = xp
        self.choices = layers
        self.reasons: dict[str, str] = {}  # why a faster layer is not in use, by its name
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

    def synchronize(self) -> None:
        """Wait until everything that was begun is done."""

    def use_precision(self, precision: str) -> None:
        """What `set_float32_precision` asks for; a CPU always computes in full."""

    def convolutions(self) -> str:
        """Which of the layers convolves."""
        layer = next(layer for layer in self.layers if hasattr(layer, "conv2d"))
        name = layer.__name__.rpartition(".")[2]
        return f"{name} ({layer.about(self.xp)})" if hasattr(layer, "about") else name

    def check_index(self, index: int) -> None:
        """DeviceError unless this is the present one of several devices."""

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

        # Not one with *args for both, which takes as long as a NumPy call on a few numbers.
        if len(inspect.signature(small).parameters) == 1:
            return lambda x: small(x) if x.size < least else large(x)
        return lambda x, y: small(x, y) if x.size < least else large(x, y)

    def _first_that_covers(
        self, name: str, layers: dict[str, Callable[..., Any]]
    ) -> Callable[..., Any]:
        (layer, first), *others = layers.items()
        by_first = name, layer

        def kernel(*args: Any, **params: Any) -> Any:
            result = first(*args, **params)
            if result is not NotImplemented:
                self.served[by_first] += 1
                return result
            for layer, implementation in others:
                result = implementation(*args, **params)
                if result is not NotImplemented:
                    self.served[name, layer] += 1
                    return result
            raise NotImplementedError(f"no layer covers this {name}")  # the last covers all

        return kernel


_PLAIN = [reference, fused, special, sums]
CPU = Backend(
    "cpu",
    np,
    {
        "fast": [*([compiled] if compiled.AVAILABLE else []), blocked, *_PLAIN],
        "numpy": [blocked, *_PLAIN],
        "reference": _PLAIN,
        "naive": [naive, *_PLAIN],
    },
)
BACKENDS = {"cpu": CPU}
_OF_TYPE = {np.ndarray: CPU}  # one look-up, for the overhead of small operations


def backend_of(x: Array) -> Backend:
    """The backend that holds the array ``x``."""
    try:
        return _OF_TYPE[type(x)]
    except KeyError:
        pass
    return CPU if array_module(x) is np else backend_named("cuda")


def backend_named(name: str | None) -> Backend:
    """The backend of a device (None means "cpu"), connected if it was not.

    DeviceError for a name that is none, and for a GPU that cannot be had: it says what was tried.
    """
    if name is None or name == "cpu":
        return CPU
    wanted = device(name)
    if wanted.type not in BACKENDS:
        connect(wanted.type)
    if wanted.index:
        BACKENDS[wanted.type].check_index(wanted.index)
    return BACKENDS[wanted.type]


def connect(kind: str) -> Backend:
    """Make the backend "cuda" known: CuPy is imported here, and nowhere before."""
    from tinyconv.backend.cuda import connection  # not needed without a GPU

    made = connection.open_backend()
    made.use(CPU.choice)
    BACKENDS[kind] = _OF_TYPE[made.xp.ndarray] = made
    register_array_type(made.xp.ndarray, made.xp)
    return made


def disconnect(kind: str) -> None:
    """Forget a connected backend; the next who asks for it connects anew."""
    made = BACKENDS.pop(kind)
    del _OF_TYPE[made.xp.ndarray]


def moved(x: Array, backend: Backend) -> Array:
    """x in that backend's memory: itself where it is there already."""
    source = backend_of(x)
    return x if source is backend else backend.xp.asarray(source.to_numpy(x))


def _choose_from_environment() -> None:
    choice = os.environ.get("TINYCONV_KERNELS", "fast")
    if choice not in CPU.choices:
        raise ValueError(f"TINYCONV_KERNELS={choice!r} is none of {', '.join(CPU.choices)}")
    CPU.use(choice)


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
