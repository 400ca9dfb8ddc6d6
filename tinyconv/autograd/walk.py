"""The walk: from the outputs back through the graph, consumers before producers."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Any

from tinyconv.autograd.accumulate import added
from tinyconv.autograd.call import Op
from tinyconv.autograd.failures import check_unwritten, freed, misshaped, replaced, vjp_failed
from tinyconv.autograd.graph import (
    Edge,
    Node,
    Variable,
    is_tensor,
    leading_to,
    newest_first,
    whole,
    wrap,
)
from tinyconv.autograd.hooks import run_hooks
from tinyconv.autograd.modes import grad_mode
from tinyconv.autograd.outputs import Gradients, output_node
from tinyconv.backend.silence import silence
from tinyconv.clock import last_write
from tinyconv.context import context
from tinyconv.errors import TinyconvError


def walk(
    roots: dict[Edge, Any], targets: Sequence[Edge] | None, retain_graph: bool, create_graph: bool
) -> dict[Edge, Any]:
    """Gradients of the targets (None: of all leaves), given those of the roots.

    Gradients travel as plain arrays, as Tensors when ``create_graph``.  A gradient is dropped as
    soon as it was passed on, a node's saved arrays too unless ``retain_graph``.
    """
    wanted = None if targets is None else set(targets)
    needed = None if wanted is None else leading_to(wanted, newest_first(roots))
    pending = dict(roots)
    newest = [(-edge.seq, edge) for edge in roots if edge.seq]  # a heap of the pending nodes
    heapify(newest)
    only: Any = None  # the one that is pending where there is no other: of a chain always
    finished: dict[Edge, Any] = {}
    tape = context.tape
    if tape is not None:
        tape.start(roots)
    with grad_mode(create_graph), silence():
        while newest or only is not None:
            node: Any = heappop(newest)[1] if only is None else only
            only = None
            g = pending.pop(node)
            if node.hooks:
                g = run_hooks(node.hooks, g)
            if wanted is not None and node in wanted:
                finished[node] = _as_of(node, g)
            if needed is not None and needed.isdisjoint(node.inputs):
                continue  # a target that leads to no other target is neither read nor freed
            for edge, share in shares(node, g, needed, create_graph):
                if edge in pending:
                    pending[edge] = added(pending, edge, share)
                else:
                    pending[edge] = share
                    if edge.seq and only is None and not newest:
                        only = edge
                    elif edge.seq:
                        heappush(newest, (-edge.seq, edge))
                        if only is not None:
                            heappush(newest, (-only.seq, only))
                            only = None
                if tape is not None:
                    tape.send(node, edge, share, pending[edge])
            if not retain_graph:
                reads = node.reads
                if reads is not None and (reads.outputs or reads.values):
                    node.reads = None  # first: another thread may walk here, too
                    if reads.start:
                        node.links = node.links[: reads.start]
                    node.output = None
            del g
        for leaf in list(pending):
            g = pending.pop(leaf)
            g = run_hooks(leaf.hooks, g) if leaf.hooks else g
            if wanted is None or leaf in wanted:
                finished[leaf] = _as_of(leaf, g)
    return finished


def _as_of(edge: Edge, g: Any) -> Any:
    """The finished gradient as an array, or a Tensor, of the edge's dtype: a VJP may widen it."""
    g = whole(g)
    dtype = edge.dtype
    if g.dtype is dtype or g.dtype == dtype:
        return g
    return g.to(dtype) if is_tensor(g) else g.astype(dtype)


def shares(
    node: Node, g: Any, needed: set[Edge] | None, create_graph: bool
) -> list[tuple[Edge, Any]]:
    """What one node sends to each of its inputs."""
    op, output, links = node.op, node.output, node.links
    reads = node.reads  # last: if another thread has freed the node then that shows
    if reads is None:
        raise freed(node)
    values: Sequence[Any] = links[reads.start :] if reads.start else links
    if last_write[0] > node.seq:
        check_unwritten(node, reads, values)
    if create_graph:
        output, *values = _as_tensors(node, output, values)
    elif op.outputs != 1:
        output, *others = output
        values = [*others, *values]
    if type(g) is Gradients:
        g = g.complete(node)
    if op.fused is not None and (not create_graph or not op.vjps):
        shares = op.fused(g, output, *values, **node.params)
        return [
            (e, s)
            for e, s in zip(node.inputs, shares, strict=True)
            if e is not None and s is not None and (needed is None or e in needed)
        ]
    out = []
    params = node.params
    try:
        for i in reads.wanted:
            edge = links[i]
            if needed is not None and edge not in needed:
                continue
            share: Any = op  # stands there still if the VJP raises
            if op.variadic:
                share = op.vjps[0](i, g, output, *values, **params)  # type: ignore[misc]
            else:
                vjp: Any = op.vjps[i]
                if type(vjp) is Op:
                    share = vjp(g, output) if create_graph else vjp.forward(g, output)
                else:
                    share = vjp(g, output, *values, **params) if params else vjp(g, output, *values)
            if share.shape != edge.shape:
                raise misshaped(op, i, share, edge)
            out.append((edge, share))
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, TinyconvError):
            if share is op:
                error.args = (f"{op.name}: its VJP {i} failed: {error}",)
            raise
        raise vjp_failed(op, i, share, error, [output, *values]) from error
    return out


def _as_tensors(node: Node, output: Any, values: Sequence[Any]) -> list[Any]:
    """The saved arrays, joined to the graph again so that their VJPs can be differentiated."""
    tensors = _outputs_as_tensors(node, output)
    for i, (array, edge) in enumerate(zip(values, node.inputs, strict=True)):
        if not hasattr(array, "strides"):  # a number, or a shape without values
            tensors.append(array)
        elif isinstance(edge, Variable):
            if edge.array is not array:
                raise replaced(node, i)
            tensors.append(edge)
        else:
            tensors.append(wrap(array, edge))
    return tensors


def _outputs_as_tensors(node: Node, output: Any) -> list[Any]:
    if node.op.outputs == 1:
        return [None if output is None else wrap(output, node)]
    variable = node.op.variable
    made: list[Any] = [None if array is None else wrap(array) for array in output]
    for index, i in enumerate(variable):
        if made[i] is not None:
            made[i] = wrap(output[i], node if len(variable) == 1 else output_node(node, index))
    return made
