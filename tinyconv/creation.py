"""Making tensors.  Names, arguments and defaults are PyTorch's; floats are float32 unless said."""

import math
from typing import Any

import numpy as np

from tinyconv.autograd import wrap
from tinyconv.backend import Array, backend_named, backend_of
from tinyconv.backend.array import is_array
from tinyconv.backend.interchange import shared
from tinyconv.dtypes import as_dtype, bool_, float32, float64, int64
from tinyconv.errors import DTypeError, ShapeError
from tinyconv.ops.elementwise import written_number
from tinyconv.random import generator
from tinyconv.tensor import Tensor, sizes_of


def tensor(
    data: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """A tensor with a copy of ``data``: numbers, nested sequences, arrays or tensors.

    Python floats give float32, integers int64, booleans bool; NumPy arrays keep their dtype.
    """
    return Tensor(data, requires_grad, dtype, device)


def from_numpy(array: np.ndarray[Any, Any]) -> Tensor:
    """A tensor that shares the array's memory."""
    if not isinstance(array, np.ndarray):
        raise DTypeError(
            "from_numpy", f"got a {type(array).__name__}, not a NumPy array; use tc.tensor(...)"
        )
    as_dtype(array.dtype)
    return wrap(np.asarray(array))  # a plain array also of a memory map or another subclass


def as_tensor(data: Any, dtype: Any = None, device: str | None = None) -> Tensor:
    """A tensor of ``data``, which shares its memory where dtype and device need no change.

    data: a tensor, an array of NumPy or CuPy, one that DLPack or ``__cuda_array_interface__``
    lends, or what `tensor` takes.
    """
    if isinstance(data, Tensor):
        made = data
    elif hasattr(data, "__dlpack__") or hasattr(data, "__cuda_array_interface__"):
        made = wrap(data if is_array(data) else shared(data))
        as_dtype(made.dtype)
    else:
        return tensor(data, dtype, device)
    return made.to(device=device, dtype=dtype)


def from_dlpack(x: Any) -> Tensor:
    """A tensor in the memory of another library's array, on its device: no copy is made.

    x: what has ``__dlpack__`` (NumPy, CuPy, PyTorch, JAX) or ``__cuda_array_interface__``.
    In return a Tensor has both: ``torch.from_dlpack(t)``, ``cupy.asarray(t)``.
    """
    if isinstance(x, Tensor):
        return x.detach()
    made = wrap(shared(x))
    as_dtype(made.dtype)
    return made


def _made(array: Array, requires_grad: bool) -> Tensor:
    out = wrap(array)
    return out.requires_grad_() if requires_grad else out


def _number(name: str, what: str, value: Any) -> Any:
    """A Python number, of a NumPy scalar or a 0-d tensor too; DTypeError for anything else."""
    if hasattr(value, "dtype") and not value.ndim:
        value = value.item()
    if not isinstance(value, (bool, int, float)):
        raise DTypeError(name, f"{what} is a {type(value).__name__}, it must be a number: {value}")
    return value


def _number_type(value: Any) -> Any:
    return bool_ if isinstance(value, bool) else int64 if isinstance(value, int) else float32


def _sizes(sizes: tuple[Any, ...], size: Any) -> tuple[int, ...]:
    """``zeros(2, 3)``, ``zeros((2, 3))`` and ``zeros(size=(2, 3))`` mean the same."""
    if sizes and size is not None:
        raise TypeError(f"the size is given twice: {sizes} and size={size}")
    return _counts(sizes_of(sizes if size is None else (size,)))


def _counts(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape; ShapeError where a size is negative."""
    if shape and min(shape) < 0:
        raise ShapeError("size", f"{shape} has the size {min(shape)}; 0 is the least")
    return shape


def zeros(
    *sizes: Any,
    size: Any = None,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Zeros: ``zeros(2, 3)`` or ``zeros((2, 3))``."""
    kind = as_dtype(dtype or float32)
    return _made(backend_named(device).xp.zeros(_sizes(sizes, size), kind), requires_grad)


def ones(
    *sizes: Any,
    size: Any = None,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Ones."""
    kind = as_dtype(dtype or float32)
    return _made(backend_named(device).xp.ones(_sizes(sizes, size), kind), requires_grad)


def empty(
    *sizes: Any,
    size: Any = None,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Memory as it is found: to be written before it is read."""
    kind = as_dtype(dtype or float32)
    return _made(backend_named(device).xp.empty(_sizes(sizes, size), kind), requires_grad)


def full(
    size: Any,
    fill_value: Any,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """``fill_value`` everywhere; its Python type gives the dtype.

    DTypeError for a value that the dtype has no room for.
    """
    value = _number("full", "fill_value", fill_value)
    kind = as_dtype(dtype or _number_type(value))
    value = written_number("full", value, kind)
    return _made(backend_named(device).xp.full(_sizes((), size), value, kind), requires_grad)


def arange(
    start: Any = None,
    end: Any = None,
    step: Any = 1,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """start, start + step, ... below end; int64 when all are integers, else float32.

    For an integer dtype start and step (for int64 end, too) are cut to integers, as in PyTorch.
    """
    start, end = (0, start) if end is None else (0 if start is None else start, end)
    if end is None:
        raise TypeError("arange needs an end: arange(end) or arange(start, end, step)")
    names = {"start": start, "end": end, "step": step}
    start, end, step = (_number("arange", name, value) for name, value in names.items())
    whole = all(isinstance(v, int) for v in (start, end, step))
    kind = as_dtype(dtype or (int64 if whole else float32))
    if not all(map(math.isfinite, (start, end, step))) or kind == bool_:
        raise ValueError(f"arange: {start}, {end}, {step} as {kind} is no row of numbers")
    leads = (end - start) * step >= 0
    if kind == int64:  # exact beyond 2^53
        start, end, step = int(start), int(end), int(step)
    moved = step if kind.kind == "f" else int(step)
    if moved == 0 or not leads:
        raise ValueError(f"arange: the step {moved} does not lead from {start} to {end}")
    count = -((start - end) // step) if kind == int64 else math.ceil((end - start) / step)
    start = start if kind.kind == "f" else int(start)
    steps = backend_named(device).xp.arange(max(count, 0))
    return _made((start + moved * steps).astype(kind), requires_grad)


def linspace(
    start: float,
    end: float,
    steps: int,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """``steps`` numbers from start to end, both included; integers cut fractions off."""
    start, end = _number("linspace", "start", start), _number("linspace", "end", end)
    kind, (steps,) = as_dtype(dtype or float32), _sizes((steps,), None)
    xp = backend_named(device).xp
    if kind == bool_:
        raise DTypeError("linspace", "booleans are no row of numbers; leave dtype out")
    if kind.kind == "f":
        return _made(xp.linspace(start, end, steps, dtype=kind), requires_grad)
    i, start, end = xp.arange(steps), int(start), int(end)
    step = (end - start) / max(steps - 1, 1)  # from both ends, so that both are exact
    numbers = xp.where(i < steps // 2, start + step * i, end - step * (steps - 1 - i))
    return _made((numbers if steps != 1 else start + i).astype(kind), requires_grad)


def eye(
    n: int,
    m: int | None = None,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Ones on the diagonal of an (n, m) matrix."""
    shape = _sizes((n, n if m is None else m), None)
    kind = as_dtype(dtype or float32)
    return _made(backend_named(device).xp.eye(*shape, dtype=kind), requires_grad)


def randn(
    *sizes: Any,
    size: Any = None,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Normal with mean 0 and variance 1, drawn on the host so that every device gets the same."""
    _drawn_as("randn", dtype)
    drawn = generator().standard_normal(_sizes(sizes, size))
    return _drawn(drawn, dtype or float32, device, requires_grad)


def rand(
    *sizes: Any,
    size: Any = None,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Uniform in [0, 1)."""
    drawn = generator().random(_sizes(sizes, size), _drawn_as("rand", dtype))
    return _drawn(drawn, dtype or float32, device, requires_grad)


def _drawn_as(name: str, dtype: Any) -> Any:
    """What fractions are drawn in; DTypeError for integers, which would cut them off."""
    kind = as_dtype(dtype or float32)
    if kind.kind != "f":
        raise DTypeError(name, f"dtype is {kind}, the numbers drawn are fractions; use tc.randint")
    return np.float64 if kind == float64 else np.float32


def randint(
    low: int = 0, high: Any = None, size: Any = None, dtype: Any = None, device: str | None = None
) -> Tensor:
    """Integers low <= i < high: ``randint(10, (3,))`` or ``randint(0, 10, (3,))``.

    ValueError where there are none, or where the dtype has no room for them.
    """
    if size is None:  # randint(10, (3,))
        high, size = None, high
    if high is None:
        low, high = 0, low
    low, high = sizes_of((low, high))
    kind = as_dtype(dtype or int64)
    if low >= high:
        raise ValueError(f"randint: there is no integer from {low} to below {high}")
    least, most = (0, 1) if kind == bool_ else (low, high)
    if kind.kind in "iu":
        least, most = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
    if low < least or high - 1 > most:
        raise ValueError(f"randint: {kind} holds {least}..{most}, not {low}..{high - 1}")
    return _drawn(generator().integers(low, high, _sizes((), size)), kind, device, False)


def randperm(n: int, device: str | None = None) -> Tensor:
    """0..n-1 in random order."""
    (n,) = _sizes((n,), None)
    return _drawn(generator().permutation(n), int64, device, False)


def _drawn(array: Array, dtype: Any, device: str | None, requires_grad: bool) -> Tensor:
    return _made(
        backend_named(device).xp.asarray(np.asarray(array, as_dtype(dtype))), requires_grad
    )


def _like(x: Tensor, dtype: Any, device: str | None) -> dict[str, Any]:
    return {"dtype": dtype or x.dtype, "device": device or backend_of(x.array).device}


def zeros_like(
    x: Tensor, dtype: Any = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Zeros of x's shape, dtype and device."""
    return zeros(x.shape, **_like(x, dtype, device), requires_grad=requires_grad)


def ones_like(
    x: Tensor, dtype: Any = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Ones of x's shape, dtype and device."""
    return ones(x.shape, **_like(x, dtype, device), requires_grad=requires_grad)


def full_like(
    x: Tensor,
    fill_value: Any,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """One value everywhere, in x's shape, dtype and device."""
    return full(x.shape, fill_value, **_like(x, dtype, device), requires_grad=requires_grad)


def randn_like(
    x: Tensor, dtype: Any = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Normal numbers in x's shape, dtype and device."""
    return randn(x.shape, **_like(x, dtype, device), requires_grad=requires_grad)


def rand_like(
    x: Tensor, dtype: Any = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Uniform numbers in [0, 1) in x's shape, dtype and device."""
    return rand(x.shape, **_like(x, dtype, device), requires_grad=requires_grad)


def randint_like(
    x: Tensor, low: int, high: int | None = None, dtype: Any = None, device: str | None = None
) -> Tensor:
    """Random integers in x's shape, dtype and device."""
    low, high = (0, low) if high is None else (low, high)
    return randint(low, high, x.shape, **_like(x, dtype, device))
