"""The two entrances to the walk: `grad` returns gradients, `backward` adds them to ``.grad``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tinyconv.autograd.accumulate import accumulate, set_apart
from tinyconv.autograd.graph import Edge, Variable, is_tensor, wrap
from tinyconv.autograd.modes import grad_mode
from tinyconv.autograd.operands import check_devices
from tinyconv.autograd.walk import walk
from tinyconv.backend import array_module
from tinyconv.context import context
from tinyconv.errors import DTypeError, GraphError, ShapeError

if TYPE_CHECKING:
    from tinyconv.tensor import Tensor


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Any, ...]:
    """Gradients of the sum of ``outputs`` with respect to each of ``inputs``, as a tuple.

    grad_outputs: the vector of the vector-Jacobian product, one per output (None for scalars).
    retain_graph: keep the graph for another walk (default: the value of ``create_graph``).
    create_graph: make the gradients differentiable themselves.
    allow_unused: None instead of a GraphError for an input that the outputs do not depend on.

    Nothing is written to ``.grad``.  Same meaning as torch.autograd.grad.
    """
    outs, ins = _listed(outputs), _listed(inputs)
    seeds = [None] * len(outs) if grad_outputs is None else _listed(grad_outputs)
    if len(seeds) != len(outs):
        raise ValueError(f"grad: {len(outs)} outputs but {len(seeds)} grad_outputs")
    targets = [_target(i, x) for i, x in enumerate(ins)]
    retain = create_graph if retain_graph is None else retain_graph
    found = walk(_roots(outs, seeds, create_graph, "grad"), targets, retain, create_graph)
    unused = [i for i, edge in enumerate(targets) if edge not in found]
    if unused and not allow_unused:
        raise GraphError(
            "grad",
            f"the outputs do not depend on input {unused[0]} {ins[unused[0]].shape}; "
            "pass allow_unused=True to get None for it",
        )
    grads = [found.get(edge) for edge in targets]
    return tuple(g if g is None or is_tensor(g) else wrap(g) for g in grads)


def backward(
    output: Variable,
    gradient: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
) -> None:
    """Add the gradient of ``output`` to ``.grad`` of every leaf that it depends on.

    In place where there is one already, so that a reference to it, and a buffer that it is a view
    of, has the sum; with ``create_graph`` the sum is a new tensor, as in PyTorch.
    """
    retain = create_graph if retain_graph is None else retain_graph
    roots = _roots([output], [gradient], create_graph, "backward")
    found = walk(roots, None, retain, create_graph)
    if gradient is not None:
        set_apart(found, gradient)
    tape, capture = context.tape, context.capture
    with grad_mode(create_graph):
        for leaf in list(found):
            assert isinstance(leaf, Variable)
            g = found.pop(leaf)  # nobody else is to refer to it
            g = g if is_tensor(g) else wrap(g)
            if tape is not None:
                tape.store(leaf, g)
            if capture is not None:
                capture.check_gradient(leaf)
            accumulate(leaf, g)


def _seed(output: Variable, gradient: Any, caller: str) -> Any:
    """The gradient that the walk starts with at one output."""
    if not output.requires_grad:
        raise GraphError(
            caller,
            f"the output {output.shape} does not require grad: nothing that it was computed from "
            "does, or it was computed under no_grad(). Call x.requires_grad_() before the forward",
        )
    if gradient is None:
        if output.array.size != 1:
            raise ShapeError(
                caller,
                f"the output has shape {output.shape}; only a scalar has a gradient without being "
                "told in which direction. Reduce it, y.sum().backward(), or pass a gradient of "
                f"shape {output.shape}",
            )
        return array_module(output.array).ones_like(output.array)
    if not hasattr(gradient, "shape"):
        kind = type(gradient).__name__
        raise DTypeError(caller, f"gradient is a {kind}, need a tensor of shape {output.shape}")
    if gradient.shape != output.shape:
        raise ShapeError(caller, f"gradient has shape {gradient.shape}, the output {output.shape}")
    check_devices(caller, (output.array, gradient.array if is_tensor(gradient) else gradient))
    if gradient.dtype != output.dtype:
        raise DTypeError(
            caller,
            f"gradient is {gradient.dtype}, the output {output.dtype}; "
            f"convert it: gradient.to(tc.{output.dtype})",
        )
    return gradient


def _roots(
    outputs: Sequence[Variable], gradients: Sequence[Any], create_graph: bool, caller: str
) -> dict[Edge, Any]:
    roots: dict[Edge, Any] = {}
    for output, gradient in zip(outputs, gradients, strict=True):
        seed = _seed(output, gradient, caller)
        if create_graph:
            seed = seed if is_tensor(seed) else wrap(seed)
        else:
            seed = seed.array if is_tensor(seed) else seed
        edge = output.node or output
        roots[edge] = roots[edge] + seed if edge in roots else seed
    return roots


def _listed(tensors: Any) -> list[Any]:
    return [tensors] if is_tensor(tensors) else list(tensors)


def _target(i: int, x: Variable) -> Edge:
    """Where the walk meets the i-th input of `grad`."""
    if not x.requires_grad:
        raise GraphError(
            "grad",
            f"input {i} {x.shape} does not require grad; call x.requires_grad_() before the "
            "forward pass",
        )
    return x.node or x
