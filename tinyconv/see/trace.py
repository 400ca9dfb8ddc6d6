"""``tc.trace(loss, model).save("graph.svg")``: the graph as people look at it.

`see.graph` describes the graph, this file draws it: as DOT, as SVG, PNG and PDF through graphviz's
``dot`` program, and as text, which needs nothing.  The colours are Okabe and Ito's, which
colour-blind people can tell apart; every colour also has its own shape.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any
from uuid import uuid4

import graphviz
from graphviz import escape, nohtml

from tinyconv.errors import GraphError
from tinyconv.nn.module import Module
from tinyconv.see.graph import Call, Graph, Vertex, calls, describe
from tinyconv.tensor import Tensor

PICTURES = (".svg", ".png", ".pdf")  # drawn by the dot program
TEXTS = (".dot", ".gv", ".txt")
INSTALL = "apt-get install graphviz (Debian), brew install graphviz (macOS)"

_FONT = "Helvetica"
_INK, _QUIET = "#1a1a1a", "#6b6b6b"
_GRAPH = {"newrank": "true", "nodesep": "0.18", "ranksep": "0.3", "labelloc": "t", "labeljust": "l",
          "fontname": _FONT, "fontsize": "15", "fontcolor": _INK, "pad": "0.2"}
_NODE = {"fontname": _FONT, "fontsize": "11", "fontcolor": _INK, "height": "0.1",
         "margin": "0.14,0.06"}
_EDGE = {"fontname": _FONT, "fontsize": "8", "fontcolor": _QUIET, "color": _QUIET,
         "arrowsize": "0.6"}
_CLUSTER = {"style": "rounded,filled", "fontsize": "10", "fontcolor": _QUIET, "margin": "9",
            "color": "#bbbbbb"}
_KINDS = {
    "operation": {"shape": "box", "style": "rounded,filled", "fillcolor": "#d6e9f8",
                  "color": "#0072b2"},
    "parameter": {"shape": "box", "style": "filled", "fillcolor": "#fdebc8", "color": "#e69f00"},
    "input": {"shape": "ellipse", "style": "filled", "fillcolor": "#d5f0e6", "color": "#009e73"},
}
_OUTPUT = {"penwidth": "2.5"}
_SHADES = ("#f7f7f7", "#eeeeee", "#e4e4e4")  # of clusters, by depth

_log = logging.getLogger("tinyconv")


class NotDrawn(RuntimeError):
    """The ``dot`` program is missing or failed; says so, and what to do."""


def trace(tensor: Tensor, params: Module | Mapping[str, Tensor] | None = None) -> Trace:
    """The graph of everything that ``tensor`` was computed from.

    params: names for what is in it: the model (parameters and buffers get their paths, clusters
        their class), or a dict, {"x": x, "hidden": h}; leaves without a name show their shape.

    After backward() the graph is still there, but the arrays that it had kept are freed: inputs
    that need no gradient are then drawn without their shapes.
    GraphError for a tensor that does not require grad, so has no graph.
    """
    if not isinstance(tensor, Tensor):
        hint = "a model has no graph before it ran: tc.trace(model(x), model)" \
            if isinstance(tensor, Module) else "pass the result of a computation, such as the loss"
        raise TypeError(f"trace: a {type(tensor).__name__} is not a Tensor; {hint}")
    if not tensor.requires_grad:
        raise GraphError(
            "trace",
            f"the tensor {tensor.shape} has no graph: nothing that it was computed from requires "
            "grad, or it was computed under no_grad(), or detached. To see it, compute it outside "
            "of no_grad() from a tensor that requires grad: x.requires_grad_()",
        )
    names, modules = _names(params)
    return Trace(describe(tensor, names, modules))


def _names(params: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors by name, and the short form of each module by path."""
    if params is None:
        return {}, {}
    if isinstance(params, Module):
        names = {**dict(params.named_parameters()), **dict(params.named_buffers())}
        return names, {path: module.brief() for path, module in params.named_modules()}
    if not isinstance(params, Mapping):
        raise TypeError(f"trace: params is a {type(params).__name__}; it is the model, or names of "
                        'tensors: {"x": x, "w": w}')
    for name, tensor in params.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"trace: params[{name!r}] is a {type(tensor).__name__}, not a Tensor")
    return {str(name): tensor for name, tensor in params.items()}, {}


class Trace:
    """A drawn graph: a picture in a notebook, text when printed, a file with `save`."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    @cached_property
    def digraph(self) -> graphviz.Digraph:
        """The graphviz.Digraph, to be changed as one likes before saving."""
        return _digraph(self.graph)

    @property
    def dot(self) -> str:
        """DOT source; the same bytes in every run of the same code."""
        return self.digraph.source

    def text(self) -> str:
        """The graph as lines, indented by module, in the order of execution."""
        return "\n".join(_lines(self.graph)) + "\n"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the graph, all of it or nothing, and return the path written.

        The suffix decides: .svg, .png, .pdf, .dot or .gv (the source), .txt.
        Pictures need graphviz's dot program; without it the text goes to a .txt and the source to
        a .dot beside it, and a warning on the log "tinyconv" says so.
        ValueError for another suffix, FileNotFoundError where the folder is missing.
        """
        target = Path(path)
        kind = target.suffix.lower()
        if kind not in PICTURES + TEXTS:
            raise ValueError(f"save: {target.name!r} has the suffix {kind!r}; there is "
                             + ", ".join(PICTURES + TEXTS))
        if not target.parent.is_dir():
            raise FileNotFoundError(f"save: there is no folder {target.parent}; make it first")
        if kind in TEXTS:
            return _write(target, (self.text() if kind == ".txt" else self.dot).encode())
        try:
            return _write(target, self.render(kind[1:]))
        except NotDrawn as reason:
            source = _write(target.with_suffix(".dot"), self.dot.encode())
            text = _write(target.with_suffix(".txt"), self.text().encode())
            _log.warning("%s was not drawn: %s. The graph is in %s as text and in %s as DOT; "
                         "later: dot -T%s %s -o %s",
                         target, reason, text, source, kind[1:], source, target)
            return text

    def render(self, format: str) -> bytes:
        """The picture as "svg", "png" or "pdf"; NotDrawn without a working dot program."""
        try:
            return self.digraph.pipe(format=format, quiet=True)
        except (graphviz.ExecutableNotFound, OSError) as error:
            raise NotDrawn(f"graphviz's dot program was not found; {INSTALL}") from error
        except graphviz.CalledProcessError as error:
            said = (error.stderr or b"").decode(errors="replace").strip().partition("\n")[0]
            raise NotDrawn(f"the dot program failed ({said or error})") from error

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """What a notebook shows: the SVG, or the text and what to install for more."""
        try:
            return {"image/svg+xml": self.render("svg").decode(), "text/plain": self.text()}
        except NotDrawn as reason:
            return {"text/plain": f"{self.text()}\n({reason})"}

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"<Trace of {_title(self.graph)}>"


def _write(target: Path, data: bytes) -> Path:
    real = target.resolve()  # through a symbolic link: replace the file, not the link
    temporary = real.with_name(f".{real.name}.{uuid4().hex}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, real)
    finally:
        temporary.unlink(missing_ok=True)
    return target


# --- words


def _title(graph: Graph) -> str:
    """``ResNet: 33 operations, 77,850 parameters in 29 tensors``"""
    model = graph.modules.get("", "")
    parameters = graph.of_kind("parameter")
    total = sum(vertex.size for vertex in parameters)
    counts = (f"{_count(len(graph.of_kind('operation')), 'operation')}, "
              f"{_count(total, 'parameter')} in {_count(len(parameters), 'tensor')}")
    return f"{model}: {counts}" if model else counts


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _tensor(vertex: Vertex) -> str:
    """``(2, 16, 28, 28)``, with the dtype where it is not float32."""
    if vertex.shape is None:
        return "freed by backward()"
    return str(vertex.shape) + ("" if vertex.dtype == "float32" else f" {vertex.dtype}")


def _name(vertex: Vertex) -> str:
    """What to call a vertex inside its module."""
    if vertex.kind == "operation":
        return vertex.name + vertex.operands
    if not vertex.name:
        return {"int64": "indices", "bool": "mask"}.get(vertex.dtype, vertex.kind)
    return vertex.name.removeprefix(f"{vertex.scope}.")


# --- DOT


def _quoted(*lines: str) -> str:
    """Text without special meaning for DOT; graphviz puts it into quotes where needed."""
    return nohtml("\\n".join(escape(line).replace("\n", "\\n") for line in lines))


def _digraph(graph: Graph) -> graphviz.Digraph:
    drawing = graphviz.Digraph("trace", graph_attr={**_GRAPH, "label": _quoted(_title(graph))},
                               node_attr=_NODE, edge_attr=_EDGE)
    boxes = _boxes(graph)
    for cluster, parent in reversed(_clusters(graph, boxes, drawing)):  # children before parents
        parent.subgraph(cluster)
    for i, j in dict.fromkeys((boxes[i], j) for i, j in graph.edges if i in boxes):
        drawing.edge(f"n{i}", f"n{j}")
    for i, j in graph.edges:
        tail = graph.vertices[i]
        if i not in boxes:
            # what flows through the network runs straight down
            flows = tail.kind != "parameter" and i == graph.vertices[j].inputs[0]
            drawing.edge(f"n{i}", f"n{j}", label=" " + _quoted(_tensor(tail)),
                         weight="20" if flows else None)
    return drawing


def _boxes(graph: Graph) -> dict[int, int]:
    """For each parameter of a module the one whose node shows it: the module's first."""
    first: dict[str, int] = {}
    return {i: first.setdefault(vertex.scope, i) for i, vertex in enumerate(graph.vertices)
            if vertex.kind == "parameter" and vertex.scope}


def _clusters(
    graph: Graph, boxes: Mapping[int, int], drawing: graphviz.Digraph
) -> list[tuple[graphviz.Digraph, graphviz.Digraph]]:
    """Nodes go into ``drawing`` or a cluster; returns the clusters with what they belong in."""
    made: list[tuple[graphviz.Digraph, graphviz.Digraph]] = []
    todo: list[tuple[Call, graphviz.Digraph, int]] = [(calls(graph), drawing, 0)]
    while todo:
        call, here, depth = todo.pop()
        for member in call.members:
            if isinstance(member, Call):
                cluster = graphviz.Digraph(f"cluster_{len(made)}", graph_attr={
                    **_CLUSTER, "fillcolor": _SHADES[depth % len(_SHADES)],
                    "label": _quoted(_heading(graph, member)) + _room(graph, member),
                    "tooltip": _quoted(member.path)})
                made.append((cluster, here))
                todo.append((member, cluster, depth + 1))
            elif boxes.get(member, member) == member:
                shown = [i for i, box in boxes.items() if box == member] or [member]
                here.node(f"n{member}", **_node(graph, shown))
                row = [i for i in _read_first(graph, member) if boxes.get(i, i) == i]
                if row:
                    with here.subgraph() as beside:  # on one level, or the cluster is a staircase
                        beside.attr(rank="same")
                        for number in (*row, member):
                            beside.node(f"n{number}")
    return made


def _read_first(graph: Graph, number: int) -> list[int]:
    """The parameters of its own module that an operation is the first to read."""
    vertex = graph.vertices[number]
    if vertex.kind != "operation":
        return []
    before = takewhile(lambda i: graph.vertices[i].kind != "operation", range(number - 1, -1, -1))
    leaves = [(i, graph.vertices[i]) for i in before]
    return [i for i, v in leaves if v.kind == "parameter" and v.scope == vertex.scope]


def _room(graph: Graph, call: Call) -> str:
    """Blanks that widen a cluster without parameters: its title stays left of the arrow."""
    kinds = {"" if isinstance(m, Call) else graph.vertices[m].kind for m in call.members}
    return "\u00a0" * (2 * len(_heading(graph, call)) + 6 if kinds == {"operation"} else 0)


def _heading(graph: Graph, call: Call) -> str:
    name = call.path.rpartition(".")[2]
    return f"{name}  {graph.modules.get(call.path, '')}".rstrip()


def _node(graph: Graph, numbers: list[int]) -> dict[str, str]:
    """An operation, an input, or the parameters of one module, a row for each."""
    vertices = [graph.vertices[i] for i in numbers]
    vertex, named = vertices[0], [v.name for v in vertices if v.name]
    if vertex.kind == "parameter" and vertex.scope:
        lines = [f"{_name(v)}  {_tensor(v)}" for v in vertices]
    else:
        lines = [*filter(None, [vertex.alias]), _name(vertex), _tensor(vertex)]
    if vertex.kind == "parameter":
        lines.append(_count(sum(v.size for v in vertices), "parameter"))
    is_output = numbers[-1] == len(graph.vertices) - 1
    return {
        **_KINDS[vertex.kind], **(_OUTPUT if is_output else {}),
        "label": _quoted(*lines),
        "tooltip": _quoted(*([vertex.scope] if vertex.kind == "operation" else named)),
    }


# --- text


def _lines(graph: Graph) -> list[str]:
    lines = [_title(graph), ""]
    todo: list[tuple[int | Call, int]] = [(m, 0) for m in reversed(calls(graph).members)]
    while todo:
        member, depth = todo.pop()
        indent = "  " * depth
        if isinstance(member, int):
            lines.append(indent + _line(graph, member))
        else:
            lines.append(indent + _heading(graph, member))
            todo += [(m, depth + 1) for m in reversed(member.members)]
    return lines


def _line(graph: Graph, number: int) -> str:
    vertex = graph.vertices[number]
    line = f"%{number} {_name(vertex)} {_tensor(vertex)}"
    if vertex.kind == "parameter":
        line += f"  {_count(vertex.size, 'parameter')}"
    if vertex.inputs:
        line += "  <- " + ", ".join(f"%{i}" for i in vertex.inputs)
    return line
