"""What the VJPs of a call read, told from the names of their arguments: only that is kept."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from tinyconv.autograd.rule import Rule, Vjp


@dataclass(slots=True)
class Reads:
    """What the VJPs of an operation's call read, by the number of the argument."""

    arity: int  # of the call
    start: int  # of what they get, in a node's links: the arity, or 0 where the edges will do
    wanted: tuple[int, ...]  # those with a gradient
    outputs: tuple[int, ...]  # by the number of the output
    values: tuple[int, ...]
    shapes: tuple[int, ...]  # of arguments without an edge, which has a shape itself


def find_reads(rule: Rule, wanted: int, n: int) -> Reads:
    """What is read when gradients are wanted of those of n arguments whose bits are set."""
    targets = tuple(i for i in range(n) if wanted >> i & 1 and (rule.variadic or rule.vjps[i]))
    called = [rule.vjps[0]] if rule.variadic else [rule.vjps[i] for i in targets]
    if rule.fused:
        called.append(rule.fused)
    first = 2 if rule.variadic else 1  # behind i and g
    names = [_names_read(vjp, first, rule.outputs + n) for vjp in called]
    read = [any(vjp[k] for vjp in names) for k in range(rule.outputs + n)]
    outputs = tuple(i for i in range(rule.outputs) if read[i])
    values = tuple(i for i in range(n) if read[rule.outputs + i])
    shapes = tuple(i for i in range(n) if not wanted >> i & 1 and i not in values)
    return Reads(n, n if values or shapes else 0, targets, outputs, values, shapes)


def _names_read(vjp: Vjp | None, first: int, n: int) -> list[bool]:
    """Which of the n arguments from the `first` on, by name: an underscore means not its values."""
    assert vjp is not None
    if isinstance(vjp, Rule):
        return [True] + [False] * (n - 1)
    names: list[str] = []
    for p in inspect.signature(vjp).parameters.values():
        if p.kind is p.VAR_POSITIONAL:
            names += [p.name] * (first + n - len(names))
        elif p.kind in (p.POSITIONAL_OR_KEYWORD, p.POSITIONAL_ONLY):
            names.append(p.name)
    return [not name.startswith("_") for name in names[first : first + n]]
