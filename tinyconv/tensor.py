"""Tensor: an array that remembers how it was computed.

No mathematics here: operators and methods name the operations of `tinyconv.ops`.  Names,
argument order and meaning are torch.Tensor's.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any, overload

import numpy as np

from tinyconv import autograd
from tinyconv.autograd import (
    Node,
    Op,
    RemovableHandle,
    Variable,
    check_devices,
    check_operands,
    wide_number,
    wrap,
)
from tinyconv.backend import Array, backend_named, backend_of, device as device_type, moved
from tinyconv.backend.array import is_array
from tinyconv.backend.interchange import shared
from tinyconv.backend.silence import silence
from tinyconv.clock import date_write, owner
from tinyconv.context import context
from tinyconv.dtypes import as_dtype, bool_, float16, float32, float64, int32, int64
from tinyconv.errors import (
    READ_ONLY,
    DeviceError,
    DTypeError,
    GraphError,
    ShapeError,
    not_a_tensor,
    not_taken,
)
from tinyconv.inplace import KeepGrad, become
from tinyconv.ops import (
    elementwise as e,
    index as ix,
    linalg as la,
    reduce as r,
    shape as s,
    sort as so,
)
from tinyconv.random import generator

Dim = int | tuple[int, ...] | None
Bool = bool  # in the class below, `bool` is a method


class Tensor(Variable):
    """An n-dimensional array with reverse-mode automatic differentiation.

    array:          the numbers (numpy.ndarray, cupy.ndarray); backward does not notice what is
                    written into it by hand
    data:           a Tensor without a graph in the same memory, as in PyTorch
    grad:           what backward() accumulated, a Tensor of the same shape, or None
    requires_grad:  are operations on this tensor recorded?
    """

    __slots__ = ()

    def __init__(
        self, data: Any, requires_grad: bool = False, dtype: Any = None, device: str | None = None
    ) -> None:
        self.array = as_array(data, dtype, device)
        self._grad = None
        self.requires_grad = False
        self.node = None
        self.hooks = None
        if requires_grad:
            self.requires_grad_()

    # --- what it is

    @property
    def data(self) -> Tensor:
        """A Tensor without a graph in the same memory; assign a Tensor or an array to replace it.

        DTypeError for anything else, and for integers in the place of what requires grad.
        """
        return wrap(self.array)

    @data.setter
    def data(self, value: Any) -> None:
        array = value.array if isinstance(value, Tensor) else value
        if not hasattr(array, "strides") or not is_array(array):
            raise DTypeError("x.data = value", not_a_tensor("the value", value, "value"))
        if self.requires_grad and array.dtype.kind != "f":
            raise DTypeError(
                "x.data = value", f"the value is {array.dtype}, but x requires grad: value.float()"
            )
        self.array = array

    @property
    def device(self) -> device_type:
        return backend_of(self.array).device

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def nbytes(self) -> int:
        return int(self.array.nbytes)

    @property
    def is_leaf(self) -> bool:
        return self.node is None

    @property
    def op(self) -> Op | None:
        """The operation that computed this tensor; None for a leaf."""
        return None if self.node is None else self.node.op

    @property
    def grad_fn(self) -> Node | None:
        return self.node

    @property
    def params(self) -> dict[str, Any]:
        return {} if self.node is None else self.node.params

    @property
    def scope(self) -> str:
        """Attribute path of the module in which this tensor was computed."""
        return "" if self.node is None else self.node.scope

    @overload
    def size(self) -> tuple[int, ...]: ...
    @overload
    def size(self, dim: int) -> int: ...
    def size(self, dim: int | None = None) -> tuple[int, ...] | int:
        return self.shape if dim is None else self.shape[s.axis_of("size", self.shape, dim)]

    def dim(self) -> int:
        return self.ndim

    def numel(self) -> int:
        return int(self.array.size)

    def nelement(self) -> int:
        return self.numel()

    def is_floating_point(self) -> bool:
        return bool(self.array.dtype.kind == "f")

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a 0-d tensor; x.item() is its value")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if not self.shape:
            raise TypeError("iteration over a 0-d tensor; x.item() is its value")
        return iter(self.unbind(0))

    def __repr__(self) -> str:
        body = np.array2string(
            backend_of(self.array).to_numpy(self.array),
            separator=", ",
            prefix="tensor(",
            threshold=1000,
            precision=4,
        )
        notes = "" if self.dtype in (float32, int64, bool_) else f", dtype={self.dtype}"
        if self.node is not None:
            notes += f", op={self.node.op.name}"
        elif self.requires_grad:
            notes += ", requires_grad=True"
        return f"tensor({body}{notes})"

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
        if self.is_cuda:
            raise DeviceError("numpy", f"the tensor is on {self.device}; copy it: x.cpu().numpy()")
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
            raise AttributeError(f"a tensor on {self.device} has no __cuda_array_interface__")
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
                "bool", f"the truth value of {self.numel()} elements is ambiguous; .any() or .all()"
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

    __hash__ = Variable.__hash__  # of the object, in C: tensors are keys wherever a graph is walked

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if not self.is_leaf:
            raise GraphError("deepcopy", "only leaves can be copied deeply; use x.detach().clone()")
        twin = type(self).__new__(type(self))
        Tensor.__init__(twin, self.array.copy(), requires_grad=self.requires_grad)
        twin.grad = None if self.grad is None else self.grad.detach().clone()
        memo[id(self)] = twin
        return twin

    # --- the graph

    def backward(
        self,
        gradient: Tensor | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
    ) -> None:
        """Add d self / d leaf to ``.grad`` of every leaf that requires grad.

        gradient: what this tensor's gradient is; needed unless it has one element.
        retain_graph: keep the graph for another backward (default: ``create_graph``).
        create_graph: make the gradients differentiable.
        """
        autograd.backward(self, gradient, retain_graph, create_graph)

    def detach(self) -> Tensor:
        """The same memory, cut off from the graph."""
        return wrap(self.array)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Record the operations on this leaf, or stop; returns the tensor."""
        if not self.is_leaf:
            if not requires_grad:
                raise GraphError(
                    "requires_grad_", "only leaves can stop requiring grad; use x.detach()"
                )
            return self
        if requires_grad and self.array.dtype.kind != "f":
            raise DTypeError(
                "requires_grad_",
                f"only floats have gradients, this tensor is {self.dtype}; use x.float()",
            )
        self.requires_grad = requires_grad
        return self

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """Call ``hook(grad)`` when this tensor's gradient is complete; what it returns replaces it.

        Returns a handle; ``handle.remove()`` takes the hook out again.
        """
        if not self.requires_grad:
            raise GraphError(
                "register_hook", "this tensor does not require grad, its hook would never run"
            )
        edge = self.node or self
        if edge.hooks is None:
            edge.hooks = []
        handle = RemovableHandle(edge.hooks, hook)
        edge.hooks.sort(key=lambda found: type(found) is KeepGrad)  # that one sees the result
        return handle

    # --- in place: for training loops; guarded, and noticed by a later backward

    def retain_grad(self) -> None:
        """Keep the gradient of this intermediate result in ``.grad`` too, as a leaf's is."""
        kept = self.node.hooks or () if self.node else ()
        if not (self.is_leaf and self.requires_grad) and not any(
            type(h) is KeepGrad for h in kept
        ):
            self.register_hook(KeepGrad(self))

    def _write(self, name: str, *others: Any) -> Array:
        if context.grad_enabled and (
            self.requires_grad or any(getattr(o, "requires_grad", False) for o in others)
        ):
            kind = "a leaf that requires grad" if self.is_leaf else "a tensor of the graph"
            raise GraphError(
                name,
                f"in-place writes are not recorded, and {kind} takes part. Compute a new tensor "
                "(x = x + y), or write inside `with tc.no_grad():`",
            )
        if not getattr(self.array.flags, "writeable", True):
            raise GraphError(name, READ_ONLY)
        date_write(self.array)
        return self.array

    def _fitting(self, name: str, other: Any) -> Any:
        """The value of ``other``, which must broadcast to this tensor's shape."""
        value = _value(other)
        check_operands(name, (self, value))
        shape = getattr(value, "shape", ())
        pairs = zip(reversed(shape), reversed(self.shape), strict=False)
        if len(shape) > self.ndim or any(n not in (1, size) for n, size in pairs):
            raise ShapeError(name, f"{shape} does not fit into {self.shape}")
        return value

    def copy_(self, other: Any) -> Tensor:
        """Overwrite with ``other``, broadcast and cast to this tensor's dtype."""
        value = self._fitting("copy_", other)
        data = self._write("copy_", other)
        if isinstance(other, Tensor):  # the one write that crosses devices, as in PyTorch
            value = moved(value, backend_of(data))
        if isinstance(value, (int, float)) and data.dtype.kind in "iu":
            value = backend_of(data).xp.asarray(value)  # which wraps; NumPy's of a number raises
        check_devices("copy_", (data, value))
        with silence():
            data[...] = value
        return self

    def add_(self, other: Any, alpha: float = 1) -> Tensor:
        """self += alpha * other"""
        return self._update("add_", operator.iadd, e.add, other, alpha)

    def sub_(self, other: Any, alpha: float = 1) -> Tensor:
        """self -= alpha * other"""
        return self._update("sub_", operator.isub, e.sub, other, alpha)

    def mul_(self, other: Any) -> Tensor:
        """self *= other"""
        return self._update("mul_", operator.imul, e.mul, other)

    def div_(self, other: Any, *, rounding_mode: str | None = None) -> Tensor:
        """self /= other, rounded as `div` rounds"""
        if rounding_mode is None:
            return self._update("div_", operator.itruediv, e.div, other)
        rounded = functools.partial(e.divide, rounding_mode=rounding_mode)

        def assign(data: Array, value: Any) -> None:
            data[...] = rounded(data, value)

        return self._update("div_", assign, rounded, other)

    def _update(
        self, name: str, assign: Any, operation: Any, other: Any, alpha: float | None = None
    ) -> Tensor:
        """What ``operation`` gives, written over this tensor; DTypeError where that needs floats.

        assign: the same in place in memory, for floats.
        """
        value = self._fitting(name, other)
        data = self._write(name, other)
        check_devices(name, (data, value))
        try:
            with silence():
                if data.dtype.kind != "f":
                    value = wrap(value) if isinstance(other, Tensor) else value
                    made = operation(wrap(data), value, *(() if alpha is None else (alpha,)))
                    data[...] = _narrowed(made.array, data.dtype)
                else:
                    if data.dtype == float16 and getattr(operation, "float32_number", False):
                        value = wide_number(value) if isinstance(value, (int, float)) else value
                    assign(data, value if alpha in (None, 1) else value * alpha)
        except TypeError as error:
            if isinstance(error, DTypeError):
                raise
            kind = getattr(value, "dtype", type(value).__name__)
            said = f"the result of {self.dtype} and {kind} is no {self.dtype}; convert: x.float()"
            raise DTypeError(name, said) from None
        return self

    def _in_place(self, assign: Any, operation: Any, other: Any) -> Tensor:
        """``x op= y``: recorded where a gradient passes, else a write like any other."""
        if self._is_passed(other):
            return become(f"x {operation.name}= y", self, operation, other)
        return self._update(f"x {operation.name}= y", assign, operation, other)

    def _is_passed(self, other: Any) -> bool:
        """Is ``x += y`` recorded?  Else it is a write like any other."""
        return context.grad_enabled and (
            self.node is not None
            or (not self.requires_grad and getattr(other, "requires_grad", False))
        )

    def __iadd__(self, other: Any) -> Tensor:
        return become("+=", self, e.plus, other) if self._is_passed(other) else self.add_(other)

    def __isub__(self, other: Any) -> Tensor:
        return become("-=", self, e.minus, other) if self._is_passed(other) else self.sub_(other)

    def __imul__(self, other: Any) -> Tensor:
        return become("*=", self, e.mul, other) if self._is_passed(other) else self.mul_(other)

    def __itruediv__(self, other: Any) -> Tensor:
        return become("/=", self, e.div, other) if self._is_passed(other) else self.div_(other)

    def __ipow__(self, other: Any) -> Tensor:
        return self._in_place(operator.ipow, e.pow, other)

    def __imod__(self, other: Any) -> Tensor:
        return self._in_place(operator.imod, e.remainder, other)

    def __ifloordiv__(self, other: Any) -> Tensor:
        return self._in_place(operator.ifloordiv, e.floor_divide, other)

    def __iand__(self, other: Any) -> Tensor:
        return self._in_place(operator.iand, e.bitwise_and, other)

    def __ior__(self, other: Any) -> Tensor:
        return self._in_place(operator.ior, e.bitwise_or, other)

    def __ixor__(self, other: Any) -> Tensor:
        return self._in_place(operator.ixor, e.bitwise_xor, other)

    def __imatmul__(self, other: Any) -> Tensor:
        if self._is_passed(other):
            return become("@=", self, la.matmul, other)
        y = la.matmul(self.detach(), other)
        if y.shape != self.shape:
            raise ShapeError("x @= y", f"the product is {y.shape}, x is {self.shape}")
        return self.copy_(y)

    def normal_(self, mean: float = 0.0, std: float = 1.0) -> Tensor:
        """Normal numbers from the one random stream."""
        return self._draw("normal_", generator().normal(mean, std, self.shape))

    def uniform_(self, a: float = 0.0, b: float = 1.0) -> Tensor:
        """Uniform numbers in [a, b)."""
        return self._draw("uniform_", generator().uniform(a, b, self.shape))

    def _draw(self, name: str, numbers: Any) -> Tensor:
        if not self.is_floating_point():
            raise DTypeError(name, f"a {self.dtype} tensor cannot hold such numbers; x.float()")
        self._write(name)[...] = backend_of(self.array).xp.asarray(numbers)
        return self

    def _zero_grad(self, set_to_none: bool) -> None:
        """Forget the gradient, or set it to zero where it stands."""
        held = self._grad
        if held is None or set_to_none:
            self._grad = None
            return
        held.node = None
        held.requires_grad = False
        held.zero_()

    def zero_(self) -> Tensor:
        return self.fill_(0)

    def fill_(self, value: Any) -> Tensor:
        data = self._write("fill_", value)
        if getattr(value, "ndim", 0):
            raise ShapeError("fill_", f"the value is {value.shape}, need a number: x.copy_(value)")
        with silence():
            data[...] = _written("fill_", value, data)
        return self

    def __setitem__(self, index: Any, value: Any) -> None:
        data = self._write("x[...] = value", value)
        first, arrays = ix.split_index(index, data)
        value = _written("x[...] = value", value, data)
        try:
            if first is not None:  # a view, for an Ellipsis is in it
                data = data[(*first, Ellipsis) if Ellipsis not in first else first]
            with silence():
                data[Ellipsis if arrays is None else arrays] = value
        except (IndexError, TypeError) as error:
            raise ix.bad_index(self.shape, error) from None
        except ValueError as error:
            raise ShapeError("x[...] = value", f"{self.shape}: {error}") from None

    # --- dtype and device

    def to(
        self,
        *targets: Any,
        device: str | None = None,
        dtype: Any = None,
        non_blocking: Any = False,
        copy: Any = False,
    ) -> Tensor:
        """Another dtype or device, or both: ``x.to(tc.float64)``, ``x.to("cuda")``, ``x.to(y)``.

        The tensor itself if it is that already, unless copy.  non_blocking: PyTorch's, without
        effect; it and copy may follow by position.
        """
        flags = [target for target in targets if isinstance(target, Bool)]
        copy = copy or any(flags[1:])
        for target in targets[: len(targets) - len(flags)]:
            if isinstance(target, Tensor):
                device, dtype = target.device, target.dtype
            elif isinstance(target, str) and not hasattr(np, target):
                device = target
            else:
                dtype = target
        wanted = self.dtype if dtype is None else as_dtype(dtype)
        x = self if wanted == self.dtype else e.to_dtype(self, dtype=wanted)
        if device is None or backend_named(device) is backend_of(x.array):
            return e.clone(x) if copy and x is self else x
        return e.to_device(x, device=device, source=x.device)

    def cpu(self) -> Tensor:
        """In the memory that NumPy sees."""
        return self.to("cpu")

    def cuda(self, device: Any = None, non_blocking: Any = False) -> Tensor:
        """On the GPU; DeviceError where there is none.  device: its number, the present one's."""
        return self.to(device_type("cuda", device) if isinstance(device, int) else device or "cuda")

    def float(self) -> Tensor:
        return self.to(float32)

    def double(self) -> Tensor:
        return self.to(float64)

    def half(self) -> Tensor:
        return self.to(float16)

    def long(self) -> Tensor:
        return self.to(int64)

    def bool(self) -> Tensor:
        return self.to(bool_)

    def clone(self) -> Tensor:
        """A copy that stays in the graph."""
        return e.clone(self)

    def contiguous(self) -> Tensor:
        """Row-major memory; the tensor itself if it has it."""
        return self if self.array.flags.c_contiguous else e.clone(self, order="C")

    # --- operators

    def __add__(self, other: Any) -> Tensor:
        return e.plus.apply(self, other)

    def __radd__(self, other: Any) -> Tensor:
        return e.plus(other, self)

    def __sub__(self, other: Any) -> Tensor:
        return e.minus(self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return e.minus(other, self)

    def __mul__(self, other: Any) -> Tensor:
        return e.mul.apply(self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return e.mul(other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return e.div(self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return e.div(other, self)

    def __pow__(self, other: Any) -> Tensor:
        return e.pow(self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return e.pow(other, self)

    def __floordiv__(self, other: Any) -> Tensor:
        return e.floor_divide(self, other)

    def __rfloordiv__(self, other: Any) -> Tensor:
        return e.floor_divide(other, self)

    def __mod__(self, other: Any) -> Tensor:
        return e.remainder(self, other)

    def __rmod__(self, other: Any) -> Tensor:
        return e.remainder(other, self)

    def __neg__(self) -> Tensor:
        return e.neg(self)

    def __pos__(self) -> Tensor:
        if self.dtype.kind == "b":
            raise not_taken("+x", "x", self.dtype)
        return self

    def __abs__(self) -> Tensor:
        return e.abs_(self)

    def __matmul__(self, other: Any) -> Tensor:
        return la.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return la.matmul(other, self)

    def __eq__(self, other: Any) -> Tensor:  # type: ignore[override]
        return NotImplemented if other is None else e.eq(self, other)  # x == None is False

    def __ne__(self, other: Any) -> Tensor:  # type: ignore[override]
        return NotImplemented if other is None else e.ne(self, other)

    def __lt__(self, other: Any) -> Tensor:
        return e.lt(self, other)

    def __le__(self, other: Any) -> Tensor:
        return e.le(self, other)

    def __gt__(self, other: Any) -> Tensor:
        return e.gt(self, other)

    def __ge__(self, other: Any) -> Tensor:
        return e.ge(self, other)

    def __and__(self, other: Any) -> Tensor:
        return e.bitwise_and(self, other)

    def __rand__(self, other: Any) -> Tensor:
        return e.bitwise_and(other, self)

    def __or__(self, other: Any) -> Tensor:
        return e.bitwise_or(self, other)

    def __ror__(self, other: Any) -> Tensor:
        return e.bitwise_or(other, self)

    def __xor__(self, other: Any) -> Tensor:
        return e.bitwise_xor(self, other)

    def __rxor__(self, other: Any) -> Tensor:
        return e.bitwise_xor(other, self)

    def __invert__(self) -> Tensor:
        return e.bitwise_not(self)

    def __getitem__(self, index: Any) -> Tensor:
        first, arrays = ix.split_index(index, self.array)
        if arrays is None:
            return ix.getitem(self, index=first)
        x = self if first is None else ix.getitem(self, index=first)
        return ix.getitem(x, index=_kept(arrays))

    # --- elementwise

    def add(self, other: Any, alpha: Any = 1) -> Tensor:
        return e.add(self, other, alpha)

    def sub(self, other: Any, alpha: Any = 1) -> Tensor:
        return e.sub(self, other, alpha)

    def mul(self, other: Any) -> Tensor:
        return e.mul.apply(self, other)

    def div(self, other: Any, *, rounding_mode: str | None = None) -> Tensor:
        return e.divide(self, other, rounding_mode=rounding_mode)

    def pow(self, exponent: Any) -> Tensor:
        return e.pow(self, exponent)

    def neg(self) -> Tensor:
        return e.neg(self)

    def abs(self) -> Tensor:
        return e.abs_(self)

    def exp(self) -> Tensor:
        return e.exp(self)

    def expm1(self) -> Tensor:
        return e.expm1(self)

    def log(self) -> Tensor:
        return e.log(self)

    def log1p(self) -> Tensor:
        return e.log1p(self)

    def sqrt(self) -> Tensor:
        return e.sqrt(self)

    def rsqrt(self) -> Tensor:
        return e.rsqrt(self)

    def sin(self) -> Tensor:
        return e.sin(self)

    def cos(self) -> Tensor:
        return e.cos(self)

    def tanh(self) -> Tensor:
        return e.tanh.apply(self)

    def sigmoid(self) -> Tensor:
        return e.sigmoid(self)

    def relu(self) -> Tensor:
        return e.relu.apply(self)

    def erf(self) -> Tensor:
        return e.erf(self)

    def sign(self) -> Tensor:
        return e.sign(self)

    def isnan(self) -> Tensor:
        return e.isnan(self)

    def isfinite(self) -> Tensor:
        return e.isfinite(self)

    def clamp(self, min: Any = None, max: Any = None) -> Tensor:
        return e.clamp(self, min, max)

    def maximum(self, other: Any) -> Tensor:
        return e.maximum(self, other)

    def minimum(self, other: Any) -> Tensor:
        return e.minimum(self, other)

    def masked_fill(self, mask: Tensor, value: Any) -> Tensor:
        return e.masked_fill(self, mask, value)

    def where(self, condition: Tensor, other: Any) -> Tensor:
        return e.where(condition, self, other)

    def eq(self, other: Any) -> Tensor:
        return e.eq(self, other)

    def ne(self, other: Any) -> Tensor:
        return e.ne(self, other)

    def lt(self, other: Any) -> Tensor:
        return e.lt(self, other)

    def le(self, other: Any) -> Tensor:
        return e.le(self, other)

    def gt(self, other: Any) -> Tensor:
        return e.gt(self, other)

    def ge(self, other: Any) -> Tensor:
        return e.ge(self, other)

    # --- products

    def matmul(self, other: Tensor) -> Tensor:
        return la.matmul(self, other)

    def mm(self, other: Tensor) -> Tensor:
        return la.mm(self, other)

    def bmm(self, other: Tensor) -> Tensor:
        return la.bmm(self, other)

    def outer(self, other: Tensor) -> Tensor:
        return la.outer(self, other)

    # --- reductions

    def sum(self, dim: Dim = None, keepdim: Any = False, dtype: Any = None) -> Tensor:
        return r.sum(self, dim=dim, keepdim=keepdim, dtype=dtype)

    def mean(self, dim: Dim = None, keepdim: Any = False, dtype: Any = None) -> Tensor:
        return r.mean(self, dim=dim, keepdim=keepdim, dtype=dtype)

    def amax(self, dim: Dim = None, keepdim: Any = False) -> Tensor:
        return r.amax(self, dim=dim, keepdim=keepdim)

    def amin(self, dim: Dim = None, keepdim: Any = False) -> Tensor:
        return r.amin(self, dim=dim, keepdim=keepdim)

    def max(self, dim: int | Tensor | None = None, keepdim: Any = False, other: Any = None) -> Any:
        return r.max(self, dim, keepdim, other)

    def min(self, dim: int | Tensor | None = None, keepdim: Any = False, other: Any = None) -> Any:
        return r.min(self, dim, keepdim, other)

    def var(
        self, dim: Dim = None, correction: Any = 1, keepdim: Any = False, unbiased: Any = None
    ) -> Tensor:
        return r.var(self, dim, correction, keepdim, unbiased)

    def std(
        self, dim: Dim = None, correction: Any = 1, keepdim: Any = False, unbiased: Any = None
    ) -> Tensor:
        return r.std(self, dim, correction, keepdim, unbiased)

    def argmax(self, dim: int | None = None, keepdim: Any = False) -> Tensor:
        return r.argmax(self, dim=dim, keepdim=keepdim)

    def argmin(self, dim: int | None = None, keepdim: Any = False) -> Tensor:
        return r.argmin(self, dim=dim, keepdim=keepdim)

    def prod(self, dim: int | None = None, keepdim: Any = False) -> Tensor:
        return r.prod(self, dim=dim, keepdim=keepdim)

    def logsumexp(self, dim: Dim, keepdim: Any = False) -> Tensor:
        return r.logsumexp(self, dim=dim, keepdim=keepdim)

    def norm(self, p: Any = 2.0, dim: Dim = None, keepdim: Any = False) -> Tensor:
        return r.norm(self, p, dim, keepdim)

    def cumsum(self, dim: int) -> Tensor:
        return r.cumsum(self, dim=dim)

    def equal(self, other: Tensor) -> Any:
        return r.equal(self, other)

    def all(self, dim: Dim = None, keepdim: Any = False) -> Tensor:
        return r.all(self, dim, keepdim)

    def any(self, dim: Dim = None, keepdim: Any = False) -> Tensor:
        return r.any(self, dim, keepdim)

    def softmax(self, dim: int, dtype: Any = None) -> Tensor:
        return r.softmax(self, dim=dim, dtype=dtype)

    def log_softmax(self, dim: int, dtype: Any = None) -> Tensor:
        return r.log_softmax(self, dim=dim, dtype=dtype)

    # --- shape

    def reshape(self, *shape: Any) -> Tensor:
        return s.reshape(self, shape=_shape(shape))

    def reshape_as(self, other: Tensor) -> Tensor:
        return self.reshape(other.shape)

    def view_as(self, other: Tensor) -> Tensor:
        return self.view(other.shape)

    def view(self, *shape: Any) -> Tensor:
        """The same memory in another shape; ShapeError where that would need a copy."""
        y = s.reshape(self, shape=_shape(shape))
        if owner(y.array) is not owner(self.array):
            raise ShapeError(
                "view",
                f"{self.shape} with strides {self.array.strides} cannot be seen as {y.shape} "
                f"without a copy; x.reshape({str(y.shape)[1:-1].rstrip(',')}) makes one",
            )
        return y

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        return s.flatten(self, start_dim, end_dim)

    def squeeze(self, dim: Dim = None) -> Tensor:
        return s.squeeze(self, dim)

    def unsqueeze(self, dim: int) -> Tensor:
        return s.unsqueeze(self, dim)

    def transpose(self, dim0: int, dim1: int, *more: int) -> Tensor:
        """Exchange two axes; with more than two arguments, permute."""
        return s.permute(self, dims=(dim0, dim1, *more)) if more else s.transpose(self, dim0, dim1)

    def permute(self, *dims: Any) -> Tensor:
        return s.permute(self, dims=_shape(dims))

    @property
    def T(self) -> Tensor:
        return s.permute(self, dims=tuple(reversed(range(self.ndim))))

    def t(self) -> Tensor:
        """A matrix transposed."""
        if self.ndim > 2:
            raise ShapeError(
                "t", f"{self.shape} has {self.ndim} axes, t() wants 2; x.transpose(-1, -2)"
            )
        return self.T

    def repeat(self, *sizes: Any) -> Tensor:
        """Copies side by side, ``sizes[i]`` of them along axis i."""
        counts = _shape(sizes)
        if len(counts) < self.ndim:
            raise ShapeError(
                "repeat", f"{len(counts)} counts given, the tensor has {self.ndim} axes"
            )
        return s.tile(self, counts)

    def tile(self, *dims: Any) -> Tensor:
        return s.tile(self, _shape(dims))

    def tril(self, diagonal: int = 0) -> Tensor:
        return s.tril(self, diagonal=diagonal)

    def triu(self, diagonal: int = 0) -> Tensor:
        return s.triu(self, diagonal=diagonal)

    def expand(self, *sizes: Any) -> Tensor:
        return s.broadcast_to(self, shape=s.expand_shape("expand", self.shape, _shape(sizes)))

    def broadcast_to(self, *sizes: Any, shape: Any = ()) -> Tensor:
        return s.broadcast_to(self, shape=_shape(sizes or (shape,)))

    def flip(self, *axes: Any, dims: Any = ()) -> Tensor:
        return s.flip(self, dims=_shape(axes or (dims,)))

    def roll(self, shifts: Any, dims: Any = None) -> Tensor:
        return s.roll(self, shifts=shifts, dims=dims)

    def split(self, size: Any, dim: int = 0) -> tuple[Tensor, ...]:
        return s.split(self, size, dim)

    def chunk(self, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
        return s.chunk(self, chunks, dim)

    def unbind(self, dim: int = 0) -> tuple[Tensor, ...]:
        return s.unbind(self, dim)

    # --- positions

    def gather(self, dim: int, index: Tensor) -> Tensor:
        return ix.gather(self, dim, index)

    def scatter_add(self, dim: int, index: Tensor, src: Tensor) -> Tensor:
        return ix.scatter_add(self, dim, index, src)

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        return ix.index_select(self, dim, index)

    def sort(self, dim: int = -1, descending: Any = False, stable: Any = False) -> so.Sorted:
        return so.sort(self, dim, descending, stable)

    def argsort(self, dim: int = -1, descending: Any = False, stable: Any = False) -> Tensor:
        return so.argsort(self, dim=dim, descending=descending, stable=stable)

    def topk(self, k: int, dim: int = -1, largest: Any = True, sorted: Any = True) -> so.Sorted:
        return so.topk(self, k, dim, largest, sorted)

    def int(self) -> Tensor:  # the last: above it, `int` in an annotation is Python's
        return self.to(int32)


Variable.tensor_type = Tensor


# --- what NumPy asks of a Tensor

_OPERATORS: dict[Any, Any] = {
    np.add: e.plus, np.subtract: e.minus, np.multiply: e.mul, np.true_divide: e.div,
    np.power: e.pow, np.floor_divide: e.floor_divide, np.remainder: e.remainder,
    np.matmul: la.matmul, np.equal: e.eq, np.not_equal: e.ne, np.less: e.lt,
    np.less_equal: e.le, np.greater: e.gt, np.greater_equal: e.ge,
    np.bitwise_and: e.bitwise_and, np.bitwise_or: e.bitwise_or, np.bitwise_xor: e.bitwise_xor,
}  # fmt: skip
_REDUCTIONS = {"sum", "mean", "max", "min", "amax", "amin", "prod", "std", "var", "all", "any"}

# --- values that people pass


def as_array(data: Any, dtype: Any = None, device: str | None = None) -> Array:
    """A new array of what ``tc.tensor`` accepts; Python floats become float32."""
    if isinstance(data, Tensor):
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
    if isinstance(data, Tensor):
        data = backend_of(data.array).to_numpy(data.array)
    if hasattr(data, "dtype"):
        dtypes.add(data.dtype)
    return data


def _value(other: Any) -> Any:
    return other.array if isinstance(other, Tensor) else other


def _written(name: str, value: Any, data: Array) -> Any:
    """A value as it is written into ``data``: numbers that its dtype has no room for raise."""
    value = _value(value)
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


def _narrowed(made: Array, dtype: Any) -> Array:
    """What is written over integers or booleans; TypeError for floats, and integers over bools."""
    if made.dtype.kind == "f" or (dtype.kind == "b" and made.dtype.kind != "b"):
        raise TypeError
    return made


def _kept(index: Any) -> Any:
    """An index that later writes cannot change: the backward pass reads it again."""
    if isinstance(index, tuple):
        return tuple(part.copy() if hasattr(part, "dtype") else part for part in index)
    return index.copy() if hasattr(index, "dtype") else index


def _shape(sizes: tuple[Any, ...]) -> tuple[int, ...]:
    """``f(2, 3)`` and ``f((2, 3))`` mean the same."""
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = tuple(sizes[0])
    try:
        return tuple(map(operator.index, sizes))
    except TypeError:
        raise DTypeError("size", f"{sizes} must be made of integers; // divides into one") from None
