"""A strict fake of CuPy: NumPy behind a wrapper that refuses what CuPy 14.2 refuses.

A test that passes on it has a good chance on a GPU, and it says what a GPU never says:

- where CuPy raises, so does the fake: host arrays and lists as operands, `where=` in a ufunc, names
  and keywords that CuPy lacks (read off the real wheel, cupy_14_2_0_api.json), dtypes without a
  loop, implicit conversion to NumPy;
- where CuPy goes on with a wrong number, the fake raises `Undefined`: an index out of range,
  positions named twice in an assignment, overlapping operands, memory that is not the array's;
  new memory from `empty` is poisoned;
- what costs time is counted (`meter`): kernel launches, synchronisations of host and device, bytes
  moved; inside `no_synchronisation()` a synchronisation raises `Synchronised`;
- while a stream captures, what a capture forbids raises, launches are noted and not computed (what
  they would make is poisoned), and all memory has to come from a pool of the capture's own; the
  graph computes from the same memory into the same, whenever it is launched.

    with fake_cupy.installed():                # `import cupy` finds it
        with fake_cupy.measured() as meter, fake_cupy.no_synchronisation():
            step()
        print(meter)

Launches are counted as in CuPy's source where a function needs several (a padded copy is a fill and
a copy); they are an estimate only for the few functions in COSTS.
"""

from __future__ import annotations

import inspect
import json
import sys
import time
import types
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.lib.array_utils import byte_bounds

API = json.loads(Path(__file__).with_name("cupy_14_2_0_api.json").read_text())
NUMBERS = (bool, int, float, complex, np.generic)
KINDS = {name: getattr(inspect.Parameter, name) for name in (
    "POSITIONAL_ONLY", "POSITIONAL_OR_KEYWORD", "VAR_POSITIONAL", "KEYWORD_ONLY", "VAR_KEYWORD")}


class Undefined(AssertionError):
    """CuPy would go on with an undefined result."""


class Synchronised(AssertionError):
    """The host waited for the device where that was forbidden."""


# ----------------------------------------------------------------------------- what is counted


@dataclass
class Meter:
    """launches: kernels and device copies; atomics: additions in no fixed order among them."""

    launches: int = 0
    synchronisations: int = 0
    host_to_device: int = 0  # bytes
    device_to_host: int = 0
    atomics: int = 0
    kernels: Counter[str] = field(default_factory=Counter)  # launches by name


meters = [Meter()]
allowed = [True]  # may the host wait?
capture: list[Graph] = []  # the graph that is being captured, if one is


@contextmanager
def measured() -> Iterator[Meter]:
    """Count what happens inside."""
    meter = Meter()
    meters.append(meter)
    try:
        yield meter
    finally:
        meters.remove(meter)


@contextmanager
def no_synchronisation() -> Iterator[None]:
    """Raise where the host would wait for the device."""
    allowed.append(False)
    try:
        yield
    finally:
        allowed.pop()


def synchronise(what: str) -> None:
    for meter in meters:
        meter.synchronisations += 1
    if capture:
        capture[-1].invalid = True
        raise CUDARuntimeError(
            "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing "
            f"({what})"
        )
    if not allowed[-1]:
        raise Synchronised(f"{what}: the host waits for the device")


def _moved(direction: str, count: int) -> None:
    if capture:
        raise RuntimeError(
            "the current stream is capturing, so synchronous API calls are disallowed "
            f"({direction.replace('_', ' ')})"
        )
    for meter in meters:
        setattr(meter, direction, getattr(meter, direction) + count)


def _launch(
    name: str,
    compute: Callable[[], Any],
    *,
    count: int = 1,
    atomic: bool = False,
    into: np.ndarray | None = None,
) -> np.ndarray:
    """Run a kernel; `compute` makes a new array, or writes `into` one that there is."""
    if capture:
        return capture[-1].note(compute, into)
    for meter in meters:
        meter.launches += count
        meter.kernels[name] += count
        meter.atomics += atomic
    with np.errstate(all="ignore"):
        return np.asarray(compute())


class Graph:
    """What a stream captured: launched, it computes from the same memory into the same."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.pool = weakref.ref(allocators[-1])
        self.invalid = False
        self.recorded: list[tuple[Callable[[], Any], np.ndarray | None]] = []

    def note(self, compute: Callable[[], Any], into: np.ndarray | None) -> np.ndarray:
        """A launch that will be; what is in its result until then is nobody's business."""
        if Stream.current[-1] is not self.stream:
            raise Undefined("launched on another stream than the one that captures")
        if into is not None:
            self.recorded.append((compute, None))
            return into
        with np.errstate(all="ignore"):  # for the shape and the dtype
            result = np.asarray(compute())
        allocated(result)
        self.recorded.append((compute, result))
        return result

    def forget_results(self) -> None:
        """The capture is over; nothing was computed in it."""
        for _, result in self.recorded:
            if result is not None:
                result[...] = poisoned(result.shape, result.dtype)

    def launch(self, stream: Any = None) -> None:
        if capture:
            raise RuntimeError("a graph is launched while a stream captures")
        if self.pool() is None:
            raise Undefined("the memory pool that the graph computes in is gone")
        for meter in meters:
            meter.launches += 1
            meter.kernels["graph"] += 1
        with np.errstate(all="ignore"):
            for compute, result in self.recorded:
                made = compute()
                if result is not None:
                    np.copyto(result, made)

    def upload(self, stream: Any = None) -> None:
        pass


# ----------------------------------------------------------------------------------- the array


class Flags:
    def __init__(self, a: np.ndarray) -> None:
        self.c_contiguous, self.f_contiguous = a.flags.c_contiguous, a.flags.f_contiguous
        self.owndata, self.forc = a.flags.owndata, a.flags.forc

    def __getitem__(self, name: str) -> bool:
        return getattr(self, name.lower())


_lent: WeakValueDictionary[tuple[int, int], np.ndarray] = WeakValueDictionary()


def memory_at(address: int, size: int) -> np.ndarray | None:
    """An array in use with so many bytes, whose address was asked for; None if there is none."""
    fit = (a for (at, room), a in list(_lent.items()) if at == address and room >= size)
    return next(fit, None)


class Pointer:
    """cupy.cuda.MemoryPointer"""

    def __init__(self, a: np.ndarray) -> None:
        self.ptr = a.__array_interface__["data"][0]
        _lent[self.ptr, a.nbytes] = a
        self.device_id = 0
        self.mem = types.SimpleNamespace(ptr=self.ptr, size=a.nbytes, device_id=0)


def _no_numpy(*_: Any, **__: Any) -> Any:
    raise TypeError(
        "Implicit conversion to a NumPy array is not allowed. "
        "Please use `.get()` to construct a NumPy array explicitly."
    )


class ndarray:
    """cupy.ndarray"""

    __slots__ = ("__weakref__", "_a", "base")
    __hash__ = None  # type: ignore[assignment]
    __array_priority__ = 100
    __array__ = _no_numpy

    def __init__(
        self, shape: Any, dtype: Any = float, memptr: Any = None, strides: Any = None,
        order: str = "C",
    ) -> None:
        if memptr is not None or strides is not None:
            raise NotImplementedError("fake cupy: ndarray(memptr=, strides=)")
        self._a = poisoned(shape, dtype, order)
        allocated(self._a)
        self.base = None

    # --- what it is

    shape = property(lambda self: self._a.shape)
    strides = property(lambda self: self._a.strides)
    dtype = property(lambda self: self._a.dtype)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    itemsize = property(lambda self: self._a.itemsize)
    nbytes = property(lambda self: self._a.nbytes)
    flags = property(lambda self: Flags(self._a))
    data = property(lambda self: Pointer(self._a))
    device = property(lambda self: Device(0))
    T = property(lambda self: view(self._a.T, self))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        like = self._a.__array_interface__
        strides = None if self._a.flags.c_contiguous else self.strides
        return {"shape": self.shape, "typestr": like["typestr"], "descr": like["descr"],
                "stream": 1, "version": 3, "strides": strides, "data": (like["data"][0], False),
                "owner": self._a}  # the last is the fake's: who keeps the memory

    def __dlpack__(self, *, stream: Any = None, **options: Any) -> Any:
        return self._a.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __len__(self) -> int:
        return len(self._a)

    def __iter__(self) -> Iterator[ndarray]:
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    # --- to the host

    def get(
        self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True
    ) -> np.ndarray:
        synchronise("get")
        _moved("device_to_host", self.nbytes)
        if out is not None:
            out[...] = self._a
            return out
        return self._a.copy(order)

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype or arr.shape != self.shape:
            raise ValueError(f"{arr.shape} {arr.dtype} set to {self.shape} {self.dtype}")
        _moved("host_to_device", arr.nbytes)
        self._a[...] = arr

    def item(self) -> Any:
        return self.get().item()

    def tolist(self) -> Any:
        return self.get().tolist()

    def tobytes(self, order: str = "C") -> bytes:
        return self.get().tobytes(order)

    def __bool__(self) -> bool:
        return bool(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __complex__(self) -> complex:
        return complex(self.get())

    def __repr__(self) -> str:
        return repr(self.get())

    def __str__(self) -> str:
        return str(self.get())

    def __format__(self, spec: str) -> str:
        return format(self.get(), spec)

    # --- NumPy's functions find CuPy's

    def __array_ufunc__(self, function: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if "out" in options:
            (options["out"],) = options["out"]
        found = getattr(cupy, function.__name__)
        return (found if method == "__call__" else getattr(found, method))(*inputs, **options)

    def __array_function__(self, function: Any, _: Any, args: Any, options: Any) -> Any:
        return getattr(cupy, function.__name__)(*args, **options)

    # --- memory

    def copy(self, order: str = "C") -> ndarray:
        return new("copy", lambda: self._a.copy(order), keep=True)

    __copy__ = copy

    def __deepcopy__(self, _: Any) -> ndarray:
        return self.copy()

    def astype(
        self, dtype: Any, order: str = "K", casting: Any = None, subok: Any = None,
        copy: bool = True,
    ) -> ndarray:
        if not copy and np.dtype(dtype) == self.dtype:
            return self
        return new("astype", lambda: self._a.astype(dtype, order=order), keep=True)

    def view(self, dtype: Any = None) -> ndarray:
        return view(self._a.view(dtype) if dtype is not None else self._a.view(), self)

    def fill(self, value: Any) -> None:
        if isinstance(value, np.ndarray) and value.shape:
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        number = _number_or_array("fill", value)
        _written(self, "fill", lambda a: a.fill(number))

    # --- positions

    def __getitem__(self, index: Any) -> ndarray:
        raw, fancy = _index(index)
        if not fancy:
            return view(self._a[_as_view(raw)], self)
        with _positions(raw):
            self._a[raw]
        return new("take", lambda: self._a[raw])

    def __setitem__(self, index: Any, value: Any) -> None:
        raw, fancy = _index(index)
        number = _number_or_array("__setitem__", value)
        if fancy:
            with _positions(raw):
                places = np.arange(self.size).reshape(self.shape)[raw]
            if isinstance(value, ndarray) and len(np.unique(places)) != places.size:
                raise Undefined("__setitem__: a position is named twice; the last write is random")
        elif isinstance(value, ndarray):
            if _same_place(self._a[_as_view(raw)], value._a):
                return  # what `x[...] += y` ends with; CuPy sees it, too
            _check_overlap("__setitem__", self._a[raw], value._a)
        _written(self, "__setitem__", lambda a: a.__setitem__(raw, number))

    def take(self, indices: Any, axis: Any = None, out: Any = None) -> ndarray:
        return cupy.take(self, indices, axis, out)

    # --- shapes

    def reshape(self, *shape: Any, order: str = "C", copy: Any = None) -> ndarray:
        shape = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        if any(isinstance(n, ndarray) for n in shape):
            raise TypeError("an array is no size")
        shared = self._a.reshape(shape, order=order)
        if np.may_share_memory(shared, self._a):
            return view(shared, self)
        return new("copy", lambda: self._a.reshape(shape, order=order))

    def transpose(self, *axes: Any) -> ndarray:
        return view(self._a.transpose(*axes), self)

    def swapaxes(self, axis1: int, axis2: int) -> ndarray:
        return view(self._a.swapaxes(axis1, axis2), self)

    def squeeze(self, axis: Any = None) -> ndarray:
        return view(self._a.squeeze(axis), self)

    def ravel(self, order: str = "C") -> ndarray:
        return self.reshape(-1, order=order)

    def flatten(self, order: str = "C") -> ndarray:
        return new("copy", lambda: self._a.flatten(order))

    # --- reductions: always arrays, 0-d where NumPy gives a scalar

    def sum(self, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False):
        return _reduced("sum", self, out, axis=axis, dtype=dtype, keepdims=keepdims)

    def prod(self, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = None):
        return _reduced("prod", self, out, axis=axis, dtype=dtype, keepdims=bool(keepdims))

    def mean(self, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False):
        return _reduced("mean", self, out, axis=axis, dtype=dtype, keepdims=keepdims)

    def var(
        self, axis: Any = None, dtype: Any = None, out: Any = None, ddof: int = 0,
        keepdims: bool = False,
    ):
        return _reduced("var", self, out, axis=axis, dtype=dtype, ddof=ddof, keepdims=keepdims)

    def std(
        self, axis: Any = None, dtype: Any = None, out: Any = None, ddof: int = 0,
        keepdims: bool = False,
    ):
        return _reduced("std", self, out, axis=axis, dtype=dtype, ddof=ddof, keepdims=keepdims)

    def max(self, axis: Any = None, out: Any = None, keepdims: bool = False):
        return _reduced("max", self, out, axis=axis, keepdims=keepdims)

    def min(self, axis: Any = None, out: Any = None, keepdims: bool = False):
        return _reduced("min", self, out, axis=axis, keepdims=keepdims)

    def all(self, axis: Any = None, out: Any = None, keepdims: bool = False):
        return _reduced("all", self, out, axis=axis, keepdims=keepdims)

    def any(self, axis: Any = None, out: Any = None, keepdims: bool = False):
        return _reduced("any", self, out, axis=axis, keepdims=keepdims)

    def argmax(
        self, axis: Any = None, out: Any = None, dtype: Any = None, keepdims: bool = False
    ):
        return _reduced("argmax", self, out, axis=axis, keepdims=keepdims)

    def argmin(
        self, axis: Any = None, out: Any = None, dtype: Any = None, keepdims: bool = False
    ):
        return _reduced("argmin", self, out, axis=axis, keepdims=keepdims)

    def cumsum(self, axis: Any = None, dtype: Any = None, out: Any = None):
        return _reduced("cumsum", self, out, axis=axis, dtype=dtype)

    def cumprod(self, axis: Any = None, dtype: Any = None, out: Any = None):
        return _reduced("cumprod", self, out, axis=axis, dtype=dtype)

    def argsort(self, axis: Any = -1, kind: Any = None):
        return cupy.argsort(self, axis, kind)

    def nonzero(self) -> tuple[ndarray, ...]:
        synchronise("nonzero")
        return tuple(view(found) for found in self._a.nonzero())

    def clip(self, min: Any = None, max: Any = None, out: Any = None):
        return cupy.clip(self, min, max, out)

    def dot(self, b: Any, out: Any = None):
        return cupy.matmul(self, b)

    def scatter_add(self, slices: Any, value: Any) -> None:
        cupy.add.at(self, slices, value)

    # --- products

    def __matmul__(self, other: Any) -> ndarray:
        return _matmul(self, other)

    def __rmatmul__(self, other: Any) -> ndarray:
        return _matmul(other, self)


for _name in ("__contains__", "__index__", "__imatmul__"):
    assert _name in API["ndarray_missing_vs_numpy"]


def view(a: np.ndarray, base: ndarray | None = None) -> ndarray:
    """An array of the fake around memory that exists."""
    made = ndarray.__new__(ndarray)
    made._a = a
    made.base = None if base is None else base if base.base is None else base.base
    return made


def new(
    name: str, compute: Callable[[], Any], count: int = 1, keep: bool = False
) -> ndarray:
    """A kernel's new array: C-ordered whatever its operands' strides, but for copies ("K")."""
    ordered = compute if keep else lambda: np.array(compute(), order="C")
    return view(_launch(name, ordered, count=count))


def _written(x: ndarray, name: str, write: Callable[[np.ndarray], Any]) -> None:
    if not x._a.flags.writeable or any(
        s == 0 and n > 1 for n, s in zip(x.shape, x.strides, strict=True)
    ):
        raise Undefined(f"{name}: writes into memory that a broadcast array sees more than once")

    def compute() -> np.ndarray:
        write(x._a)
        return x._a

    _launch(name, compute, into=x._a)


def poisoned(shape: Any, dtype: Any = float, order: str = "C") -> np.ndarray:
    """Memory as a GPU hands it out: what is in it is nobody's business."""
    a = np.empty(shape, dtype, order)
    if a.dtype.kind == "f":
        a.fill(np.nan)
    elif a.dtype.kind in "iu":
        a.fill(np.iinfo(a.dtype).max)
    return a


def _number_or_array(name: str, x: Any) -> Any:
    """The NumPy value of an operand that CuPy would take; TypeError for the others."""
    if isinstance(x, ndarray):
        return x._a
    if isinstance(x, NUMBERS):
        return x
    if hasattr(x, "__cuda_array_interface__"):
        return asarray(x)._a
    raise TypeError(f"{name}: Unsupported type {type(x)}")


def _same_place(a: np.ndarray, b: np.ndarray) -> bool:
    place = [(x.__array_interface__["data"][0], x.strides, x.shape) for x in (a, b)]
    return place[0] == place[1]


def _check_overlap(name: str, out: np.ndarray, x: np.ndarray) -> None:
    if np.shares_memory(out, x) and not _same_place(out, x):
        raise Undefined(f"{name}: an operand overlaps the output; threads race for it")


# ----------------------------------------------------------------------------------- positions


def _index(index: Any) -> tuple[tuple[Any, ...], bool]:
    """The index for NumPy, and does it hold arrays?"""
    raw, fancy = [], False
    for part in index if isinstance(index, tuple) else (index,):
        if isinstance(part, ndarray):
            fancy = True
            if part.dtype.kind == "b":
                synchronise("a boolean mask as an index")
            elif part.dtype.kind not in "iu":
                raise IndexError("arrays used as indices must be of integer or boolean type")
            raw.append(part._a)
        elif isinstance(part, (np.ndarray, list, tuple)):
            raise TypeError(f"a {type(part).__name__} as an index is copied to the device")
        elif isinstance(part, (bool, np.bool_)):
            raise TypeError("a bool as an index")
        elif part is None or part is Ellipsis or isinstance(part, slice):
            raw.append(part)
        else:
            raw.append(part.__index__())
    return tuple(raw), fancy


def _as_view(raw: tuple[Any, ...]) -> tuple[Any, ...]:
    """With an Ellipsis NumPy gives a 0-d view where it would give a scalar."""
    return raw if any(part is Ellipsis for part in raw) else (*raw, Ellipsis)


@contextmanager
def _positions(raw: tuple[Any, ...]) -> Iterator[None]:
    """CuPy wraps what is out of range in an index array, without a word."""
    try:
        yield
    except IndexError as error:
        if "out of bounds" in str(error) and any(isinstance(part, np.ndarray) for part in raw):
            raise Undefined(f"{error}: CuPy wraps it around") from None
        raise


# -------------------------------------------------------------------------------------- ufuncs


class ufunc:
    """One of CuPy's: loops by dtype as in the wheel, results C-ordered."""

    def __init__(self, name: str, nin: int, nout: int, loops: list[str]) -> None:
        self.__name__, self.nin, self.nout = name, nin, nout
        self.types = [loop for loop in loops if "E" not in loop]  # E: bfloat16, NumPy has none
        self.function = getattr(np, name, None)

    def __call__(self, *args: Any, **options: Any) -> Any:
        unknown = options.keys() - set(API["ufunc_kwargs"])
        if unknown:
            raise TypeError(f"Wrong arguments: {self.__name__} has no {unknown}")
        if self.function is None or not self.nin <= len(args) <= self.nin + self.nout:
            raise TypeError(f"{self.__name__} takes {self.nin} operands, got {len(args)}")
        operands = [_number_or_array(self.__name__, x) for x in args[: self.nin]]
        out = args[self.nin] if len(args) > self.nin else options.get("out")
        inputs, output = self._loop(operands, options.get("dtype"))

        def compute() -> Any:
            cast = [x.astype(t, copy=False) if isinstance(x, np.ndarray) else np.dtype(t).type(x)
                    for x, t in zip(operands, inputs, strict=True)]
            return self.function(*cast)

        if self.nout > 1:
            return tuple(
                new(self.__name__, lambda i=i: compute()[i]) for i in range(self.nout)
            )
        if out is None:
            return new(self.__name__, lambda: np.asarray(compute()).astype(output))
        return self._into(out, operands, compute, output, options.get("casting", "same_kind"))

    def _loop(self, operands: list[Any], dtype: Any) -> tuple[str, str]:
        """The first loop that takes the operands; Python's numbers take the arrays' dtype."""
        strong = [x.dtype for x in operands if isinstance(x, (np.ndarray, np.generic))]
        weak = [x for x in operands if not isinstance(x, (np.ndarray, np.generic))]
        common = np.result_type(*strong, *weak)
        for x in weak:
            if type(x) is int and strong and common.kind in "iu":
                info = np.iinfo(common)
                if not info.min <= x <= info.max:
                    raise OverflowError(f"Python integer {x} out of bounds for {common}")
        given = [x.dtype if isinstance(x, (np.ndarray, np.generic)) else common for x in operands]
        for loop in self.types:
            inputs, output = loop.split("->")
            fits = all(np.can_cast(d, t) for d, t in zip(given, inputs, strict=True))
            if fits and (dtype is None or np.dtype(output) == dtype):
                return inputs, output
        raise TypeError(f"Wrong type {given} of arguments for cupy_{self.__name__}")

    def _into(
        self, out: Any, operands: list[Any], compute: Any, output: str, casting: str
    ) -> ndarray:
        if not isinstance(out, ndarray):
            raise TypeError("Output arguments type must be cupy.ndarray")
        if not np.can_cast(output, out.dtype, casting):
            raise TypeError(f"{self.__name__}: {np.dtype(output)} does not cast to {out.dtype}")
        shape = np.broadcast_shapes(out.shape, *(np.shape(x) for x in operands))
        if shape != out.shape:
            raise ValueError(f"Out shape is mismatched: {out.shape}, need {shape}")
        for x in operands:
            if isinstance(x, np.ndarray):
                _check_overlap(self.__name__, out._a, x)
        _written(out, self.__name__, lambda a: np.copyto(a, compute(), casting="unsafe"))
        return out

    def at(self, a: Any, indices: Any, values: Any = None) -> None:
        if self.__name__ not in API["ufunc_at"]:
            raise NotImplementedError(f"`{self.__name__}.at` is not supported")
        wanted = "iqlefdIQL" if self.__name__ == "add" else "iqlfdIQL"
        if a.dtype.char not in wanted:
            raise TypeError(f"cupy.{self.__name__}.at does not support {a.dtype}")
        raw, fancy = _index(indices)
        number = _number_or_array("at", values)
        with _positions(raw):
            a._a[raw]

        def compute() -> np.ndarray:
            self.function.at(a._a, raw, number)
            return a._a

        atomic = fancy and a.dtype.kind == "f" and self.__name__ == "add"
        _launch("at", compute, into=a._a, atomic=atomic)

    def reduce(self, array: Any, axis: Any = 0, dtype: Any = None, out: Any = None,
               keepdims: bool = False) -> ndarray:
        if self.__name__ not in API["ufunc_reduce"]:
            raise NotImplementedError(f"`{self.__name__}.reduce` is not supported")
        name = {"add": "sum", "multiply": "prod"}[self.__name__]
        return _reduced(name, array, out, axis=axis, dtype=dtype, keepdims=keepdims)


# ---------------------------------------------------------------------------------- functions

COSTS = {"var": 2, "std": 3, "tril": 2, "triu": 2, "argsort": 3, "sort": 2, "tile": 2, "outer": 1,
         "take_along_axis": 1, "cumsum": 2, "cumprod": 2, "eye": 2, "array_equal": 2, "norm": 3}


def _reduced(name: str, x: Any, out: Any, **options: Any) -> ndarray:
    if not isinstance(x, ndarray):
        raise TypeError(f"{name}: Argument 'a' has incorrect type {type(x)}")
    axis = options.get("axis")
    if axis is not None and not isinstance(axis, (int, tuple, np.integer)):
        raise TypeError(f"{name}: axis is a {type(axis).__name__}")
    if name in ("max", "min", "argmax", "argmin") and not x.size:
        raise ValueError("zero-size array to reduction operation which has no identity")
    function = getattr(np, name)
    count = COSTS.get(name, 1)
    if out is None:
        return new(name, lambda: function(x._a, **options), count=count)
    _written(out, name, lambda a: np.copyto(a, function(x._a, **options), casting="same_kind"))
    return out


def _matmul(a: Any, b: Any) -> ndarray:
    for x in (a, b):
        if not isinstance(x, ndarray):
            raise TypeError(f"matmul: Unsupported type {type(x)}")
    if a.dtype.kind == "f":
        _refuse_cublas()
    flat = a.ndim <= 2 and b.ndim <= 2
    taken = [x.flags.c_contiguous or (flat and x.flags.f_contiguous) for x in (a, b)]

    def multiply() -> np.ndarray:
        return np.matmul(*[x._a if as_is else np.ascontiguousarray(x._a)
                           for x, as_is in zip((a, b), taken, strict=True)])

    return new("matmul", multiply, count=1 + taken.count(False))


def _refuse_cublas() -> None:
    if capture:
        raise NotImplementedError(
            "calling cuBLAS API during stream capture is currently unsupported"
        )


def _where(condition: Any, x: Any = None, y: Any = None) -> Any:
    if x is None and y is None:
        return condition.nonzero()
    c, a, b = (_number_or_array("where", v) for v in (condition, x, y))
    kind = np.result_type(*(v.dtype if isinstance(v, (np.ndarray, np.generic)) else v
                            for v in (a, b)))
    return new("where", lambda: np.where(c, a, b).astype(kind))


def asarray(
    a: Any, dtype: Any = None, order: Any = None, *, copy: Any = None, blocking: bool = False
) -> ndarray:
    """A device array; host data are copied over, a device array is shared."""
    if isinstance(a, ndarray):
        if copy or (dtype is not None and np.dtype(dtype) != a.dtype):
            return a.astype(dtype or a.dtype)
        return a
    if hasattr(a, "__cuda_array_interface__"):
        found = a.__cuda_array_interface__
        owner = found.get("owner")
        if owner is None or owner.__array_interface__["data"][0] != found["data"][0]:
            raise NotImplementedError("fake cupy: a foreign __cuda_array_interface__")
        return asarray(view(owner), dtype)
    if isinstance(a, (list, tuple)) and any(isinstance(x, ndarray) for x in a):
        return cupy.stack(list(a))
    host = np.array(a, dtype, order=order or "K")
    if host.dtype.kind not in "biufc":
        raise ValueError(f"Unsupported dtype {host.dtype}")
    _moved("host_to_device", host.nbytes)
    return view(_launch("copy from host", lambda: host))


def array(
    obj: Any, dtype: Any = None, copy: bool = True, order: str = "K", subok: bool = False,
    ndmin: int = 0, *, blocking: bool = False,
) -> ndarray:
    made = asarray(obj, dtype)
    return made.copy(order) if made is obj else made


def asnumpy(
    a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True
) -> np.ndarray:
    return a.get(stream, order, out) if isinstance(a, ndarray) else np.asarray(a)


def _ascontiguous(a: Any, dtype: Any = None) -> ndarray:
    a = asarray(a, dtype)
    return a if a.flags.c_contiguous else a.copy("C")


def _concatenate(tup: Any, axis: Any = 0, out: Any = None, **_: Any) -> ndarray:
    arrays = [_device("concatenate", x) for x in tup]
    return new("concatenate", lambda: np.concatenate(arrays, axis), count=len(arrays))


def _stack(tup: Any, axis: int = 0, out: Any = None, **_: Any) -> ndarray:
    arrays = [_device("stack", x) for x in tup]
    return new("stack", lambda: np.stack(arrays, axis), count=len(arrays))


def _device(name: str, x: Any) -> np.ndarray:
    if not isinstance(x, ndarray):
        raise TypeError(f"{name}: only cupy arrays can be taken, got {type(x)}")
    return x._a


def _einsum(*operands: Any, **options: Any) -> ndarray:
    unknown = options.keys() - {"dtype", "optimize"}
    if unknown:
        raise TypeError(f"did not understand the following kwargs: {unknown}")
    subscripts, *rest = operands
    arrays = [_device("einsum", x) for x in rest]
    if len(arrays) > 1:
        _refuse_cublas()
    y = np.einsum(subscripts, *arrays, optimize=True)
    if len(arrays) == 1 and np.may_share_memory(y, arrays[0]):
        return view(y, rest[0])
    count = 4 * len(arrays) - 3  # permuted copies and a product for each pair
    return new("einsum", lambda: np.einsum(subscripts, *arrays, optimize=True), count=count)


def _take(a: Any, indices: Any, axis: Any = None, out: Any = None) -> ndarray:
    x = _device("take", a)
    if not isinstance(indices, (int, np.integer)):
        indices = _device("take", indices)
    with _positions((np.asarray(indices),)):
        x.take(indices, axis)
    return new("take", lambda: x.take(indices, axis))


def _take_along_axis(a: Any, indices: Any, axis: Any) -> ndarray:
    x, i = _device("take_along_axis", a), _device("take_along_axis", indices)
    with _positions((i,)):
        np.take_along_axis(x, i, axis)
    return new("take_along_axis", lambda: np.take_along_axis(x, i, axis))


def _pad(array: Any, pad_width: Any, mode: Any = "constant", **options: Any) -> ndarray:
    x = _device("pad", array)
    return new("pad", lambda: np.pad(x, pad_width, mode, **options), count=2)


def _clip(a: Any, a_min: Any, a_max: Any, out: Any = None) -> ndarray:
    x = _device("clip", a)
    low, high = (v if v is None else _number_or_array("clip", v) for v in (a_min, a_max))
    kind = a.dtype
    if out is not None:
        _written(out, "clip", lambda y: np.clip(x, low, high, out=y))
        return out
    return new("clip", lambda: np.clip(x, low, high).astype(kind))


def _argsort(a: Any, axis: Any = -1, kind: Any = None) -> ndarray:
    x = _device("argsort", a)
    if kind not in (None, "stable"):
        raise ValueError(f"kind can only be None or 'stable', got {kind}")
    return new("argsort", lambda: np.argsort(x, axis, kind="stable"), count=3)


def _searchsorted(a: Any, v: Any, side: str = "left", sorter: Any = None) -> ndarray:
    x, y = _device("searchsorted", a), _device("searchsorted", v)
    return new("searchsorted", lambda: np.searchsorted(x, y, side))


def _on_arrays(name: str) -> Callable[..., Any]:
    """A function whose first argument is an array and whose others are not: as in NumPy."""
    function = getattr(np, name)

    def call(a: Any, *args: Any, **options: Any) -> ndarray:
        x = _device(name, a)
        result = function(x, *args, **options)
        if np.may_share_memory(result, x):
            return view(result, a)
        return new(name, lambda: function(x, *args, **options), count=COSTS.get(name, 1))

    return call


def _method(name: str) -> Callable[..., Any]:
    return lambda a, *args, **options: getattr(a, name)(*args, **options)


def _count_nonzero(a: Any, axis: Any = None) -> ndarray:
    x = _device("count_nonzero", a)
    return new("count_nonzero", lambda: np.count_nonzero(x, axis))


def _made(name: str, count: int = 1) -> Callable[..., Any]:
    """A function that makes an array of sizes and numbers."""
    function = getattr(np, name)

    def call(*args: Any, **options: Any) -> ndarray:
        for value in (*args, *options.values()):
            if isinstance(value, (np.ndarray, ndarray)):
                raise TypeError(f"{name}: an array in the place of a number")
        return new(name, lambda: function(*args, **options), count=count)

    return call


def _empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    made = poisoned(shape, dtype, order)
    allocated(made)
    return view(made)


def _empty_like(
    a: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None
) -> ndarray:
    like = np.empty_like(_device("empty_like", a), dtype, order, shape=shape)
    like[...] = poisoned(like.shape, like.dtype)
    allocated(like)
    return view(like)


def _like(name: str) -> Callable[..., Any]:
    def call(a: Any, *args: Any, **options: Any) -> ndarray:
        x = _device(name, a)
        return new(name, lambda: getattr(np, name)(x, *args, **options), keep=True)

    return call


def _repeat(a: Any, repeats: Any, axis: Any = None) -> ndarray:
    if not isinstance(repeats, (int, tuple, list)):
        synchronise("repeat with an array of counts")
    x = _device("repeat", a)
    return new("repeat", lambda: np.repeat(x, repeats, axis))


def _array_equal(a1: Any, a2: Any, equal_nan: bool = False) -> ndarray:
    x, y = _device("array_equal", a1), _device("array_equal", a2)
    return new("array_equal", lambda: np.array_equal(x, y, equal_nan))


def _copyto(dst: Any, src: Any, casting: str = "same_kind", where: Any = None) -> None:
    number = _number_or_array("copyto", src)
    _written(dst, "copyto", lambda a: np.copyto(a, number, casting))


def _from_dlpack(x: Any, **_: Any) -> ndarray:
    """The memory of another library's array, without a copy."""
    kind, _device_id = x.__dlpack_device__()
    if kind != 2:
        raise TypeError(f"CPU arrays cannot be directly imported to CuPy (device type {kind})")
    source = types.SimpleNamespace(
        __dlpack__=lambda **options: x.__dlpack__(**{**options, "stream": None}),
        __dlpack_device__=lambda: (1, 0),
    )
    return view(np.from_dlpack(source))


IMPLEMENTED: dict[str, Callable[..., Any]] = {
    **{name: _on_arrays(name) for name in (
        "broadcast_to", "diagonal", "expand_dims", "flip", "moveaxis", "nan_to_num", "ravel",
        "reshape", "roll", "rot90", "squeeze", "swapaxes", "tile", "transpose", "tril", "triu")},
    **{name: _made(name) for name in ("arange", "full", "linspace", "ones", "zeros", "identity")},
    "eye": _made("eye", 2),
    **{name: _like(name) for name in ("zeros_like", "ones_like", "full_like")},
    **{name: _method(name) for name in (
        "sum", "prod", "mean", "var", "std", "max", "min", "all", "any", "argmax", "argmin",
        "cumsum", "cumprod", "nonzero")},
    "amax": lambda a, axis=None, out=None, keepdims=False: a.max(axis, out, keepdims),
    "amin": lambda a, axis=None, out=None, keepdims=False: a.min(axis, out, keepdims),
    "argsort": _argsort, "array": array, "array_equal": _array_equal, "asarray": asarray,
    "ascontiguousarray": _ascontiguous, "asnumpy": asnumpy, "clip": _clip,
    "byte_bounds": lambda a: byte_bounds(_device("byte_bounds", a)),
    "concatenate": _concatenate, "copyto": _copyto, "count_nonzero": _count_nonzero,
    "dot": _matmul, "einsum": _einsum,
    "empty": _empty, "empty_like": _empty_like, "from_dlpack": _from_dlpack, "pad": _pad,
    "repeat": _repeat, "searchsorted": _searchsorted, "stack": _stack, "take": _take,
    "take_along_axis": _take_along_axis, "where": _where,
}  # fmt: skip


def _declared(name: str) -> Callable[..., Any]:
    """The implementation under the parameters that the real function has."""
    implementation, parameters = IMPLEMENTED[name], API["functions"][name]
    if parameters is None:
        return implementation
    signature = inspect.Signature([
        inspect.Parameter(n, KINDS[kind], default=None if optional else inspect.Parameter.empty)
        for n, kind, optional in parameters
    ])

    def call(*args: Any, **options: Any) -> Any:
        signature.bind(*args, **options)  # TypeError for what CuPy does not take
        return implementation(*args, **options)

    call.__name__ = name
    return call


# -------------------------------------------------------------------- streams, devices, modules


class Device:
    def __init__(self, device: int = 0) -> None:
        if device:
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        self.id, self.compute_capability, self.mem_info = 0, "90", (2**33, 2**34)

    def use(self) -> None: ...
    def __int__(self) -> int:
        return self.id

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None: ...
    def synchronize(self) -> None:
        synchronise("Device.synchronize")


class Stream:
    null: Stream
    current: list[Stream]

    def __init__(self, null: bool = False, non_blocking: bool = False, **_: Any) -> None:
        self.ptr = 0 if null else id(self)
        self.is_null = null

    def __enter__(self) -> Stream:
        Stream.current.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        Stream.current.pop()

    def use(self) -> Stream:
        Stream.current[-1] = self
        return self

    def synchronize(self) -> None:
        synchronise("Stream.synchronize")

    def wait_event(self, event: Any) -> None: ...
    def record(self, event: Any = None) -> Any:
        return event

    def begin_capture(self, mode: Any = None) -> None:
        if self.is_null:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if capture:
            raise CUDARuntimeError("cudaErrorIllegalState: the stream captures already")
        capture.append(Graph(self))

    def end_capture(self) -> Graph:
        if not self.is_capturing():
            raise CUDARuntimeError("cudaErrorIllegalState: the stream does not capture")
        graph = capture.pop()
        graph.forget_results()
        if graph.invalid:
            raise CUDARuntimeError(
                "cudaErrorStreamCaptureInvalidated: operation failed due to a previous error "
                "during capture"
            )
        return graph

    def is_capturing(self) -> bool:
        return bool(capture) and capture[-1].stream is self


Stream.null = Stream(null=True)
Stream.current = [Stream.null]


class Event:
    """A mark in a stream.  Nobody knows that the device has come to it before the host waited."""

    def __init__(
        self, block: bool = False, disable_timing: bool = False, interprocess: bool = False
    ) -> None:
        self.time: float | None = None
        self.waits = 0

    def record(self, stream: Any = None) -> None:
        self.time, self.waits = time.perf_counter(), meters[0].synchronisations

    @property
    def done(self) -> bool:
        return meters[0].synchronisations > self.waits

    def synchronize(self) -> None:
        synchronise("Event.synchronize")


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """Milliseconds, once the device has come to both."""
    if start_event.time is None or not end_event.done:
        raise CUDARuntimeError("cudaErrorNotReady: device not ready")
    return 1e3 * (end_event.time - start_event.time)


class CUDARuntimeError(RuntimeError):
    pass


class MemoryPool:
    """Hands out memory; the fake's is NumPy's, so there is nothing to free.

    captured: what was allocated while a stream captured; a graph needs it as long as it is launched
    """

    def __init__(self, allocator: Any = None) -> None:
        self.captured: list[np.ndarray] = []

    def used_bytes(self) -> int:
        return sum(a.nbytes for a in self.captured)

    total_bytes = used_bytes

    def malloc(self, size: int) -> Any:
        return Pointer(poisoned(size, np.uint8))

    def free_all_blocks(self, stream: Any = None) -> None: ...


allocators = [MemoryPool()]  # the default pool, and those of `using_allocator`


def allocated(a: np.ndarray) -> None:
    """Memory of a capture must not be handed out to others before the graph is launched."""
    if not capture:
        return
    if len(allocators) == 1:
        raise Undefined("memory from the default pool in a capture: others will get it, too")
    allocators[-1].captured.append(a)


@contextmanager
def using_allocator(allocator: Any = None) -> Iterator[None]:
    allocators.append(allocator.__self__)
    try:
        yield
    finally:
        allocators.pop()


NOTHING = np.zeros(())  # what a raw kernel writes are its arguments


class RawModule:
    """Compiles with `compiler`, which a test sets; `cuda_on_cpu.compile_kernels` is one."""

    compiler: Callable[..., Any] | None = None

    def __init__(self, *, code: str = "", options: Any = ()) -> None:
        if RawModule.compiler is None:
            raise RuntimeError("fake cupy: nothing compiles CUDA here; set RawModule.compiler")
        self.kernels = RawModule.compiler(code, options)

    def get_function(self, name: str) -> Callable[[Any, Any, Any], None]:
        self.kernels.signature(name)  # AttributeError now

        def kernel(grid: Any, block: Any, args: Any) -> None:
            given = [_kernel_argument(name, arg) for arg in args]

            def compute() -> np.ndarray:
                self.kernels.launch(name, grid, block, given)
                return NOTHING

            _launch(name, compute, into=NOTHING)

        return kernel


def _kernel_argument(name: str, arg: Any) -> Any:
    """Memory of the device, or what travels by value: a number or a struct."""
    if isinstance(arg, ndarray):
        return arg._a
    if isinstance(arg, np.ndarray) and arg.dtype.kind != "V":
        raise TypeError(f"{name}: an array of the host as an argument of a kernel")
    return arg


def _refuse(text: str) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise NotImplementedError(text)

    return refuse


def as_strided(x: ndarray, shape: Any = None, strides: Any = None) -> ndarray:
    a = np.lib.stride_tricks.as_strided(x._a, shape, strides)
    low, high = byte_bounds(a) if a.size else (0, 0)
    owner = x._a
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    first, last = byte_bounds(owner)
    if a.size and not (first <= low and high <= last):
        raise Undefined(f"as_strided({shape}, {strides}) leaves the array's memory")
    return view(a, x)


class Module(types.ModuleType):
    """Names that CuPy lacks raise AttributeError; names that only the fake lacks say so."""

    def __getattr__(self, name: str) -> Any:
        known = (*API["functions"], *API["ufuncs"], *API["classes"], *API["modules"])
        if self.__name__ == "cupy" and name in known:
            raise NotImplementedError(f"fake cupy: {name} exists; add it to tests/fake_cupy.py")
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def _properties(device: int) -> dict[str, Any]:
    return {"name": b"Fake GPU", "major": 9, "minor": 0, "totalGlobalMem": 2**34,
            "multiProcessorCount": 1}


def _namespace(name: str, **members: Any) -> Module:
    made = Module(name)
    made.__dict__.update(members)
    return made


def _build() -> Module:
    made = Module("cupy")
    made.__version__ = API["cupy"]
    for name in API["aliases_of_numpy"]:
        setattr(made, name, getattr(np, name))
    for name, spec in API["ufuncs"].items():
        setattr(made, name, ufunc(name, spec["nin"], spec["nout"], spec["types"]))
    for name in IMPLEMENTED:
        setattr(made, name, _declared(name))
    made.matmul = _matmul  # a generalised ufunc
    made.ndarray, made.ufunc, made.RawModule = ndarray, ufunc, RawModule
    made.is_available = lambda: True
    made.get_default_memory_pool = lambda: allocators[0]
    made.lib = _namespace("cupy.lib", stride_tricks=_namespace(
        "cupy.lib.stride_tricks", as_strided=as_strided,
        sliding_window_view=_refuse("sliding_window_view copies its window's shape to and fro")))
    runtime = _namespace(
        "cupy.cuda.runtime", getDeviceCount=lambda: 1, getDeviceProperties=_properties,
        runtimeGetVersion=lambda: 12080, driverGetVersion=lambda: 12080, getDevice=lambda: 0,
        CUDARuntimeError=CUDARuntimeError,
        deviceSynchronize=lambda: synchronise("deviceSynchronize"))
    made.cuda = _namespace(
        "cupy.cuda", runtime=runtime, Device=Device, Stream=Stream, MemoryPool=MemoryPool,
        Event=Event, get_elapsed_time=get_elapsed_time,
        is_available=lambda: True, get_current_stream=lambda: Stream.current[-1], Graph=Graph,
        using_allocator=using_allocator)
    linalg = _namespace("cupy._core._routines_linalg", COMPUTE_TYPE_DEFAULT=1, COMPUTE_TYPE_TF32=7,
                        chosen={})
    linalg.set_compute_type = lambda dtype, kind: linalg.chosen.__setitem__(np.dtype(dtype), kind)
    made._core = _namespace("cupy._core", _routines_linalg=linalg)
    return made


ndarray.__module__ = "cupy"
cupy = _build()


def _operator(symbol: str, function: Any) -> None:
    def forward(self: ndarray, other: Any) -> Any:
        if getattr(other, "__array_ufunc__", True) is None:
            return NotImplemented
        return function(self, other)

    def backward(self: ndarray, other: Any) -> Any:
        return function(other, self)

    def in_place(self: ndarray, other: Any) -> Any:
        return function(self, other, self)

    setattr(ndarray, f"__{symbol}__", forward)
    if symbol not in ("eq", "ne", "lt", "le", "gt", "ge"):
        setattr(ndarray, f"__r{symbol}__", backward)
        setattr(ndarray, f"__i{symbol}__", in_place)


for _symbol, _ufunc in {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide",
    "floordiv": "floor_divide", "mod": "remainder", "pow": "power", "and": "bitwise_and",
    "or": "bitwise_or", "xor": "bitwise_xor", "lshift": "left_shift", "rshift": "right_shift",
    "eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater",
    "ge": "greater_equal",
}.items():  # fmt: skip
    _operator(_symbol, getattr(cupy, _ufunc))
ndarray.__hash__ = None  # type: ignore[assignment]
ndarray.__neg__ = lambda self: cupy.negative(self)  # type: ignore[attr-defined]
ndarray.__pos__ = lambda self: cupy.positive(self)  # type: ignore[attr-defined]
ndarray.__abs__ = lambda self: cupy.absolute(self)  # type: ignore[attr-defined]
ndarray.__invert__ = lambda self: cupy.invert(self)  # type: ignore[attr-defined]


@contextmanager
def installed() -> Iterator[Module]:
    """``import cupy`` finds the fake inside, and what was there before comes back."""
    names = {"cupy": cupy, "cupy.cuda": cupy.cuda, "cupy.cuda.runtime": cupy.cuda.runtime,
             "cupy.lib": cupy.lib, "cupy._core": cupy._core,
             "cupy._core._routines_linalg": cupy._core._routines_linalg}
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update(names)
    try:
        yield cupy
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
