"""What the drawings call things: titles, names, shapes, counts."""

from __future__ import annotations

from tinyconv.see.graph import Call, Graph, Vertex


def title(graph: Graph) -> str:
    """``ResNet: 33 operations, 77,850 parameters in 29 tensors``"""
    model = graph.modules.get("", "")
    parameters = graph.of_kind("parameter")
    total = sum(vertex.size for vertex in parameters)
    counts = (
        f"{count(len(graph.of_kind('operation')), 'operation')}, "
        f"{count(total, 'parameter')} in {count(len(parameters), 'tensor')}"
    )
    return f"{model}: {counts}" if model else counts


def count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def tensor(vertex: Vertex) -> str:
    """``(2, 16, 28, 28)``, with the dtype where it is not float32; "" for a failure."""
    if vertex.kind == "failed":
        return ""
    if vertex.shape is None:
        return "freed by backward()" if vertex.kind == "input" else "several outputs"
    return str(vertex.shape) + ("" if vertex.dtype == "float32" else f" {vertex.dtype}")


def name(vertex: Vertex) -> str:
    """What to call a vertex inside its module."""
    if vertex.kind in ("module", "failed"):
        return f"{vertex.name}  {vertex.label}".rstrip()
    if vertex.kind == "operation":
        return (vertex.label or vertex.name) + vertex.operands
    if not vertex.name:
        return {"int64": "indices", "bool": "mask"}.get(vertex.dtype, vertex.kind)
    return vertex.name.removeprefix(f"{vertex.scope}.")


def heading(graph: Graph, call: Call) -> str:
    """``conv1  Conv2d(1->8, k3)``"""
    return f"{call.path.rpartition('.')[2]}  {graph.modules.get(call.path, '')}".rstrip()


def size(n: int) -> str:
    """Bytes as people read them: 512 B, 98.0 KB, 6.1 MB."""
    if n < 1000:
        return f"{n} B"
    number, unit = (n / 1e3, "KB") if n < 1e6 else (n / 1e6, "MB") if n < 1e9 else (n / 1e9, "GB")
    return f"{number:.1f} {unit}"


def figures(vertex: Vertex) -> list[str]:
    """The lines of the options: values, gradient, bytes saved; those that are known."""
    lines = []
    if vertex.values:
        lines.append(f"values {vertex.values}")
    if vertex.gradient:
        lines.append(f"gradient {vertex.gradient}")
    if vertex.saved:
        lines.append(f"saves {size(vertex.saved)} for backward")
    return lines


def legend(graph: Graph) -> list[str]:
    """How to read the figures, where there are any."""
    shown = {
        "values": any(vertex.values for vertex in graph.vertices),
        "gradients": any(vertex.gradient for vertex in graph.vertices),
    }
    listed = " and ".join(what for what, is_there in shown.items() if is_there)
    return [f"{listed}: least … mean … greatest"] if listed else []
