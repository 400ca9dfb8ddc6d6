"""What a tensor's numbers look like, and what the graph keeps: the tracer's optional figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tinyconv.autograd import Node, RemovableHandle, grad
from tinyconv.backend import array_module
from tinyconv.clock import owner
from tinyconv.errors import GraphError
from tinyconv.tensor import Tensor


class Statistics(NamedTuple):
    """Of the finite numbers the least, the mean and the greatest; shares of zeros and of NaN.

    lost: the share that is not finite, NaN or infinite.
    """

    least: float
    mean: float
    greatest: float
    zeros: float
    lost: float

    def __str__(self) -> str:
        text = f"{self.least:.3g} … {self.mean:.3g} … {self.greatest:.3g}"
        if self.zeros:
            text += f", {_percent(self.zeros)} zeros"
        if self.lost:
            text += f", {_percent(self.lost)} NaN or inf"
        return text


def _percent(share: float) -> str:
    """Never 0 % of what is there, never 100 % of what is not all."""
    percent = 100 * share
    if 0 < percent < 1:
        return "under 1 %"
    return "over 99 %" if 99 < percent < 100 else f"{percent:.0f} %"


def statistics(array: Any) -> Statistics | None:
    """Of an array of any dtype, in float64; None for an empty one."""
    if not array.size:
        return None
    xp = array_module(array)
    finite = xp.isfinite(array)
    kept = int(xp.count_nonzero(finite))
    lost = 1 - kept / array.size
    zeros = 1 - int(xp.count_nonzero(array)) / array.size
    numbers = array if kept == array.size else array[finite]
    if not kept:
        return Statistics(xp.nan, xp.nan, xp.nan, zeros, lost)
    mean = float(numbers.mean(dtype=xp.float64))
    return Statistics(float(numbers.min()), mean, float(numbers.max()), zeros, lost)


def kept_values(order: Iterable[Any], names: Mapping[str, Tensor]) -> dict[Any, Statistics]:
    """By node, leaf, or id of a constant array: of all values that the graph still holds."""
    arrays: dict[Any, Any] = {id(tensor.array): tensor.array for tensor in names.values()}
    for edge in order:
        if not isinstance(edge, Node):
            arrays[edge] = edge.array
            continue
        if edge.values is None:
            continue
        output = edge.outputs[edge.op.variable[0]]
        for key, array in zip([edge, *edge.inputs], [output, *edge.values], strict=True):
            if hasattr(array, "strides"):  # not None, a number, or only a shape
                arrays[id(array) if key is None else key] = array
    found = {key: statistics(array) for key, array in arrays.items()}
    return {key: value for key, value in found.items() if value is not None}


def gradient_statistics(outputs: Sequence[Tensor], order: Iterable[Any]) -> dict[Any, Statistics]:
    """By node and leaf: of the gradient of the outputs' sum.  The graph is kept."""
    found: dict[Any, Statistics] = {}

    def note(edge: Any) -> Any:
        def hook(g: Tensor) -> None:
            of_gradient = statistics(g.array)
            if of_gradient is not None:
                found[edge] = of_gradient

        return hook

    edges = list(order)
    leaves = [edge for edge in edges if not isinstance(edge, Node)]
    handles = []
    for edge in edges:
        if edge.hooks is None:
            edge.hooks = []
        handles.append(RemovableHandle(edge.hooks, note(edge)))
    try:
        seeds = [Tensor(array_module(y.array).ones_like(y.array)) for y in outputs]
        grad(outputs, leaves, seeds, retain_graph=True)
    except GraphError as error:
        raise GraphError("trace", f"gradients=True: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
    return found


def saved_bytes(order: Iterable[Any], names: Mapping[str, Tensor]) -> dict[Node, int]:
    """Bytes that each node keeps for the backward pass.

    Memory that several nodes keep counts once, for the oldest; that of leaves and of named
    tensors, such as the parameters, does not: it is there anyway.
    """
    edges = list(order)
    leaves = [edge.array for edge in edges if not isinstance(edge, Node)]
    named = [tensor.array for tensor in names.values() if tensor.node is None]
    counted = {id(owner(array)) for array in [*leaves, *named]}
    found: dict[Node, int] = {}
    for node in reversed([edge for edge in edges if isinstance(edge, Node)]):
        total = 0
        for array in node.saved or ():
            if hasattr(array, "strides") and id(owner(array)) not in counted:
                counted.add(id(owner(array)))
                total += array.nbytes
        found[node] = total
    return found
