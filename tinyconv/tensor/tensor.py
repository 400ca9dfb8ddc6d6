"""Tensor: an array that remembers how it was computed.

No mathematics here: operators and methods name the operations of `tinyconv.ops`.  Names,
argument order and meaning are torch.Tensor's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, overload

import numpy as np

from tinyconv import autograd
from tinyconv.autograd import Node, Op, RemovableHandle, Variable, wrap
from tinyconv.backend import backend_of, device as device_type
from tinyconv.backend.array import is_array
from tinyconv.dtypes import bool_, float32, int64
from tinyconv.errors import DTypeError, GraphError, not_a_tensor
from tinyconv.inplace import KeepGrad
from tinyconv.ops import shape as s
from tinyconv.tensor.conversions import Conversions
from tinyconv.tensor.exchange import Exchange
from tinyconv.tensor.methods import Methods
from tinyconv.tensor.operators import Operators
from tinyconv.tensor.values import as_array
from tinyconv.tensor.writes import Writes


class Tensor(Operators, Methods, Writes, Conversions, Exchange):
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

    def retain_grad(self) -> None:
        """Keep the gradient of this intermediate result in ``.grad`` too, as a leaf's is."""
        kept = self.node.hooks or () if self.node else ()
        if not (self.is_leaf and self.requires_grad) and not any(
            type(h) is KeepGrad for h in kept
        ):
            self.register_hook(KeepGrad(self))


Variable.tensor_type = Tensor
