"""Methods that name operations: ``x.sum(0)`` is ``tc.sum(x, 0)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinyconv.autograd import Variable
from tinyconv.clock import owner
from tinyconv.errors import ShapeError
from tinyconv.ops import (
    elementwise as e,
    index as ix,
    linalg as la,
    reduce as r,
    shape as s,
    sort as so,
)
from tinyconv.tensor.values import sizes_of

if TYPE_CHECKING:
    from tinyconv.tensor.tensor import Tensor

Dim = int | tuple[int, ...] | None


class Methods(Variable):
    __slots__ = ()

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
        return s.reshape(self, shape=sizes_of(shape))

    def reshape_as(self, other: Tensor) -> Tensor:
        return self.reshape(other.shape)

    def view_as(self, other: Tensor) -> Tensor:
        return self.view(other.shape)

    def view(self, *shape: Any) -> Tensor:
        """The same memory in another shape; ShapeError where that would need a copy."""
        y = s.reshape(self, shape=sizes_of(shape))
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
        return s.permute(self, dims=sizes_of(dims))

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
        counts = sizes_of(sizes)
        if len(counts) < self.ndim:
            raise ShapeError(
                "repeat", f"{len(counts)} counts given, the tensor has {self.ndim} axes"
            )
        return s.tile(self, counts)

    def tile(self, *dims: Any) -> Tensor:
        return s.tile(self, sizes_of(dims))

    def tril(self, diagonal: int = 0) -> Tensor:
        return s.tril(self, diagonal=diagonal)

    def triu(self, diagonal: int = 0) -> Tensor:
        return s.triu(self, diagonal=diagonal)

    def expand(self, *sizes: Any) -> Tensor:
        return s.broadcast_to(self, shape=s.expand_shape("expand", self.shape, sizes_of(sizes)))

    def broadcast_to(self, *sizes: Any, shape: Any = ()) -> Tensor:
        return s.broadcast_to(self, shape=sizes_of(sizes or (shape,)))

    def flip(self, *axes: Any, dims: Any = ()) -> Tensor:
        return s.flip(self, dims=sizes_of(axes or (dims,)))

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
