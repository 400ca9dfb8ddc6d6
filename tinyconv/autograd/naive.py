"""The walk as it is defined: what `walk.walk` does, without what makes it quick.

Not pruned to the targets, no memory freed on the way, no hooks, sums in new memory.  The tests
compare the two on drawn graphs, to second order.
"""

from __future__ import annotations

from typing import Any

from tinyconv.autograd.graph import Edge, Node, newest_first
from tinyconv.autograd.modes import grad_mode
from tinyconv.autograd.walk import shares


def naive_walk(roots: dict[Edge, Any], create_graph: bool = False) -> dict[Edge, Any]:
    """Gradients of everything that the roots depend on, given those of the roots."""
    gradients = dict(roots)
    with grad_mode(create_graph):
        for node in newest_first(roots):  # each after all that it was used for
            if isinstance(node, Node):
                for edge, share in shares(node, gradients[node], None, create_graph):
                    gradients[edge] = gradients[edge] + share if edge in gradients else share
    return gradients
