"""The recorded graph as plain data: what was computed from what, where, in which shapes.

A `Graph` holds no array and no tensor: it may outlive both, and everything that draws (DOT, text)
reads it alone.  Vertices are numbered in the order of execution, a leaf just before its first
reader, so two runs of the same code give equal graphs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tinyconv.autograd import Node, _order
from tinyconv.nn.module import Parameter
from tinyconv.tensor import Tensor


@dataclass(frozen=True, slots=True)
class Vertex:
    """An operation or a leaf, and the tensor that comes out of it.

    kind:     "operation"; "parameter", a leaf that gets a gradient; "input", one that does not
    name:     the operation's ("conv2d"), or the leaf's ("conv1.weight"; "" if it has none)
    shape:    of its tensor; None for an input whose array backward() has freed
    scope:    path of the module that it belongs to, "layer1.0.conv1"; "" outside of all
    inputs:   numbers of the vertices that it reads, in the order of its arguments
    operands: those arguments where some are numbers, "(., 2)"; else ""
    alias:    the name that the user gave to an operation's output, or ""
    """

    kind: Literal["operation", "parameter", "input"]
    name: str
    shape: tuple[int, ...] | None
    dtype: str
    scope: str
    inputs: tuple[int, ...] = ()
    operands: str = ""
    alias: str = ""

    @property
    def size(self) -> int:
        """How many numbers its tensor holds."""
        return 0 if self.shape is None else math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Graph:
    """Everything that one tensor was computed from; the last vertex is that tensor.

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


def describe(
    output: Tensor, names: Mapping[str, Tensor], modules: Mapping[str, str] | None = None
) -> Graph:
    """Walk the graph of ``output`` once; ``names`` names tensors in it, leaves or not."""
    order = _order([output.node or output])
    nodes = [edge for edge in reversed(order) if isinstance(edge, Node)]
    builder = _Builder(names, {path for node in nodes for path in ancestry(node.scope)})
    for node in nodes:
        builder.add_operation(node)
    if not nodes:
        builder.leaf(output, scope="")
    return Graph(tuple(builder.vertices), modules or {})


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
        if vertex.kind != "operation":
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

    def __init__(self, names: Mapping[str, Tensor], scopes: set[str]) -> None:
        self.vertices: list[Vertex] = []
        self.numbers: dict[Any, int] = {}  # node, leaf, or id of an array outside the graph
        self.scopes = scopes  # those in which anything was computed
        first_wins = list(names.items())[::-1]
        self.names: dict[Any, str] = {tensor.node or tensor: name for name, tensor in first_wins}
        self.array_names = {id(tensor.data): name for name, tensor in first_wins}

    def add(self, key: Any, vertex: Vertex) -> int:
        self.vertices.append(vertex)
        self.numbers[key] = len(self.vertices) - 1
        return self.numbers[key]

    def add_operation(self, node: Node) -> None:
        inputs: list[int] = []
        operands: list[str] = []
        for argument in self._arguments(node):
            if isinstance(argument, int):
                inputs.append(argument)
                operands.append("·")
            else:
                operands.append(argument)
        self.add(
            node,
            Vertex(
                "operation", node.op.name, node.shape, str(node.dtype), node.scope, tuple(inputs),
                operands=f"({', '.join(operands)})" if len(operands) > len(inputs) else "",
                alias=self.names.get(node, ""),
            ),
        )

    def _arguments(self, node: Node) -> Iterator[int | str]:
        """For each argument of a call its vertex, or the number that was passed."""
        saved = [_FREED] * (len(node.inputs) + 1) if node.saved is None else node.saved
        for edge, value in zip(node.inputs, saved[1:], strict=True):
            if edge is not None:
                known = self.numbers.get(edge)
                yield self.leaf(edge, node.scope) if known is None else known
            elif value is _FREED:
                yield self.add(object(), Vertex("input", "", None, "", ""))
            elif hasattr(value, "shape"):
                yield self._constant(value, node.scope)
            elif value is not None:
                yield f"{value:g}" if isinstance(value, (int, float)) else str(value)

    def leaf(self, leaf: Any, scope: str) -> int:
        """A leaf that requires grad, read in ``scope``."""
        name = self.names.get(leaf, "")
        home = self._home(name, scope) if name or isinstance(leaf, Parameter) else ""
        kind: Literal["parameter", "input"] = "parameter" if leaf.requires_grad else "input"
        return self.add(leaf, Vertex(kind, name, leaf.shape, str(leaf.dtype), home))

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
        return self.add(key, Vertex("input", name, array.shape, str(array.dtype), home))

    def _home(self, name: str, reader: str) -> str:
        """The module that a named leaf belongs to, if it ran; else the module that read it."""
        owner = name.rpartition(".")[0]
        return owner if name and (owner in self.scopes or not owner) else reader


_FREED: Any = object()  # what a node's saved values are after backward()
