"""To Python, NumPy and other libraries, without a copy where that can be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tinyconv.autograd import Variable
from tinyconv.backend import Array, backend_of
from tinyconv.errors import DeviceError, DTypeError, GraphError, ShapeError
from tinyconv.ops import elementwise as e, linalg as la

if TYPE_CHECKING:
    from tinyconv.tensor.tensor import Tensor


class Exchange(Variable):
    __slots__ = ()

    # --- to Python and NumPy

    def item(self) -> float | int | bool:
        """The value of a tensor with one element, as a Python number."""
        if self.array.size != 1:
            raise ShapeError(
                "item",
                f"the tensor has shape {self.shape}; only one element makes a number. Reduce it, "
                "x.mean().item(), or x.tolist()",
            )
        return self.array.item()

    def tolist(self) -> Any:
        return self.array.tolist()

    def numpy(self) -> np.ndarray[Any, Any]:
        """The array itself, without a copy; for a tensor of the graph, detach first.

        DeviceError for a tensor on a GPU: to copy it is a decision, x.cpu().
        """
        device = backend_of(self.array).device
        if device.type == "cuda":
            raise DeviceError("numpy", f"the tensor is on {device}; copy it: x.cpu().numpy()")
        if self.requires_grad:
            raise GraphError(
                "numpy",
                "this tensor requires grad and NumPy would lose the graph; use x.detach().numpy()",
            )
        return self.array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        array = self.numpy()
        return array.astype(dtype) if dtype is not None else array.copy() if copy else array

    # --- to other libraries, without a copy

    def _lent(self, how: str) -> Array:
        if self.requires_grad:
            raise GraphError(
                how, "this tensor requires grad and the other library would lose the graph; use "
                "x.detach()"
            )
        return self.array

    def __dlpack__(self, **options: Any) -> Any:
        """DLPack: ``torch.from_dlpack(x)`` and others share this tensor's memory."""
        return self._lent("__dlpack__").__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The memory on the GPU, for CuPy, Numba and PyTorch; AttributeError on the CPU."""
        if not hasattr(self.array, "__cuda_array_interface__"):
            device = backend_of(self.array).device
            raise AttributeError(f"a tensor on {device} has no __cuda_array_interface__")
        return self._lent("__cuda_array_interface__").__cuda_array_interface__

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Tensor:
        """``np.ones(2) * t`` is recorded as ``t * ...`` is; no other ufunc takes a Tensor."""
        operation = _OPERATORS.get(ufunc)
        if operation is not None and method == "__call__" and not options:
            scalars = (type(x) is np.ndarray and not x.ndim for x in inputs)  # np.float64(2) == t
            inputs = tuple(
                x.item() if one else x for x, one in zip(inputs, scalars, strict=True)
            )
            return operation(*inputs)
        if "out" in options:
            raise TypeError(
                f"np.{ufunc.__name__} cannot write a Tensor into a NumPy array; x.array is the raw "
                "array: write the Tensor, `with tc.no_grad(): x -= y`, or x.array -= y.array"
            )
        raise TypeError(
            f"np.{ufunc.__name__} does not take a Tensor; use the operation of tc or of the "
            "Tensor, such as tc.exp(x) for np.exp(x), or pass x.detach().numpy()"
        )

    def __array_function__(self, function: Any, _types: Any, args: Any, params: Any) -> Any:
        """NumPy's functions see the array (`__array__`); its reductions would call ours."""
        name = function.__name__
        if name in _REDUCTIONS:
            array = f"np.{name}(x.detach().numpy())"
            raise TypeError(f"np.{name} does not take a Tensor; use x.{name}() or {array}")
        return np.ndarray.__array_function__(np.empty(0), function, (), args, params)

    def __bool__(self) -> bool:
        if self.array.size != 1:
            raise ShapeError(
                "bool", f"the truth value of {self.array.size} elements is ambiguous; "
                ".any() or .all()",
            )
        return bool(self.array.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.array.dtype.kind not in "iu":
            raise DTypeError("index", f"a {self.dtype} tensor cannot be an index")
        return int(self.item())

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.array.size == 1 and spec else repr(self)


# --- what NumPy asks of a Tensor

_OPERATORS: dict[Any, Any] = {
    np.add: e.plus, np.subtract: e.minus, np.multiply: e.mul, np.true_divide: e.div,
    np.power: e.pow, np.floor_divide: e.floor_divide, np.remainder: e.remainder,
    np.matmul: la.matmul, np.equal: e.eq, np.not_equal: e.ne, np.less: e.lt,
    np.less_equal: e.le, np.greater: e.gt, np.greater_equal: e.ge,
    np.bitwise_and: e.bitwise_and, np.bitwise_or: e.bitwise_or, np.bitwise_xor: e.bitwise_xor,
}  # fmt: skip
_REDUCTIONS = {"sum", "mean", "max", "min", "amax", "amin", "prod", "std", "var", "all", "any"}
