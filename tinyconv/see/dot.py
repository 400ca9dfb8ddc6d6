"""The graph as DOT, for graphviz.

The colours are Okabe and Ito's, which colour-blind people can tell apart; every colour also has
its own shape or words.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping
from itertools import takewhile

import graphviz
from graphviz import escape, nohtml

from tinyconv.see.graph import Call, Graph, Share, backward_steps, calls
from tinyconv.see.words import count, figures, heading, legend, name, tensor

FILL = {
    "operation": "#d6e9f8",
    "module": "#d6e9f8",
    "parameter": "#fdebc8",
    "input": "#d5f0e6",
    "failed": "#fbd9d5",
    "backward": "#f5e1ec",
}
LINE = {
    "operation": "#0072b2",
    "module": "#0072b2",
    "parameter": "#e69f00",
    "input": "#009e73",
    "failed": "#c0271d",
    "backward": "#b3548a",
}

_FONT = "Helvetica"
_INK, _QUIET, _RED = "#1a1a1a", "#6b6b6b", "#c0271d"
_GRAPH = {
    "newrank": "true",
    "nodesep": "0.18",
    "ranksep": "0.3",
    "labelloc": "t",
    "labeljust": "l",
    "fontname": _FONT,
    "fontsize": "15",
    "fontcolor": _INK,
    "pad": "0.2",
}
_CLOSER = {"ranksep": "0.2"}  # where edges have no labels
_NODE = {
    "fontname": _FONT,
    "fontsize": "11",
    "fontcolor": _INK,
    "height": "0.1",
    "margin": "0.14,0.06",
}
_EDGE = {
    "fontname": _FONT,
    "fontsize": "8",
    "fontcolor": _QUIET,
    "color": _QUIET,
    "arrowsize": "0.6",
}
_CLUSTER = {
    "style": "rounded,filled",
    "fontsize": "10",
    "fontcolor": _QUIET,
    "margin": "9",
    "color": "#bbbbbb",
}
_SHAPES = {
    "operation": {"shape": "box", "style": "rounded,filled"},
    "module": {"shape": "box", "style": "rounded,filled", "penwidth": "1.6"},
    "parameter": {"shape": "box", "style": "filled"},
    "input": {"shape": "ellipse", "style": "filled"},
    "failed": {"shape": "octagon", "style": "filled", "penwidth": "2.5", "fontcolor": "#7a1a10"},
    "backward": {"shape": "box", "style": "rounded,filled,dashed"},
}
_OUTPUT = {"penwidth": "2.5"}
_LOST = {"color": _RED, "penwidth": "2.5"}  # NaN or infinite numbers
_SHADES = ("#f7f7f7", "#eeeeee", "#e4e4e4")  # of clusters, by depth
_WIDTH = 52  # characters of a line of an error's message


def to_digraph(graph: Graph, title: str, backward: bool = False) -> graphviz.Digraph:
    """The drawing; ``title`` stands above it.  backward: with the backward pass beside it."""
    folded = any(vertex.kind == "module" for vertex in graph.vertices)
    lines = [title, *legend(graph)]
    top = {"label": quoted(*lines) if len(lines) == 1 else _flush_left(lines)}
    drawing = graphviz.Digraph(
        "trace",
        graph_attr={**_GRAPH, **(_CLOSER if folded else {}), **top},
        node_attr=_NODE,
        edge_attr=_EDGE,
    )
    boxes = parameter_boxes(graph)
    for cluster, parent in reversed(_clusters(graph, boxes, drawing)):  # children before parents
        parent.subgraph(cluster)
    for i, j in dict.fromkeys((boxes[i], j) for i, j in graph.edges if i in boxes):
        drawing.edge(f"n{i}", f"n{j}")
    for j, vertex in enumerate(graph.vertices):
        for place, i in enumerate(vertex.inputs):
            if i not in boxes:
                drawing.edge(f"n{i}", f"n{j}", **_edge(graph, i, j, place))
    if backward:
        _draw_backward(graph, drawing)
    return drawing


def quoted(*lines: str) -> str:
    """Text without special meaning for DOT; graphviz puts it into quotes where needed."""
    return nohtml("\\n".join(escape(line).replace("\n", "\\n") for line in lines))


def _flush_left(lines: list[str]) -> str:
    return "".join(quoted(line) + "\\l" for line in lines)


def parameter_boxes(graph: Graph) -> dict[int, int]:
    """For each parameter of a module the one whose node shows it: the module's first."""
    first: dict[str, int] = {}
    return {
        i: first.setdefault(vertex.scope, i)
        for i, vertex in enumerate(graph.vertices)
        if vertex.kind == "parameter" and vertex.scope
    }


def lines_of(graph: Graph, numbers: list[int]) -> list[str]:
    """The text of an operation, a module, an input, or the parameters of one module, by rows."""
    vertices = [graph.vertices[i] for i in numbers]
    vertex = vertices[0]
    if vertex.kind == "parameter" and vertex.scope:
        lines = []
        for one in vertices:
            lines += [f"{name(one)}  {tensor(one)}", *figures(one)]
    else:
        notes = _wrapped(vertex.notes) if vertex.kind == "failed" else vertex.notes
        shape = tensor(vertex)
        if vertex.parameters:
            shape += f"  {count(vertex.parameters, 'parameter')}"
        lines = [*filter(None, [vertex.alias, name(vertex), *notes, shape]), *figures(vertex)]
    if vertex.kind == "parameter":
        lines.append(count(sum(v.size for v in vertices), "parameter"))
    return lines


def _wrapped(notes: Iterable[str]) -> list[str]:
    """An error's message in lines; a shape is not torn apart."""
    whole = re.sub(r"(?<=\d), (?=\d)", ",\u00a0", " ".join(notes))
    return [line.replace("\u00a0", " ") for line in textwrap.wrap(whole, _WIDTH)]


def _edge(graph: Graph, i: int, j: int, place: int) -> dict[str, str]:
    """What flows through the network runs straight down; a tensor that no box shows has a label."""
    tail, head = graph.vertices[i], graph.vertices[j]
    carried = head.carried[place] if head.carried else ""
    if tail.kind != "module" and head.kind != "module":
        carried = carried or tensor(tail)
    attributes = {"label": " " + quoted(carried)} if carried else {}
    if tail.kind != "parameter" and place == 0:
        attributes["weight"] = "20"
    if tail.kind == "parameter":
        attributes["style"] = "dashed"
    if head.kind == "failed":
        attributes["color"] = _RED
    return attributes


def _clusters(
    graph: Graph, boxes: Mapping[int, int], drawing: graphviz.Digraph
) -> list[tuple[graphviz.Digraph, graphviz.Digraph]]:
    """Nodes go into ``drawing`` or a cluster; returns the clusters with what they belong in."""
    made: list[tuple[graphviz.Digraph, graphviz.Digraph]] = []
    rows: dict[int, list[int]] = {}
    for i, box in boxes.items():
        rows.setdefault(box, []).append(i)
    todo: list[tuple[Call, graphviz.Digraph, int]] = [(calls(graph), drawing, 0)]
    while todo:
        call, here, depth = todo.pop()
        for member in call.members:
            if isinstance(member, Call):
                cluster = graphviz.Digraph(
                    f"cluster_{len(made)}",
                    graph_attr={
                        **_CLUSTER,
                        "fillcolor": _SHADES[depth % len(_SHADES)],
                        "label": quoted(heading(graph, member)) + _room(graph, member),
                        "tooltip": quoted(member.path),
                    },
                )
                made.append((cluster, here))
                todo.append((member, cluster, depth + 1))
            elif boxes.get(member, member) == member:
                here.node(f"n{member}", **_node(graph, rows.get(member, [member])))
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
    before = takewhile(lambda i: not graph.vertices[i].computes, range(number - 1, -1, -1))
    leaves = [(i, graph.vertices[i]) for i in before]
    return [i for i, v in leaves if v.kind == "parameter" and v.scope == vertex.scope]


def _room(graph: Graph, call: Call) -> str:
    """Blanks that widen a cluster without parameters: its title stays left of the arrow."""
    kinds = {"" if isinstance(m, Call) else graph.vertices[m].kind for m in call.members}
    return "\u00a0" * (2 * len(heading(graph, call)) + 6 if kinds == {"operation"} else 0)


def _node(graph: Graph, numbers: list[int]) -> dict[str, str]:
    vertices = [graph.vertices[i] for i in numbers]
    vertex, named = vertices[0], [v.name for v in vertices if v.name]
    is_output = numbers[-1] == len(graph.vertices) - 1 and vertex.kind != "failed"
    shown = [s for v in vertices for s in (v.values, v.gradient) if s]
    if vertex.kind == "module":
        named = [".".join(filter(None, [vertex.scope, vertex.name]))]
    return {
        **_colours(vertex.kind),
        **(_OUTPUT if is_output else {}),
        **(_LOST if any(s.lost for s in shown) else {}),
        "label": quoted(*lines_of(graph, numbers)),
        "tooltip": quoted(*([vertex.scope] if vertex.kind in ("operation", "failed") else named)),
    }


def _colours(kind: str) -> dict[str, str]:
    return {**_SHAPES[kind], "fillcolor": FILL[kind], "color": LINE[kind]}


# --- the backward pass


def _draw_backward(graph: Graph, drawing: graphviz.Digraph) -> None:
    """Each step stands on the level of the operation that it is the gradient of."""
    steps = backward_steps(graph)
    stepping = {number for number, _ in steps}
    label = quoted("backward, numbered in its order")
    frame = {**_CLUSTER, "fillcolor": "#fbf4f8", "label": label}
    with drawing.subgraph(name="cluster_backward", graph_attr=frame) as column:
        for step, (number, shares) in enumerate(steps, 1):
            column.node(
                f"b{number}",
                label=quoted(*_step_lines(graph, step, number, shares)),
                **_colours("backward"),
            )
    for number, shares in steps:
        with drawing.subgraph() as level:
            level.attr(rank="same")
            level.node(f"n{number}")
            level.node(f"b{number}")
        for share in shares:
            if share.target in stepping and share.target != number:
                drawing.edge(
                    f"b{share.target}",
                    f"b{number}",
                    dir="back",
                    color=LINE["backward"],
                    label=" " + quoted(tensor(graph.vertices[share.target])),
                )


def _step_lines(graph: Graph, step: int, number: int, shares: list[Share]) -> list[str]:
    vertex = graph.vertices[number]
    sent = ", ".join(f"∂{gradient_name(graph, share)}" for share in shares)
    return [f"step {step} · {name(vertex)}", sent]


def gradient_name(graph: Graph, share: Share) -> str:
    """What a share is the gradient of: a leaf's name, or the argument; (+) if it is added."""
    target = graph.vertices[share.target]
    named = name(target) if not target.computes and target.name else share.role
    return f"{named} (+)" if share.added else named
