"""What is recorded: a node for each call, from which edges lead to the nodes of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tinyconv.autograd.operands import check_devices
from tinyconv.backend import Array
from tinyconv.errors import DTypeError, GraphError, ShapeError

if TYPE_CHECKING:
    from tinyconv.autograd.call import Op
    from tinyconv.autograd.reads import Reads
    from tinyconv.tensor import Tensor


class Meta:
    """What is left of an array that no VJP reads."""

    __slots__ = ("dtype", "shape")

    shape: tuple[int, ...]
    dtype: Any

    @property
    def ndim(self) -> int:
        return len(self.shape)


@lru_cache(maxsize=1024)  # one for all that are alike, for the overhead of small operations
def meta_of(shape: tuple[int, ...], dtype: Any) -> Meta:
    meta = Meta()
    meta.shape = shape
    meta.dtype = dtype
    return meta


class Node:
    """One recorded call: where a tensor came from, and what its VJPs will read.

    A node does not hold its output's array unless a VJP reads it; that is why it is not the
    Tensor itself (measured: docs/architecture.md).  `Op.__call__` fills it in, which is quicker
    than an __init__.
    """

    __slots__ = (
        "__weakref__",
        "dtype",
        "hooks",
        "links",
        "op",
        "output",
        "params",
        "reads",
        "scope",
        "seq",
        "shape",
    )

    op: Op
    links: list[Any]  # `inputs`; behind them, if VJPs read any of it, what they get of each input
    output: Any  # its array, if a VJP reads it; of several a tuple of such
    reads: Reads | None  # None once freed
    params: dict[str, Any]
    shape: Any  # the output's; of several that are no constants a tuple of shapes, and of dtypes
    dtype: Any
    seq: int
    scope: str
    hooks: list[Callable[[Any], Any]] | None

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def inputs(self) -> list[Edge | None]:
        """An edge per argument, None where no gradient is wanted."""
        links, reads = self.links, self.reads
        return links if reads is None else links[: reads.arity]

    @property
    def outputs(self) -> Sequence[Any]:
        """The outputs' arrays, None where no VJP reads one."""
        return (self.output,) if self.op.outputs == 1 or self.output is None else self.output

    @property
    def values(self) -> list[Any] | None:
        """The inputs as VJPs get them: what none reads is None, or has but a shape.

        None once freed.  A new list each time.
        """
        links, reads = self.links, self.reads
        return None if reads is None else links[reads.start :]

    @property
    def saved(self) -> list[Any] | None:
        """The outputs, None where no VJP reads one, and the `values`; None once freed."""
        values = self.values
        return None if values is None else [*self.outputs, *values]

    def __repr__(self) -> str:
        where = f" in {self.scope}" if self.scope else ""
        return f"<{self.op.name} -> {self.shape} {self.dtype}{where}>"


class Variable:
    """What the engine needs of a Tensor; `tinyconv.tensor.Tensor` adds what people call."""

    __slots__ = ("__weakref__", "_grad", "array", "hooks", "node", "requires_grad")

    tensor_type: type[Tensor]  # set by tinyconv.tensor: what operations return
    seq = 0  # a leaf is older than every node

    array: Array
    _grad: Tensor | None
    requires_grad: bool
    node: Node | None  # None for a leaf
    hooks: list[Callable[[Any], Any]] | None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> Any:
        return self.array.dtype

    @property
    def ndim(self) -> int:
        return self.array.ndim

    @property
    def inputs(self) -> Sequence[Edge | None]:
        return () if self.node is None else self.node.inputs

    def _set_grad(self, value: Tensor | None) -> None:
        if value is not None:
            _check_grad(self, value)
        self._grad = value

    # What backward() accumulated; in place, so that whoever holds it sees it.  Another Tensor or
    # None may be assigned.
    grad = property(attrgetter("_grad"), _set_grad)


def _check_grad(x: Variable, value: Any) -> None:
    """An error unless the value can be the gradient of x: its shape, dtype and device."""
    if not isinstance(value, Variable):
        kind = type(value).__name__
        raise DTypeError("x.grad = value", f"the value is a {kind}, need a Tensor or None")
    if value is x:
        raise GraphError("x.grad = x", "a tensor is not its own gradient; x.grad = x.clone()")
    if value.shape != x.shape:
        said = f"the value has shape {value.shape}, x {x.shape}: a gradient has the shape of x"
        raise ShapeError("x.grad = value", said)
    if value.dtype != x.dtype:
        said = f"the value is {value.dtype}, x {x.dtype}; convert it: value.to(tc.{x.dtype})"
        raise DTypeError("x.grad = value", said)
    check_devices("x.grad = value", (x.array, value.array))


Edge: TypeAlias = Node | Variable  # a Variable where the edge ends at a leaf


def wrap(data: Array, node: Node | None = None) -> Tensor:
    """A Tensor around an array, no questions asked."""
    out = object.__new__(Variable.tensor_type)
    out.array = data
    out._grad = None
    out.requires_grad = node is not None
    out.node = node
    out.hooks = None
    return out


def is_tensor(x: Any) -> bool:
    return isinstance(x, Variable)


def whole(g: Any) -> Any:
    """An array, also where NumPy made a scalar of a 0-d result."""
    return np.asarray(g) if isinstance(g, np.generic) else g


def newest_first(roots: Iterable[Edge]) -> list[Edge]:
    """All that the roots depend on, newest first.

    A node is younger than its inputs, so newest first is a topological order: when the walk
    reaches a node, every consumer has already sent its share of the gradient.
    """
    seen = set(roots)
    stack = list(seen)
    while stack:
        for edge in stack.pop().inputs:
            if edge is not None and edge not in seen:
                seen.add(edge)
                stack.append(edge)
    return sorted(seen, key=attrgetter("seq"), reverse=True)


def leading_to(targets: Iterable[Edge], order: list[Edge]) -> set[Edge]:
    """The part of the graph through which the targets are reached."""
    needed = set(targets)
    for node in reversed(order):
        if node not in needed and any(edge in needed for edge in node.inputs):
            needed.add(node)
    return needed
