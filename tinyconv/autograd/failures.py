"""What went wrong in a forward or a VJP, in words that say how to put it right."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from numpy.exceptions import AxisError

from tinyconv.autograd.graph import Edge, Node, Variable
from tinyconv.autograd.reads import Reads
from tinyconv.autograd.rule import Rule
from tinyconv.clock import written
from tinyconv.errors import DTypeError, GraphError, ShapeError, TinyconvError, no_axis, no_integer


def no_array(rule: Rule, data: Any) -> DTypeError:
    """What the forward returned in the place of an array, and how to return one."""
    kind = "None" if data is None else f"a {type(data).__name__}"
    if data is None:
        fix = "does it lack a return?"
    elif isinstance(data, tuple):
        fix = f"declare how many outputs there are: @tc.op(outputs={len(data)})"
    elif isinstance(data, Variable):
        fix = "it gets arrays and returns one: compute with array_module(x), or return y.array"
    else:
        fix = "make an array of it: array_module(x).asarray(...)"
    return DTypeError(rule.name, f"its forward returned {kind}, not an array; {fix}")


def not_several(rule: Rule, data: Any) -> DTypeError:
    """What the forward returned in the place of a tuple of arrays."""
    n = rule.outputs
    kind = f"{len(data)} of them" if isinstance(data, tuple) else f"a {type(data).__name__}"
    said = f"its forward returned {kind}, not the tuple of {n} arrays that outputs={n} declares"
    return DTypeError(rule.name, said)


def refused(
    rule: Rule, error: Exception, arrays: Sequence[Any], params: dict[str, Any]
) -> Exception | None:
    """NumPy's word on integers that a function does not take, or on a number too large."""
    for key in ("dim", "dims"):
        axes = params.get(key)
        named = axes if isinstance(axes, (tuple, list)) else (axes,)
        if axes is not None and any(type(d) is not int for d in named):
            return no_integer(rule.name, key, axes)
    kinds = [x.dtype.kind for x in arrays if hasattr(x, "dtype")]
    for i, x in enumerate(arrays):
        if x is None and type(error) is TypeError:
            return DTypeError(rule.name, f"operand {i} is None; need a tensor or a number")
    if isinstance(error, TinyconvError) or ("f" in kinds and type(error) is TypeError):
        return None
    listed = " and ".join(str(getattr(x, "dtype", x)) for x in arrays)
    return DTypeError(rule.name, f"operands {listed}: {error}; convert them: x.float()")


def explained(rule: Rule, error: ValueError, arrays: Sequence[Any]) -> Exception:
    """NumPy's complaint with the operation's name and the operands' shapes in front."""
    if isinstance(error, ShapeError):
        return error
    if isinstance(error, AxisError) and error.axis is not None:
        return no_axis(rule.name, arrays[0].shape, error.axis)
    shapes = [getattr(a, "shape", ()) for a in arrays]
    said = _clash(shapes) if "broadcast" in str(error) else ""
    listed = " and ".join(str(getattr(a, "shape", a)) for a in arrays)
    return ShapeError(rule.name, f"operands {listed}: {said or error}")


def _clash(shapes: Sequence[tuple[int, ...]]) -> str:
    """The axis that keeps shapes from broadcasting; from the end if their lengths differ."""
    longest = max(map(len, shapes))
    for back in range(1, longest + 1):
        sizes = sorted({shape[-back] for shape in shapes if len(shape) >= back} - {1})
        if len(sizes) > 1:
            axis = longest - back if all(len(s) == longest for s in shapes) else -back
            return f"axis {axis} has sizes {' and '.join(map(str, sizes))}; only 1 is broadcast"
    return ""


def misshaped(rule: Rule, i: int, share: Any, edge: Edge) -> ShapeError:
    said = f"its VJP {i} returned {share.shape} for an input of shape {edge.shape}"
    if len(share.shape) > len(edge.shape) or any(n == 1 for n in edge.shape):
        said += ". If the input was broadcast: unbroadcast(..., x.shape) of tinyconv.ops.shape"
    elif len(share.shape) < len(edge.shape):
        said += ". If the forward sums: g.broadcast_to(x.shape) spreads it again"
    return ShapeError(rule.name, said)


def vjp_failed(rule: Rule, i: int, share: Any, error: Exception, saved: Sequence[Any]) -> Exception:
    """What is wrong with a VJP that raised Python's or NumPy's exception, and how to write it."""
    raised = share is rule or hasattr(share, "shape")
    usage, wrong = rule.usage(), "" if raised else type(share).__name__
    if wrong == "NoneType":
        said = ("returned None; does it lack a return? Where an input has no gradient, None stands "
                f"in the place of the VJP: {rule.name}.defvjp(..., None)")
    elif wrong:
        said = f"returned a {wrong}, need the gradient of input {i} alone, an array; {usage}"
    else:
        said = f"raised {type(error).__name__}: {error}. "
        said += _lie(rule, i, str(error), saved) or (
            "It is called on plain arrays, and on Tensors with create_graph=True: write it in what "
            "both have, operators and functions of tc, such as g * (x > 0) or tc.exp(x)"
        )
    kind = ShapeError if isinstance(error, (ValueError, IndexError)) else DTypeError
    return kind(rule.name, f"its VJP {i} {said}")


def _lie(rule: Rule, i: int, said: str, saved: Sequence[Any]) -> str:
    """What to do if an argument was read whose name promises that its values are not."""
    vjp = rule.vjps[0 if rule.variadic else i]
    given = list(inspect.signature(vjp).parameters)[2 if rule.variadic else 1 :]  # type: ignore[arg-type]
    lies = [
        name for name, value in zip(given, saved, strict=False)
        if name.startswith("_") and not hasattr(value, "strides") and type(value).__name__ in said
    ]
    if not lies:
        return ""
    listed = " or ".join(lies)
    return (f"Does it read the values of {listed}? The underscore promises that it reads the shape "
            "and dtype alone, so they were not kept: take the underscore away")


def _of(node: Node) -> str:
    return f" of {node.scope}" if node.scope else ""


def check_unwritten(node: Node, reads: Reads, values: Sequence[Any]) -> None:
    """GraphError if anything that the node's VJPs read was written in place since."""
    if any(written(node.outputs[i]) > node.seq for i in reads.outputs):
        raise _overwritten(node, "its output")
    for i in reads.values:
        if written(values[i]) > node.seq:
            raise _overwritten(node, f"its input {i}")


def _overwritten(node: Node, what: str) -> GraphError:
    return GraphError(
        node.op.name,
        f"the backward pass{_of(node)} needs {what}, which was overwritten in place after "
        "the forward pass. Write it after backward(), or compute with a copy: x.clone()",
    )


def freed(node: Node) -> GraphError:
    return GraphError(
        node.op.name,
        f"this graph{_of(node)} was already walked and freed. Run the forward pass again, or "
        "keep the graph with backward(retain_graph=True) the first time",
    )


def replaced(node: Node, i: int) -> GraphError:
    return GraphError(
        node.op.name,
        f"the backward pass{_of(node)} needs its input {i}, whose .array was replaced "
        "after the forward pass. Replace it after backward()",
    )
