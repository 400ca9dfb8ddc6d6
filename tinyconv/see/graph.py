"""The recorded graph as plain data: what was computed from what, where, in which shapes.

A `Graph` holds no array and no tensor: it may outlive both, and everything that draws (DOT, text)
reads it alone.  Vertices are numbered in the order of execution, a leaf just before its first
reader, so two runs of the same code give equal graphs.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, NamedTuple, TypeAlias

from tinyconv.autograd import Node, Op, newest_first
from tinyconv.nn.module import Parameter
from tinyconv.see.statistics import Statistics
from tinyconv.tensor import Tensor

Kind: TypeAlias = Literal["operation", "module", "parameter", "input", "failed"]


@dataclass(frozen=True, slots=True)
class Vertex:
    """An operation, a module or a leaf, and the tensor that comes out of it.

    kind:     "operation"; "parameter", a leaf that gets a gradient; "input", one that does not;
              "module", several operations in one box; "failed", the call that raised
    name:     the operation's ("conv2d"), or the leaf's ("conv1.weight"; "" if it has none)
    shape:    of its tensor; None for an input whose array backward() has freed, and for a failure
    scope:    path of the module that it belongs to, "layer1.0.conv1"; "" outside of all
    inputs:   numbers of the vertices that it reads, in the order of its arguments
    roles:    the names of those arguments: "x", "weight"
    operands: those arguments where some are numbers, "(., 2)"; else ""
    label:    what to call an operation or a module where that is not its name
    alias:    the name that the user gave to an operation's output, or ""
    notes:    further lines: what a module holds, why a call failed
    carried:  the tensor on each input's edge, where the tail has several outputs; else empty
    parameters: how many numbers a module's parameters hold
    values, gradient: of its tensor, where asked for and known
    saved:    bytes that it keeps for the backward pass
    """

    kind: Kind
    name: str
    shape: tuple[int, ...] | None
    dtype: str
    scope: str
    inputs: tuple[int, ...] = ()
    roles: tuple[str, ...] = ()
    operands: str = ""
    label: str = ""
    alias: str = ""
    notes: tuple[str, ...] = ()
    carried: tuple[str, ...] = ()
    parameters: int = 0
    values: Statistics | None = None
    gradient: Statistics | None = None
    saved: int = 0

    @property
    def size(self) -> int:
        """How many numbers its tensor holds."""
        return 0 if self.shape is None else math.prod(self.shape)

    @property
    def computes(self) -> bool:
        """Is it no leaf?"""
        return self.kind not in ("parameter", "input")


@dataclass(frozen=True, slots=True)
class Graph:
    """Everything that some tensors were computed from; the last vertex is the last of them.

    modules: path -> short form, "layer1.0.conv1" -> "Conv2d(16->16, k3)", as far as known
    """

    vertices: tuple[Vertex, ...]
    modules: Mapping[str, str]

    @property
    def edges(self) -> Iterator[tuple[int, int]]:
        """(from, to), in the order of execution; ``b + b`` has two from b."""
        return ((i, j) for j, vertex in enumerate(self.vertices) for i in vertex.inputs)

    def of_kind(self, kind: str) -> list[Vertex]:
        return [vertex for vertex in self.vertices if vertex.kind == kind]


class Share(NamedTuple):
    """What one vector-Jacobian product sends: the gradient of ``target``, by the operand ``role``.

    A module's share for its parameters has the module as target.
    added: another reader of ``target`` has sent its share before, and the two are added.
    """

    role: str
    target: int
    added: bool


def backward_steps(graph: Graph) -> list[tuple[int, list[Share]]]:
    """The backward pass in its order: each vertex that the gradient goes through, what it sends.

    An operation is younger than all that it reads, so walking back from the newest meets a vertex
    when all its readers have sent their shares.
    """
    steps: list[tuple[int, list[Share]]] = []
    reached: set[int] = set()
    for number, vertex in reversed(list(enumerate(graph.vertices))):
        shares = []
        for target, role in zip(vertex.inputs, vertex.roles, strict=True):
            if graph.vertices[target].kind != "input":
                shares.append(Share(role, target, target in reached))
                reached.add(target)
        if vertex.parameters:  # a module, which sends their gradients to what it holds itself
            shares.append(Share("parameters", number, False))
        if shares:
            steps.append((number, shares))
    return steps


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that raised: what was called, in which module, with which tensors, what it said."""

    name: str
    scope: str
    operands: tuple[Tensor, ...]
    message: str


@dataclass(frozen=True, slots=True)
class Details:
    """What is known of nodes and leaves beside the graph itself; see `see.statistics`."""

    values: Mapping[Any, Statistics] = field(default_factory=dict)
    gradients: Mapping[Any, Statistics] = field(default_factory=dict)
    saved: Mapping[Any, int] = field(default_factory=dict)


def describe(
    outputs: Sequence[Any],
    names: Mapping[str, Tensor],
    modules: Mapping[str, str] | None = None,
    details: Details | None = None,
    failure: Failure | None = None,
) -> Graph:
    """Walk the graph of ``outputs`` once: tensors, or nodes.

    names: names for tensors in it, leaves or not.  failure: the call that ended it.
    """
    order = walk(outputs)
    nodes = [edge for edge in reversed(order) if isinstance(edge, Node)]
    scopes = [node.scope for node in nodes] + ([failure.scope] if failure else [])
    seen = {path for scope in scopes for path in ancestry(scope)}
    builder = _Builder(names, seen, details or Details())
    for node in nodes:
        builder.add_operation(node)
    for edge in order:
        if not isinstance(edge, Node) and edge not in builder.numbers:  # an output that is a leaf
            builder.leaf(edge, scope="")
    if failure:
        builder.add_failure(failure)
    return Graph(tuple(builder.vertices), modules or {})


def walk(outputs: Sequence[Any]) -> list[Any]:
    """All nodes and leaves that tensors or nodes were computed from, newest first."""
    return newest_first([getattr(output, "node", None) or output for output in outputs])


def ancestry(scope: str) -> list[str]:
    """The path and all above it, outermost first: "a.b" -> ["a", "a.b"]; "" -> []."""
    parts = scope.split(".") if scope else []
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


@dataclass(eq=False, slots=True)
class Call:
    """One call of a module: the vertices and the calls inside it, in the order of execution."""

    path: str
    members: list[int | Call] = field(default_factory=list)


def calls(graph: Graph) -> Call:
    """The vertices nested by module.  A module that was called twice (a shared ReLU) is two calls.

    Leaves stand where their module was last called, before what reads them.
    """
    root = Call("")
    stack = [root]  # the calls that are going on, outermost first
    latest = {"": root}
    waiting: list[int] = []  # leaves whose reader comes next
    for number, vertex in enumerate(graph.vertices):
        if not vertex.computes:
            waiting.append(number)
            continue
        paths = ["", *ancestry(vertex.scope)]
        while len(stack) > len(paths) or stack[-1].path != paths[len(stack) - 1]:
            stack.pop()
        for path in paths[len(stack) :]:
            latest[path] = Call(path)
            stack[-1].members.append(latest[path])
            stack.append(latest[path])
        for leaf in waiting:
            home = latest.get(graph.vertices[leaf].scope, stack[-1])
            going_on = home in stack[:-1]  # then its last member is the call that reads the leaf
            home.members.insert(len(home.members) - going_on, leaf)
        waiting.clear()
        stack[-1].members.append(number)
    root.members += waiting  # a leaf alone has no reader
    return root


class _Builder:
    """Numbers vertices as the walk meets them."""

    def __init__(self, names: Mapping[str, Tensor], scopes: set[str], details: Details) -> None:
        self.vertices: list[Vertex] = []
        self.numbers: dict[Any, int] = {}  # node, leaf, or id of an array outside the graph
        self.scopes = scopes  # those in which anything was computed
        self.details = details
        first_wins = list(names.items())[::-1]
        self.names: dict[Any, str] = {tensor.node or tensor: name for name, tensor in first_wins}
        self.array_names = {id(tensor.array): name for name, tensor in first_wins}

    def add(self, key: Any, vertex: Vertex) -> int:
        self.vertices.append(vertex)
        self.numbers[key] = len(self.vertices) - 1
        return self.numbers[key]

    def add_operation(self, node: Node) -> None:
        inputs: list[int] = []
        roles: list[str] = []
        operands: list[str] = []
        for role, argument in self._arguments(node):
            if isinstance(argument, int):
                inputs.append(argument)
                roles.append(role)
                operands.append("·")
            else:
                operands.append(argument)
        several = len(node.op.variable) > 1  # each output has a vertex of its own
        shape, dtype = (None, "") if several else (node.shape, str(node.dtype))
        self.add(
            node,
            Vertex(
                "operation", node.op.name, shape, dtype, node.scope, tuple(inputs),
                tuple(roles), label=_label(node.op, roles),
                operands=f"({', '.join(operands)})" if len(operands) > len(inputs) else "",
                alias=self.names.get(node, ""),
                values=self.details.values.get(node), gradient=self.details.gradients.get(node),
                saved=self.details.saved.get(node, 0),
            ),
        )

    def _arguments(self, node: Node) -> Iterator[tuple[str, int | str]]:
        """For each argument of a call its name, and its vertex or the number that was passed."""
        count = len(node.inputs)
        names = [str(i) for i in range(count)] if node.op.variadic else node.op.operands
        values = [_FREED] * count if node.values is None else node.values
        for role, edge, value in zip(names, node.inputs, values, strict=True):
            if edge is not None:
                known = self.numbers.get(edge)
                yield role, self.leaf(edge, node.scope) if known is None else known
            elif value is _FREED:
                if role not in _optional(node.op):  # which is None more often than a constant
                    yield role, self.add(object(), Vertex("input", "", None, "", ""))
            elif hasattr(value, "shape"):
                yield role, self._constant(value, node.scope)
            elif value is not None:
                yield role, f"{value:g}" if isinstance(value, (int, float)) else str(value)

    def add_failure(self, failure: Failure) -> None:
        inputs = [self._operand(tensor, failure.scope) for tensor in failure.operands]
        roles = tuple(map(str, range(len(inputs))))
        self.add(failure, Vertex("failed", failure.name, None, "", failure.scope, tuple(inputs),
                                 roles, notes=(failure.message,)))

    def _operand(self, tensor: Tensor, scope: str) -> int:
        if not tensor.requires_grad:
            return self._constant(tensor.array, scope)
        known = self.numbers.get(tensor.node or tensor)
        return self.leaf(tensor, scope) if known is None else known

    def leaf(self, leaf: Any, scope: str) -> int:
        """A leaf that requires grad, read in ``scope``."""
        name = self.names.get(leaf, "")
        home = self._home(name, scope) if name or isinstance(leaf, Parameter) else ""
        kind: Kind = "parameter" if leaf.requires_grad else "input"
        return self.add(leaf, Vertex(
            kind, name, leaf.shape, str(leaf.dtype), home, values=self.details.values.get(leaf),
            gradient=self.details.gradients.get(leaf),
        ))

    def _constant(self, array: Any, scope: str) -> int:
        """An array that no gradient goes to; one vertex for all its readers, if it was kept."""
        key = id(array)
        base = getattr(array, "base", None)
        if key not in self.array_names and base is not None and base.size == array.size:
            key = id(base)  # a buffer reshaped to broadcast is still that buffer
        if key in self.numbers:
            return self.numbers[key]
        name = self.array_names.get(key, "")
        made_inside = array.dtype.kind != "f"  # positions and masks, not images
        home = self._home(name, scope) if name or made_inside else ""
        return self.add(key, Vertex("input", name, array.shape, str(array.dtype), home,
                                    values=self.details.values.get(id(array))))

    def _home(self, name: str, reader: str) -> str:
        """The module that a named leaf belongs to, if it ran; else the module that read it."""
        owner = name.rpartition(".")[0]
        return owner if name and (owner in self.scopes or not owner) else reader


_FREED: Any = object()  # what a node's saved values are after backward()


@cache
def _optional(op: Op) -> frozenset[str]:
    """The operands that may be None: a layer without bias, a norm without residual."""
    parameters = inspect.signature(op.forward).parameters
    return frozenset(name for name in op.operands if "None" in str(parameters[name].annotation))


def _label(op: Op, roles: Sequence[str]) -> str:
    """``batch_norm + residual, relu``: an operation that can add a residual before its last step.

    Such an operation is named after its steps, and has an operand ``residual``.
    """
    if "residual" not in op.operands:
        return op.name
    first, _, last = op.name.rpartition("_")
    return f"{first}{' + residual' if 'residual' in roles else ''}, {last}"
