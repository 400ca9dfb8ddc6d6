"""The graph as Mermaid source, which GitHub and many editors draw inside Markdown.

Pages draw up to 500 edges and 50,000 characters; a larger network fits by zoom="module".
Syntax: https://mermaid.js.org/syntax/flowchart.html
"""

from __future__ import annotations

import json

from tinyconv.see.dot import FILL, LINE, gradient_name, lines_of, parameter_boxes
from tinyconv.see.graph import Call, Graph, backward_steps, calls
from tinyconv.see.words import heading, legend, name

_SHAPES = {
    "operation": ("(", ")"),
    "module": ("(", ")"),
    "input": ("([", "])"),
    "failed": ("{{", "}}"),
    "parameter": ("[", "]"),
}


def to_mermaid(graph: Graph, title: str, backward: bool = False) -> str:
    """A flowchart from top to bottom; modules are subgraphs."""
    boxes = parameter_boxes(graph)
    heading = json.dumps("; ".join([title, *legend(graph)]))
    lines = ["---", f"title: {heading}", "---", "flowchart TD"]
    lines += _tree(graph, boxes)
    edges = [(boxes.get(i, i), j) for i, j in graph.edges]
    grouped = dict.fromkeys(edge for edge in edges if edge[0] in boxes)
    lines += [f"  n{i} --> n{j}" for i, j in [*grouped, *(e for e in edges if e[0] not in boxes)]]
    if backward:
        lines += _backward(graph)
    used = {vertex.kind for vertex in graph.vertices} | ({"backward"} if backward else set())
    return (
        "\n".join(
            lines
            + [
                f"  classDef {kind} fill:{FILL[kind]},stroke:{LINE[kind]},color:#1a1a1a"
                for kind in FILL
                if kind in used
            ]
        )
        + "\n"
    )


def _tree(graph: Graph, boxes: dict[int, int]) -> list[str]:
    rows: dict[int, list[int]] = {}
    for i, box in boxes.items():
        rows.setdefault(box, []).append(i)
    lines: list[str] = []
    opened = 0
    todo: list[tuple[int | Call | None, int]] = [(m, 1) for m in reversed(calls(graph).members)]
    while todo:
        member, depth = todo.pop()
        indent = "  " * depth
        if member is None:
            lines.append(f"{indent}end")
        elif isinstance(member, Call):
            lines.append(f"{indent}subgraph s{opened}[{_quoted(heading(graph, member))}]")
            opened += 1
            todo.append((None, depth))
            todo += [(m, depth + 1) for m in reversed(member.members)]
        elif boxes.get(member, member) == member:
            kind = graph.vertices[member].kind
            left, right = _SHAPES[kind]
            text = _quoted(*lines_of(graph, rows.get(member, [member])))
            lines.append(f"{indent}n{member}{left}{text}{right}:::{kind}")
    return lines


def _backward(graph: Graph) -> list[str]:
    steps = backward_steps(graph)
    stepping = {number for number, _ in steps}
    lines = ['  subgraph backward["backward, numbered in its order"]', "    direction BT"]
    for step, (number, shares) in enumerate(steps, 1):
        sent = ", ".join(f"∂{gradient_name(graph, share)}" for share in shares)
        text = _quoted(f"step {step} · {name(graph.vertices[number])}", sent)
        lines.append(f"    b{number}({text}):::backward")
    lines.append("  end")
    return lines + [
        f"  b{number} -.-> b{share.target}"
        for number, shares in steps
        for share in shares
        if share.target in stepping and share.target != number
    ]


def _quoted(*lines: str) -> str:
    """Text without special meaning: entity codes for what Mermaid or HTML would read."""
    special = {
        '"': "#quot;",
        "#": "#35;",
        "<": "#lt;",
        ">": "#gt;",
        "&": "#amp;",
        "`": "#96;",
        "\\": "#92;",
        "\n": "<br/>",
    }
    escaped = ["".join(special.get(c, c) for c in line) for line in lines]
    return f'"{"<br/>".join(escaped)}"'
