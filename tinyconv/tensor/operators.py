"""Operators and indexing: ``x + y``, ``x @ y``, ``x[2:, None]``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from tinyconv.autograd import Variable
from tinyconv.errors import not_taken
from tinyconv.ops import elementwise as e, index as ix, linalg as la
from tinyconv.tensor.values import kept_index

if TYPE_CHECKING:
    from tinyconv.tensor.tensor import Tensor


class Operators(Variable):
    __slots__ = ()

    __hash__ = Variable.__hash__  # of the object, in C: tensors are keys wherever a graph is walked

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

    def __pos__(self) -> Self:
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
        return ix.getitem(x, index=kept_index(arrays))
