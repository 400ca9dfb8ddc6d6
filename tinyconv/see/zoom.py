"""The three zooms.  A graph whose modules are folded into a box each is a graph again.

operation   every operation, in clusters by module
module      every call of a layer is a box; what happens between the layers stays
model       every direct child of the model is a box
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal, get_args

from tinyconv.see.graph import Call, Graph, Vertex, calls
from tinyconv.see.words import count, tensor

Zoom = Literal["model", "module", "operation"]
ZOOMS: tuple[str, ...] = get_args(Zoom)


@dataclass(eq=False, slots=True)
class _Box:
    """What becomes one vertex: all members of a call, or one vertex that stays as it is.

    path: of the call's module; None for a vertex that stays
    shows: the member whose tensor is the box's: the last that is read outside
    """

    path: str | None
    members: list[int]
    shows: int = -1


def zoomed(graph: Graph, zoom: str) -> Graph:
    """The graph at a zoom; ValueError for one that there is not."""
    if zoom not in ZOOMS:
        raise ValueError(f"trace: zoom is {zoom!r}, it is one of {', '.join(ZOOMS)}")
    if zoom == "operation":
        return graph
    boxes = sorted(_boxes(graph, zoom), key=lambda box: _place(graph, box))
    home = {number: box for box in boxes for number in box.members}
    for i, j in graph.edges:
        if home[i] is not home[j]:
            home[i].shows = max(home[i].shows, i)
    for box in boxes:
        if box.shows < 0 or len(graph.vertices) - 1 in box.members:
            box.shows = _place(graph, box)
    numbers = {id(box): i for i, box in enumerate(boxes)}
    vertices = []
    for box in boxes:
        inputs = _inputs(graph, box, home)
        carried = tuple("" if home[i].shows == i else tensor(graph.vertices[i]) for i, _ in inputs)
        vertices.append(
            replace(
                graph.vertices[box.members[0]] if box.path is None else _folded(graph, box),
                inputs=tuple(numbers[id(home[i])] for i, _ in inputs),
                roles=tuple(role for _, role in inputs),
                carried=carried if any(carried) else (),
            )
        )
    return Graph(tuple(vertices), graph.modules)


def _boxes(graph: Graph, zoom: str) -> list[_Box]:
    """Every vertex is in one of them."""
    boxes: list[_Box] = []
    todo: list[tuple[Call, _Box | None]] = [(calls(graph), None)]
    while todo:
        call, box = todo.pop()
        is_leaf = not any(isinstance(member, Call) for member in call.members)
        if box is None and call.path and (zoom == "model" or is_leaf):
            box = _Box(call.path, [])
            boxes.append(box)
        for member in call.members:
            if isinstance(member, Call):
                todo.append((member, box))
            elif box is None:
                boxes.append(_Box(None, [member]))
            else:
                box.members.append(member)
    for box in boxes:
        box.members.sort()
    return boxes


def _place(graph: Graph, box: _Box) -> int:
    """A call's last operation: after all that it reads, before all that read it."""
    return max((i for i in box.members if graph.vertices[i].computes), default=box.members[-1])


def _inputs(graph: Graph, box: _Box, home: dict[int, _Box]) -> list[tuple[int, str]]:
    """What a box reads from outside, and as what: numbers of the tails, names of the arguments.

    A module that is called again reads its parameters where they stand, in its first call; that
    is no edge between the two.
    """
    if box.path is None:
        vertex = graph.vertices[box.members[0]]
        return list(zip(vertex.inputs, vertex.roles, strict=True))
    inputs: dict[int, str] = {}
    for number in box.members:
        for i in graph.vertices[number].inputs:
            own = not graph.vertices[i].computes and home[i].path == box.path
            if home[i] is not box and not own:
                inputs[i] = "input"
    return list(inputs.items())


def _folded(graph: Graph, box: _Box) -> Vertex:
    assert box.path is not None
    vertices = [graph.vertices[i] for i in box.members]
    shown = graph.vertices[box.shows]
    failed = [vertex for vertex in vertices if vertex.kind == "failed"]
    scope, _, name = box.path.rpartition(".")
    return Vertex(
        "failed" if failed else "module",
        name,
        shown.shape,
        shown.dtype,
        scope,
        label=graph.modules.get(box.path, ""),
        notes=failed[0].notes if failed else tuple(_contents(graph, box.path, vertices)),
        parameters=sum(vertex.size for vertex in vertices if vertex.kind == "parameter"),
        values=shown.values,
        gradient=shown.gradient,
        saved=sum(vertex.saved for vertex in vertices),
    )


def _contents(graph: Graph, path: str, vertices: list[Vertex]) -> list[str]:
    """What a box hides: the children and how many operations, or the steps of a fused one."""
    operations = [vertex for vertex in vertices if vertex.computes]
    if any(vertex.scope != path for vertex in operations):
        total = count(len(operations), "operation")
        children = [
            brief.partition("(")[0]
            for child, brief in graph.modules.items()
            if child.rpartition(".")[0] == path and child != path
        ]
        runs = [(kind, len(list(run))) for kind, run in groupby(children)]
        listed = ", ".join(f"{n} x {kind}" if n > 1 else kind for kind, n in runs)
        return [f"{listed}: {total}" if listed and len(runs) <= 3 else total]
    if any(vertex.label != vertex.name for vertex in operations):
        return ["; ".join(vertex.label for vertex in operations)]
    return []
