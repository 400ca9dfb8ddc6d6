"""A call and a walk as they are defined: what `call` and `walk` do, without what makes them quick.

The tests compare them: the calls on every operation, the walks on drawn graphs, to second order.
"""

from __future__ import annotations

from typing import Any

from tinyconv.autograd.graph import Edge, Node, is_tensor, newest_first, whole, wrap
from tinyconv.autograd.modes import grad_mode, is_grad_enabled
from tinyconv.autograd.operands import agree
from tinyconv.autograd.reads import Reads
from tinyconv.autograd.walk import shares
from tinyconv.clock import tick


def naive_call(op: Any, *args: Any, **params: Any) -> Any:
    """Compute; if a gradient is wanted of an argument, record what was computed from what.

    Of one output.  Everything is kept for the VJPs, whether they read it or not.
    """
    arrays = agree(op, [x.array if is_tensor(x) else x for x in args])
    y = whole(op.forward(*arrays, **{**op.defaults, **params}))
    wanted = [i for i, x in enumerate(args) if is_tensor(x) and x.requires_grad]
    if not (wanted and is_grad_enabled() and op.vjps and y.dtype.kind == "f"):
        return wrap(y)
    node = Node()
    node.op, node.params, node.output = op, {**op.defaults, **params}, y
    edges = [(x.node or x) if i in wanted else None for i, x in enumerate(args)]
    node.links = [*edges, *arrays]  # where gradients go, and what the VJPs read
    n, reached = len(args), tuple(i for i in wanted if op.variadic or op.vjps[i])
    node.reads = Reads(n, n, reached, (0,), tuple(range(n)), ())
    node.shape, node.dtype, node.seq, node.scope, node.hooks = y.shape, y.dtype, tick(), "", None
    return wrap(y, node)


def naive_walk(roots: dict[Edge, Any], create_graph: bool = False) -> dict[Edge, Any]:
    """Gradients of everything that the roots depend on, given those of the roots.

    Not pruned to targets, no memory freed on the way, no hooks, sums in new memory.
    """
    gradients = dict(roots)
    with grad_mode(create_graph):
        for node in newest_first(roots):  # each after all that it was used for
            if isinstance(node, Node):
                for edge, share in shares(node, gradients[node], None, create_graph):
                    gradients[edge] = gradients[edge] + share if edge in gradients else share
    return gradients
