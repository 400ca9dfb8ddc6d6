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
    output: bool
    values: tuple[int, ...]
    shapes: tuple[int, ...]  # of arguments without an edge, which has a shape itself


def find_reads(rule: Rule, wanted: int, n: int) -> Reads:
    """What is read when gradients are wanted of those of n arguments whose bits are set."""
    reads = [[False] * (n + 1)]
    targets = tuple(i for i in range(n) if wanted >> i & 1 and (rule.variadic or rule.vjps[i]))
    if rule.variadic:
        reads += [_names_read(rule.vjps[0], n, skip=1)]
    else:
        reads += [_names_read(rule.vjps[i], n) for i in targets]
    if rule.fused:
        output, _aux, *inputs = _names_read(rule.fused, n + 1)
        reads.append([output, *inputs])
    output, *inputs = (any(read) for read in zip(*reads, strict=True))
    values = tuple(i for i in range(n) if inputs[i])
    shapes = tuple(i for i in range(n) if not wanted >> i & 1 and i not in values)
    start = n if values or shapes else 0
    return Reads(n, start, targets, output, values, shapes)


def _names_read(vjp: Vjp | None, n_inputs: int, skip: int = 0) -> list[bool]:
    """By name: a leading underscore means that the values are not read."""
    assert vjp is not None
    if isinstance(vjp, Rule):
        return [True] + [False] * n_inputs
    names: list[str] = []
    for p in inspect.signature(vjp).parameters.values():
        if p.kind is p.VAR_POSITIONAL:
            names += [p.name] * (skip + n_inputs + 2 - len(names))
        elif p.kind in (p.POSITIONAL_OR_KEYWORD, p.POSITIONAL_ONLY):
            names.append(p.name)
    return [not name.startswith("_") for name in names[1 + skip : skip + n_inputs + 2]]
