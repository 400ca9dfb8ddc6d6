"""The graph as lines of text: for terminals, screen readers and tests."""

from __future__ import annotations

from tinyconv.see.graph import Call, Graph, Share, backward_steps, calls
from tinyconv.see.words import count, figures, heading, legend, name, tensor


def to_text(graph: Graph, title: str, backward: bool = False) -> str:
    """A tree, indented by module, in the order of execution; and the backward pass in its order."""
    lines = [title, *legend(graph), ""]
    todo: list[tuple[int | Call, int]] = [(m, 0) for m in reversed(calls(graph).members)]
    while todo:
        member, depth = todo.pop()
        indent = "  " * depth
        if isinstance(member, int):
            lines.append(indent + _line(graph, member))
        else:
            lines.append(indent + heading(graph, member))
            todo += [(m, depth + 1) for m in reversed(member.members)]
    if backward:
        lines += ["", "backward, in its order: what each step sends", *_backward_lines(graph)]
    return "\n".join(lines) + "\n"


def _line(graph: Graph, number: int) -> str:
    vertex = graph.vertices[number]
    parts = [f"%{number} {name(vertex)} {tensor(vertex)}".rstrip()]
    if vertex.kind == "parameter" or vertex.parameters:
        parts.append(count(vertex.parameters or vertex.size, "parameter"))
    if vertex.inputs:
        parts.append("<- " + ", ".join(f"%{i}" for i in vertex.inputs))
    if vertex.kind == "failed":
        parts.append(f"FAILED: {' '.join(vertex.notes)}")
    elif vertex.notes:
        parts.append(f"[{', '.join(vertex.notes)}]")
    return "  ".join(parts + [f"[{figure}]" for figure in figures(vertex)])


def _backward_lines(graph: Graph) -> list[str]:
    lines = []
    for step, (number, shares) in enumerate(backward_steps(graph), 1):
        sent = ", ".join(_sent(share, number) for share in shares)
        lines.append(f"{step:>4}  %{number} {name(graph.vertices[number])}: {sent}")
    return lines


def _sent(share: Share, sender: int) -> str:
    if share.target == sender:
        return f"d{share.role}"
    return f"d{share.role} {'added to' if share.added else '->'} d%{share.target}"
