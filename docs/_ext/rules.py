"""The table of operations as a page: formulas, derivatives as in the source, what is kept.

Written from tc.OPS when the site is built, so it cannot differ from what runs.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

import tinyconv as tc
from tinyconv.autograd import Op
from tinyconv.autograd.reads import find_reads

INTRODUCTION = """\
Table of operations
===================

Every operation of ``tc.OPS``, by the file that defines it. Below its name and formula stand its
derivatives, as in the source: a line for each input says what is sent to that input when ``g`` is
the gradient of the output ``y`` (``h``, where ``g`` is itself an input). An argument with an
underscore in front is one of which only the shape and dtype are read. *Kept* is what stays in
memory for the backward pass if all gradients are wanted. *Kernels* are the layers that compute it
in a way of their own; without any it is plain array code. The tests compare every operation with
PyTorch, and its derivatives with numerical ones to second order.
"""
LAYERS = {
    "compiled": ["compiled/*.py"],
    "blocked": ["blocked.py"],
    "reference": ["reference.py", "fused.py", "special.py", "sums.py", "band.py"],
    "naive": ["naive.py"],
    "cuda": ["cuda/own.py", "cuda/cudnn.py"],
}


def text(escaped: Callable[[str], str]) -> str:
    """The page.  escaped: docstrings as reStructuredText."""
    files: dict[str, list[Op]] = {}
    for op in tc.OPS.values():
        files.setdefault(op.forward.__module__.removeprefix("tinyconv."), []).append(op)
    parts = [INTRODUCTION]
    for name, ops in files.items():
        heading = name.replace(".", "/") + ".py"
        parts += [heading, "-" * len(heading), ""]
        parts += [entry(op, escaped) for op in ops]
    return "\n".join(parts)


def entry(op: Op, escaped: Callable[[str], str]) -> str:
    """One operation."""
    about = escaped(" ".join((op.__doc__ or "").split("\n\n")[0].split()))
    lines = [f"``{op.name}{signature(op)}``", f"   {about or 'No formula.'}", ""]
    rules = derivatives(op)
    if rules:
        lines += ["   .. code-block:: python", ""]
        lines += ["      " + line for rule in rules for line in rule.splitlines()]
        lines += [""]
    facts = [f"*Kept:* {kept(op)}."] if any(op.vjps) else ["A constant to the derivative."]
    if op.fused:
        facts.append("A fused kernel makes all first-order gradients at once.")
    if layers := kernels(op):
        facts.append(f"*Kernels:* {', '.join(layers)}.")
    return "\n".join([*lines, "   " + " ".join(facts), ""])


def signature(op: Op) -> str:
    shown = list(op.operands) if not op.variadic else ["*inputs"]
    if op.keywords:
        shown += ["*"] * (not op.variadic) + op.keywords
    return f"({', '.join(shown)})"


# --- the derivatives


def derivatives(op: Op) -> list[str]:
    """``input: expression`` for each input that has one."""
    if not any(op.vjps):
        return []
    if op.variadic:
        return [f"# of input i\n{source(op.vjps[0])}"]
    pairs = zip(op.operands, op.vjps, strict=True)
    return [f"{name}: {source(vjp)}" for name, vjp in pairs if vjp is not None]


def source(vjp: Any) -> str:
    """The expression of a lambda; the name of a function, and what it is."""
    if isinstance(vjp, Op):
        return f"{vjp.name}(g, y)"
    code: CodeType = vjp.__code__
    if code.co_name != "<lambda>":
        return f"{code.co_name}{inspect.signature(vjp)}".split(" ->")[0]
    found = [
        node for node in lambdas(code.co_filename)
        if node.lineno == code.co_firstlineno and _starts(node.body, code)
    ]  # fmt: skip
    whole = Path(code.co_filename).read_text()
    body = ast.get_source_segment(whole, found[0].body) or ""
    first, *rest = body.split("\n")
    return "\n".join([first, *textwrap.dedent("\n".join(rest)).splitlines()])


@functools.cache
def lambdas(filename: str) -> list[ast.Lambda]:
    tree = ast.parse(Path(filename).read_text())
    return [node for node in ast.walk(tree) if isinstance(node, ast.Lambda)]


def _starts(body: ast.expr, code: CodeType) -> bool:
    """Does the lambda's first instruction stand in this expression?"""
    for line, _, column, _ in code.co_positions():
        if line is not None and column is not None and (line, column) != (code.co_firstlineno, 0):
            first, last = (body.lineno, body.col_offset), (body.end_lineno, body.end_col_offset)
            return first <= (line, column) <= (last[0] or 0, last[1] or 0)
    return False


# --- what is kept, and who computes


def kept(op: Op) -> str:
    """What the backward pass reads if all gradients are wanted."""
    n = 2 if op.variadic else op.arity
    reads = find_reads(op, 2**n - 1, n)
    called = op.fused or next(vjp for vjp in op.vjps if vjp)
    given = ["y"] if isinstance(called, Op) else list(inspect.signature(called).parameters)[1:]
    names = [given[i + op.variadic].lstrip("_") for i in reads.outputs]
    names += ["the inputs"] * bool(reads.values) if op.variadic else [
        op.operands[i] for i in reads.values
    ]  # fmt: skip
    return ", ".join(f"``{name}``" for name in names) or "nothing"


def kernels(op: Op) -> list[str]:
    """The layers that have a kernel which the forward asks the backend for."""
    asked = re.findall(r"backend_of\([^()]*\)\.(\w+)\(", inspect.getsource(op.forward))
    return [name for name, functions in layers().items() if functions.intersection(asked)]


@functools.cache
def layers() -> dict[str, set[str]]:
    """The functions of each layer; read from the files, for not every machine can import all."""
    backend = Path(tc.__file__).parent / "backend"
    return {
        name: {
            node.name
            for pattern in patterns for path in backend.glob(pattern)
            for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)
        }
        for name, patterns in LAYERS.items()
    }  # fmt: skip
