"""Calls with several outputs: one node for the call, and behind it one for each output.

An output's node sends its gradient to the call's node, which waits until all have arrived: they
are its consumers like any others.
"""

from __future__ import annotations

from typing import Any

from tinyconv.autograd.failures import no_array
from tinyconv.autograd.graph import Node, whole, wrap
from tinyconv.autograd.reads import Reads
from tinyconv.autograd.rule import Rule
from tinyconv.backend import array_module
from tinyconv.clock import tick


class Gradients:
    """Those of a call's outputs, as far as they have arrived; None for the others."""

    __slots__ = ("each", "shape")

    size = 0  # what a sum is worth is asked by size: none of ours is a matter for a kernel

    def __init__(self, each: list[Any], shape: Any) -> None:
        self.each = each
        self.shape = shape  # those of the outputs, as of the call's node

    def __add__(self, other: Gradients) -> Gradients:
        pairs = zip(self.each, other.each, strict=True)
        return Gradients([b if a is None else a if b is None else a + b for a, b in pairs],
                         self.shape)  # fmt: skip

    def sent(self) -> Any:
        """The one of an output that was sent by itself."""
        return next(g for g in self.each if g is not None)

    def complete(self, node: Node) -> tuple[Any, ...]:
        """Zeros for the outputs that nobody used."""
        one = self.sent()
        xp = array_module(getattr(one, "array", one))
        made = []
        for g, shape, dtype in zip(self.each, node.shape, node.dtype, strict=True):
            if g is None:
                g = xp.zeros(shape, dtype)
                g = wrap(g) if hasattr(one, "array") else g
            made.append(g)
        return tuple(made)


def _to_the_call(g: Any, _y: Any, _call: Any, *, index: int) -> Gradients:
    each = [None] * len(_call.shape)
    each[index] = g
    return Gradients(each, _call.shape)


# Not an Op, for nobody calls it, and not in the table.
_OUTPUT: Any = Rule(
    lambda call, *, index: call, "output", same=None, differentiable=True, samples=()
)
_OUTPUT.vjps = (_to_the_call,)
_READS = Reads(1, 0, (0,), (), (), ())


def tensors_of(rule: Rule, arrays: tuple[Any, ...], first: Any) -> tuple[Any, ...]:
    """What a call returns; its node keeps the outputs that VJPs read.

    first: the first output that is no constant, a Tensor with the call's node.
    """
    node, variable = first.node, rule.variable
    for i in variable[1:]:
        if not hasattr(arrays[i], "dtype"):
            raise no_array(rule, arrays[i])
    made = [None if a is None else wrap(a if a.shape else whole(a)) for a in arrays]
    made[variable[0]] = first
    if node is None:
        return tuple(made)
    node.output = tuple([a if i in node.reads.outputs else None for i, a in enumerate(arrays)])
    if len(variable) > 1:
        node.shape = tuple(arrays[i].shape for i in variable)
        node.dtype = tuple(arrays[i].dtype for i in variable)
        for index, i in enumerate(variable):
            made[i] = wrap(whole(arrays[i]), output_node(node, index))
    return tuple(made)


def output_node(call: Node, index: int) -> Node:
    """The node of one of the outputs that are no constants."""
    node = Node()
    node.op = _OUTPUT
    node.links = [call]
    node.reads = _READS
    node.output = node.hooks = None
    node.params = {"index": index}
    node.shape, node.dtype = call.shape[index], call.dtype[index]
    node.seq = tick()
    node.scope = call.scope
    return node
