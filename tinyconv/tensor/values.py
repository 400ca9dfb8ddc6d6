"""Values that people pass: to `tc.tensor`, as an index, as sizes, to be written."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from tinyconv.autograd import check_devices, is_tensor
from tinyconv.backend import Array, backend_named, backend_of, moved
from tinyconv.backend.array import is_array
from tinyconv.backend.interchange import shared
from tinyconv.backend.silence import silence
from tinyconv.dtypes import as_dtype, float32, float64
from tinyconv.errors import DTypeError, ShapeError
from tinyconv.ops import elementwise as e


def as_array(data: Any, dtype: Any = None, device: str | None = None) -> Array:
    """A new array of what ``tc.tensor`` accepts; Python floats become float32."""
    if is_tensor(data):
        data = data.array
    if hasattr(data, "dtype"):
        if not is_array(data):  # another library's
            on_gpu = hasattr(data, "__cuda_array_interface__")
            data = shared(data) if on_gpu else np.asarray(data)
        backend = backend_of(data) if device is None else backend_named(device)
        array = backend.xp.array(moved(data, backend))
        found = array.dtype
    else:
        dtypes: set[Any] = set()
        backend = backend_named(device)
        array = _regular(_plain(data, dtypes))
        is_python_float = array.dtype == float64 and float64 not in dtypes
        found = float32 if is_python_float else array.dtype
        if dtype is not None and array.size:
            _check_room(array, as_dtype(dtype))
    kind = as_dtype(found if dtype is None else dtype)
    with silence():  # 1e300 in float32 is inf
        return backend.xp.asarray(array.astype(kind, copy=False))


def _check_room(array: Array, kind: Any) -> None:
    """DTypeError for Python's numbers that an integer dtype cannot hold, as in PyTorch."""
    if kind.kind in "iu" and array.dtype.kind in "fiu":
        for value in (array.min(), array.max()):
            e.written_number("tensor", value, kind)


def _regular(data: Any) -> Array:
    """Nested lists as an array; ShapeError where the lists of one level differ in length."""
    try:
        return np.array(data)
    except ValueError as error:
        lengths = [len(row) if isinstance(row, (list, np.ndarray)) else 0 for row in data]
        said = f"the lists differ in length, {str(lengths)[1:-1]}: pad or cut them to one length"
        raise ShapeError("tensor", said if len(set(lengths)) > 1 else str(error)) from None


def _plain(data: Any, dtypes: set[Any]) -> Any:
    """Nested sequences of numbers and host arrays; ``dtypes`` collects those of the arrays."""
    if isinstance(data, (list, tuple)):
        return [_plain(item, dtypes) for item in data]
    if is_tensor(data):
        data = backend_of(data.array).to_numpy(data.array)
    if hasattr(data, "dtype"):
        dtypes.add(data.dtype)
    return data


def value_of(other: Any) -> Any:
    return other.array if is_tensor(other) else other


def written_into(name: str, value: Any, data: Array) -> Any:
    """A value as it is written into ``data``: numbers that its dtype has no room for raise."""
    value = value_of(value)
    if isinstance(value, (bool, int, float, np.generic)):
        return e.written_number(name, value, data.dtype)
    if isinstance(value, (list, tuple)):
        return backend_of(data).xp.asarray(as_array(value, data.dtype))
    check_devices(name, (data, value))
    shape = getattr(value, "shape", ())
    if shape and shape[0] == 1:  # NumPy wants a mask's value without leading ones
        ones = next((i for i, n in enumerate(shape) if n != 1), len(shape))
        value = value.reshape(shape[ones:])
    return value


def narrowed(made: Array, dtype: Any) -> Array:
    """What is written over integers or booleans; TypeError for floats, and integers over bools."""
    if made.dtype.kind == "f" or (dtype.kind == "b" and made.dtype.kind != "b"):
        raise TypeError
    return made


def kept_index(index: Any) -> Any:
    """An index that later writes cannot change: the backward pass reads it again."""
    if isinstance(index, tuple):
        return tuple(part.copy() if hasattr(part, "dtype") else part for part in index)
    return index.copy() if hasattr(index, "dtype") else index


def sizes_of(sizes: tuple[Any, ...]) -> tuple[int, ...]:
    """``f(2, 3)`` and ``f((2, 3))`` mean the same."""
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = tuple(sizes[0])
    try:
        return tuple(map(operator.index, sizes))
    except TypeError:
        raise DTypeError("size", f"{sizes} must be made of integers; // divides into one") from None
