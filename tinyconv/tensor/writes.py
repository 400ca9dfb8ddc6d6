"""Writes in place, for training loops: guarded, and noticed by a later backward pass."""

from __future__ import annotations

import functools
import operator
from typing import Any, Self

from tinyconv.autograd import Variable, check_devices, check_operands, is_tensor, wide_number, wrap
from tinyconv.backend import Array, backend_of, moved
from tinyconv.backend.silence import silence
from tinyconv.clock import date_write
from tinyconv.context import context
from tinyconv.dtypes import float16
from tinyconv.errors import READ_ONLY, DTypeError, GraphError, ShapeError
from tinyconv.inplace import become
from tinyconv.ops import elementwise as e, index as ix, linalg as la
from tinyconv.random import generator
from tinyconv.tensor.values import narrowed, value_of, written_into


class Writes(Variable):
    __slots__ = ()

    def _write(self, name: str, *others: Any) -> Array:
        if context.grad_enabled and (
            self.requires_grad or any(getattr(o, "requires_grad", False) for o in others)
        ):
            kind = "a leaf that requires grad" if self.node is None else "a tensor of the graph"
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
        value = value_of(other)
        check_operands(name, (self, value))
        shape = getattr(value, "shape", ())
        pairs = zip(reversed(shape), reversed(self.shape), strict=False)
        if len(shape) > self.ndim or any(n not in (1, size) for n, size in pairs):
            raise ShapeError(name, f"{shape} does not fit into {self.shape}")
        return value

    def copy_(self, other: Any) -> Self:
        """Overwrite with ``other``, broadcast and cast to this tensor's dtype."""
        value = self._fitting("copy_", other)
        data = self._write("copy_", other)
        if is_tensor(other):  # the one write that crosses devices, as in PyTorch
            value = moved(value, backend_of(data))
        if isinstance(value, (int, float)) and data.dtype.kind in "iu":
            value = backend_of(data).xp.asarray(value)  # which wraps; NumPy's of a number raises
        check_devices("copy_", (data, value))
        with silence():
            data[...] = value
        return self

    def add_(self, other: Any, alpha: float = 1) -> Self:
        """self += alpha * other"""
        return self._update("add_", operator.iadd, e.add, other, alpha)

    def sub_(self, other: Any, alpha: float = 1) -> Self:
        """self -= alpha * other"""
        return self._update("sub_", operator.isub, e.sub, other, alpha)

    def mul_(self, other: Any) -> Self:
        """self *= other"""
        return self._update("mul_", operator.imul, e.mul, other)

    def div_(self, other: Any, *, rounding_mode: str | None = None) -> Self:
        """self /= other, rounded as `div` rounds"""
        if rounding_mode is None:
            return self._update("div_", operator.itruediv, e.div, other)
        rounded = functools.partial(e.divide, rounding_mode=rounding_mode)

        def assign(data: Array, value: Any) -> None:
            data[...] = rounded(data, value)

        return self._update("div_", assign, rounded, other)

    def _update(
        self, name: str, assign: Any, operation: Any, other: Any, alpha: float | None = None
    ) -> Self:
        """What ``operation`` gives, written over this tensor; DTypeError where that needs floats.

        assign: the same in place in memory, for floats.
        """
        value = self._fitting(name, other)
        data = self._write(name, other)
        check_devices(name, (data, value))
        try:
            with silence():
                if data.dtype.kind != "f":
                    value = wrap(value) if is_tensor(other) else value
                    made = operation(wrap(data), value, *(() if alpha is None else (alpha,)))
                    data[...] = narrowed(made.array, data.dtype)
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

    def _in_place(self, assign: Any, operation: Any, other: Any) -> Self:
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

    def __iadd__(self, other: Any) -> Self:
        return become("+=", self, e.plus, other) if self._is_passed(other) else self.add_(other)

    def __isub__(self, other: Any) -> Self:
        return become("-=", self, e.minus, other) if self._is_passed(other) else self.sub_(other)

    def __imul__(self, other: Any) -> Self:
        return become("*=", self, e.mul, other) if self._is_passed(other) else self.mul_(other)

    def __itruediv__(self, other: Any) -> Self:
        return become("/=", self, e.div, other) if self._is_passed(other) else self.div_(other)

    def __ipow__(self, other: Any) -> Self:
        return self._in_place(operator.ipow, e.pow, other)

    def __imod__(self, other: Any) -> Self:
        return self._in_place(operator.imod, e.remainder, other)

    def __ifloordiv__(self, other: Any) -> Self:
        return self._in_place(operator.ifloordiv, e.floor_divide, other)

    def __iand__(self, other: Any) -> Self:
        return self._in_place(operator.iand, e.bitwise_and, other)

    def __ior__(self, other: Any) -> Self:
        return self._in_place(operator.ior, e.bitwise_or, other)

    def __ixor__(self, other: Any) -> Self:
        return self._in_place(operator.ixor, e.bitwise_xor, other)

    def __imatmul__(self, other: Any) -> Self:
        if self._is_passed(other):
            return become("@=", self, la.matmul, other)
        y = la.matmul(wrap(self.array), other)
        if y.shape != self.shape:
            raise ShapeError("x @= y", f"the product is {y.shape}, x is {self.shape}")
        return self.copy_(y)

    def normal_(self, mean: float = 0.0, std: float = 1.0) -> Self:
        """Normal numbers from the one random stream."""
        return self._draw("normal_", generator().normal(mean, std, self.shape))

    def uniform_(self, a: float = 0.0, b: float = 1.0) -> Self:
        """Uniform numbers in [a, b)."""
        return self._draw("uniform_", generator().uniform(a, b, self.shape))

    def _draw(self, name: str, numbers: Any) -> Self:
        if self.array.dtype.kind != "f":
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

    def zero_(self) -> Self:
        return self.fill_(0)

    def fill_(self, value: Any) -> Self:
        data = self._write("fill_", value)
        if getattr(value, "ndim", 0):
            raise ShapeError("fill_", f"the value is {value.shape}, need a number: x.copy_(value)")
        with silence():
            data[...] = written_into("fill_", value, data)
        return self

    def __setitem__(self, index: Any, value: Any) -> None:
        data = self._write("x[...] = value", value)
        first, arrays = ix.split_index(index, data)
        value = written_into("x[...] = value", value, data)
        try:
            if first is not None:  # a view, for an Ellipsis is in it
                data = data[(*first, Ellipsis) if Ellipsis not in first else first]
            with silence():
                data[Ellipsis if arrays is None else arrays] = value
        except (IndexError, TypeError) as error:
            raise ix.bad_index(self.shape, error) from None
        except ValueError as error:
            raise ShapeError("x[...] = value", f"{self.shape}: {error}") from None
