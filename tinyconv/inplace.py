"""In-place operations on tensors of the graph: the tensor becomes its own result.

An array that the graph may need is not overwritten: the result is computed as by the operation
that is not in place, and the Tensor object takes over its array and its node.  So every name of
that object sees it.  Other objects that see the same memory are served, too:

- The numbers are written into memory that anything but this tensor may refer to.  The write is
  dated (`tinyconv.clock`), so a node that saved the old numbers raises its GraphError.
- A tensor of the graph in that memory, a view or what this is a view of, has the new numbers but
  not their derivative.  It gets a node that raises a GraphError when a gradient comes by.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tinyconv.autograd import Node, Op, Reads, Variable, is_seen
from tinyconv.backend import Array
from tinyconv.clock import date_write, owner, tick
from tinyconv.context import context
from tinyconv.errors import DTypeError, GraphError, ShapeError

if TYPE_CHECKING:
    from tinyconv.tensor import Tensor

T = TypeVar("T")


def become(name: str, x: T, function: Callable[..., Any], *args: Any) -> T:
    """x, which is now ``function(x, *args)``: what an in-place operation returns.

    ShapeError or DTypeError where the result does not fit into x; GraphError for a leaf that
    requires grad while the mode records, for a view of one, and for read-only memory.
    """
    if not isinstance(x, Variable):
        return function(x, *args)
    before = x.node
    if before is None and x.requires_grad and context.grad_enabled:
        raise GraphError(
            name,
            "a leaf that requires grad is used in an in-place operation. Compute a new tensor "
            "(inplace=False, x = x + y), or write inside `with tc.no_grad():`",
        )
    if is_seen(x):
        return _become_where_seen(name, x, function, args)
    y = function(x, *args)
    if y.array.shape != x.array.shape or y.array.dtype is not x.array.dtype:
        _check_fits(name, x, y)
    x.array = y.array
    if y.node is not None and y is not x:
        _take_node(x, y.node)
    return x


def _become_where_seen(name: str, x: Any, function: Callable[..., Any], args: Any) -> Any:
    """The same where others than x may see its memory."""
    if not getattr(x.array.flags, "writeable", True):
        raise GraphError(
            name, "the memory is read-only, that of an expanded tensor, say; use x.clone()"
        )
    old = x.array
    x.array = old.copy("K")  # what is saved on the way is no memory that is about to be written
    try:
        y = function(x, *args)
        if y is x:  # dropout in evaluation
            return x
        _check_fits(name, x, y)
        _write(name, x, old, y)
    finally:
        x.array = old
    if y.node is not None:
        _take_node(x, y.node)
    return x


def _take_node(x: Variable, made: Node) -> None:
    """x is what ``made`` computed; `retain_grad` keeps the gradient of that from here on."""
    hooks = None if x.node is None else x.node.hooks
    x.node = made
    x.requires_grad = True
    if hooks:
        kept = [hook for hook in hooks if type(hook) is KeepGrad and hook.tensor() is x]
        for hook in kept:
            hooks.remove(hook)
        if kept:
            made.hooks = [*kept]


def _check_fits(name: str, x: Variable, y: Variable) -> None:
    if y.shape != x.shape:
        raise ShapeError(
            name, f"the result has shape {y.shape} and does not fit into {x.shape}; x = x + y "
            "makes a new tensor"
        )
    if y.dtype != x.dtype:
        raise DTypeError(
            name, f"the result is {y.dtype} and does not fit into {x.dtype}; convert: x.float()"
        )


def _write(name: str, x: Variable, old: Array, y: Variable) -> None:
    """The numbers of y into memory that others than x see, too."""
    if y.node is not None:
        _refuse_others(name, x, old, y.node)
    if x.node is not None:  # the operation that made x keeps what it returned, the copy
        kept = tuple(x.array if output is old else output for output in x.node.outputs)
        x.node.output = kept[0] if x.node.op.outputs == 1 else kept
    date_write(old)
    old[...] = y.array


def _refuse_others(name: str, x: Variable, old: Array, made: Node) -> None:
    """Tensors in the memory of x whose derivative the write changes must not be differentiated.

    They are looked for among all objects: it is rare, and costs nothing where it does not happen.
    """
    memory = owner(old)
    others = [
        o for o in gc.get_objects()
        if issubclass(type(o), Variable) and o is not x and hasattr(o, "array")
        and owner(o.array) is memory and np.may_share_memory(o.array, old)
    ]
    views = []
    for other in others:
        if other.requires_grad and other.node is None:
            if x.node is not None or other.array is not old:
                raise GraphError(
                    name,
                    "a view of a leaf that requires grad is used in an in-place operation. "
                    "Compute a new tensor (inplace=False, x = x + y), or write inside "
                    "`with tc.no_grad():`",
                )
        elif other.requires_grad or (x.node is None and other.array is not old):
            views.append(other)
    for view in views:
        view.node = _dead_end(view, made)
        view.requires_grad = True


def _overwritten(_g: Any) -> None:
    raise GraphError(
        "in-place write",
        "a tensor that is used here shares its memory with one that was written in place (it is a "
        "view of that one, or the other way round); its derivative is not known. Take views after "
        "the write, or write a copy: x = x.clone()",
    )


_SHARED = Op(
    lambda *xs: xs[0], "written_through_a_view", same=None, differentiable=True, samples=()
)


def _dead_end(x: Variable, made: Node) -> Node:
    """A node in the place of x's that leads where x's and the write's do, and raises on the way."""
    node = Node()
    node.op = _SHARED
    node.links = [made] if x.node is None else [x.node, made]
    node.reads = Reads(len(node.links), 0, (), (), (), ())
    node.output = None
    node.params = {}
    node.shape, node.dtype = x.shape, x.dtype
    node.seq = tick()
    node.scope = context.scope
    node.hooks = [_overwritten]
    return node


class KeepGrad:
    """The hook of `Tensor.retain_grad`; holding the tensor itself would close a cycle."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = weakref.ref(tensor)

    def __call__(self, g: Tensor) -> None:
        tensor = self.tensor()
        if tensor is not None:
            tensor._grad = g.clone() if tensor._grad is None else tensor._grad + g
