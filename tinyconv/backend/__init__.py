"""Backends: one small object per array library, and its heavy kernels.

A heavy kernel is looked up in the backend's layers from the fastest to the reference.  A layer need
not have every kernel, and a kernel need not cover every case: it returns NotImplemented, and the
next layer's is asked.  So a faster implementation overrides one kernel at a time, and the
reference, written once in plain ``xp`` code, stands behind all of them.

    compiled    register tiles, compiled by Numba where that is installed
    blocked     plain NumPy, block by block so that each stays in cache
    reference   the mathematics; `fused`, `special`, `sums` and `band` have more of it
    naive       loops over every multiply-add

CuPy's backend is `tinyconv.backend.cuda`; nothing imports CuPy before it is asked for.
"""

from __future__ import annotations

import functools
import inspect
import os
import threading
from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from tinyconv.backend import band, blocked, compiled, fused, naive, reference, special, sums
from tinyconv.backend.array import Array, array_module, register_array_type
from tinyconv.backend.device import device
from tinyconv.errors import READ_ONLY, GraphError

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


# Kernels that write into arrays that they are given, and which arguments those are.
WRITTEN = {"adam": (0, 2, 3, 4), "add_to": (0,), "move_statistics": (0, 1, 4), "sgd": (0, 2)}


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
        self.choice = choice
        self.layers = self.choices[choice]
        found, self._found = self._found, []
        for name in found:
            self.__dict__.pop(name, None)  # another thread may have been here

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
        if kernel in WRITTEN:
            chosen = self._refusing_read_only(kernel, chosen)
        self._found.append(kernel)
        self.__dict__[kernel] = chosen
        if self.layers is not layers:  # another thread made another choice meanwhile
            self.__dict__.pop(kernel, None)
        return chosen

    @staticmethod
    def _refusing_read_only(name: str, chosen: Callable[..., Any]) -> Callable[..., Any]:
        """Compiled kernels write to an address: a read-only memory map would end the process."""
        places = WRITTEN[name]

        def kernel(*args: Any, **params: Any) -> Any:
            for i in places:
                given = args[i]
                for x in given if type(given) is list else (given,):
                    # CuPy's arrays have no such flag: none of them is read-only
                    if x is not None and not getattr(x.flags, "writeable", True):
                        raise GraphError(name, READ_ONLY)
            return chosen(*args, **params)

        return kernel

    @staticmethod
    def _by_size(least: int, small: Callable[..., Any], large: Callable[..., Any]) -> Any:
        """The first layer does not cover small arrays, and they are too quick for asking it."""
        if not getattr(small, "complete", False):
            return large

        # Not one with *args for all, which takes as long as a NumPy call on a few numbers.
        operands = len(inspect.signature(small).parameters)
        if operands == 1:
            return lambda x: small(x) if x.size < least else large(x)
        if operands == 4:
            return lambda x, y, z, w: small(x, y, z, w) if x.size < least else large(x, y, z, w)
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


_PLAIN = [reference, fused, special, sums, band]
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


class kernels:
    """Pick the implementation of the heavy kernels, conv2d's above all.

    ``tc.kernels("naive")``      loops over every multiply-add: for reading, and as an oracle
    ``tc.kernels("reference")``  windows and a matrix product
    ``tc.kernels("numpy")``      the same in blocks and threads: the fastest without a compiler
    ``tc.kernels("fast")``       the default: compiled by Numba where that is installed

    The environment variable TINYCONV_KERNELS picks what is used from the start.
    Acts at once, on all threads; used as ``with tc.kernels("naive"):`` it is undone at the end of
    the block, and as a decorator it acts during each call.  Of blocks that overlap, in two threads
    say, the last one to begin decides, and after the last one to end all is as before the first.
    ValueError for any other choice, TypeError as a decorator of a generator or async function.
    """

    _lock = threading.RLock()  # not Lock: a signal handler may choose, too
    _open: ClassVar[list[dict[Backend, str]]] = []  # of each block, what its end brings back

    def __init__(self, choice: str) -> None:
        for backend in BACKENDS.values():
            if choice not in backend.choices:
                raise ValueError(f"kernels: {choice!r} is none of {', '.join(backend.choices)}")
        self.choice = choice
        self.before = {backend: backend.choice for backend in BACKENDS.values()}
        self.blocks: list[dict[Backend, str]] = []  # those of `_open` that are this object's
        self._use()

    def _use(self) -> None:
        for backend in self.before:
            backend.use(self.choice)

    def _end(self, block: dict[Backend, str]) -> None:
        """Bring back what was there before; where a later block goes on, at that one's end."""
        with self._lock:
            later = next((i for i, b in enumerate(self._open, 1) if b is block), 0)
            if not later:  # it was interrupted before it began
                return
            del self._open[later - 1]
            if later <= len(self._open):
                self._open[later - 1].update(block)
            else:
                for backend, choice in block.items():
                    backend.use(choice)

    def __enter__(self) -> None:
        with self._lock:
            block = dict(self.before)
            self.blocks.append(block)
            self._open.append(block)
            self._use()

    def __exit__(self, *_: object) -> None:
        self._end(self.blocks.pop())

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        for backend, choice in self.before.items():  # it was not to act at once
            backend.use(choice)
        kinds = inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction
        if any(is_kind(function) for is_kind in kinds):
            raise TypeError("kernels: the choice is for all threads, so it cannot come and go with "
                            f"the steps of {function.__name__}; write `with tc.kernels(...):`")

        @functools.wraps(function)
        def decorated(*args: Any, **kwargs: Any) -> Any:
            block: dict[Backend, str] = {}
            try:
                with self._lock:
                    self._open.append(block)
                    block |= {backend: backend.choice for backend in BACKENDS.values()}
                    self._use()
                return function(*args, **kwargs)
            finally:
                self._end(block)

        return decorated
