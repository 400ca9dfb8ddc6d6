"""Function: forward and backward in one class, as research code for PyTorch is written.

A thin front of the engine: `apply` records the same node as an operation of the table does, and
backward is its rule for all inputs at once.  An operation of your own is better made with `@op`:
that is checked, and may be registered with samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinyconv.autograd.call import Op
from tinyconv.autograd.graph import Meta, Node, is_tensor, meta_of, whole, wrap
from tinyconv.autograd.modes import no_grad
from tinyconv.autograd.outputs import tensors_of
from tinyconv.autograd.reads import Reads
from tinyconv.backend import array_module
from tinyconv.clock import tick
from tinyconv.context import context
from tinyconv.errors import DTypeError, GraphError, ShapeError


class FunctionCtx:
    """What forward leaves for backward: attributes of any name, and tensors that it saves.

    needs_input_grad: for each argument of forward, is its gradient wanted?
    """

    needs_input_grad: tuple[bool, ...]

    def __init__(self) -> None:
        self._saved: Sequence[Any] = ()
        self._places: list[tuple[int, int] | None] = []  # of what is saved: see `_place`
        self._constants: tuple[Any, ...] = ()
        self._outputs: list[tuple[bool, Meta]] = []  # is it a constant?  Its shape and dtype

    def save_for_backward(self, *tensors: Any) -> None:
        """Keep inputs or outputs of forward, for ``saved_tensors``; None may be among them.

        Other tensors may be kept, too, but only for a first-order backward.
        """
        self._saved = tensors

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        return tuple(self._saved)

    def mark_non_differentiable(self, *outputs: Any) -> None:
        """These outputs are constants to the derivative, as those of integers always are."""
        self._constants = outputs

    def set_materialize_grads(self, value: bool) -> None:
        """Without effect: an output that was not used has a gradient of zeros."""

    def mark_dirty(self, *_tensors: Any) -> None:
        """GraphError: an input may not be written."""
        raise GraphError("mark_dirty", "forward may not write its inputs; return a new tensor")


class Function:
    """Subclass it, with two static methods, and call ``apply``:

        class Exp(tc.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                y = x.exp()
                ctx.save_for_backward(y)
                return y

            @staticmethod
            def backward(ctx, g):
                (y,) = ctx.saved_tensors
                return g * y

        y = Exp.apply(x)

    forward gets Tensors and whatever else it is given, and records nothing; it returns a Tensor
    or a tuple.  backward gets a gradient for each output and returns one for each argument of
    forward, None where there is none.  Written in operations of Tensors it can be differentiated
    again.  In the place of ctx in forward there may be a third method, ``setup_context(ctx,
    inputs, output)``.
    """

    @staticmethod
    def forward(*args: Any) -> Any:
        raise NotImplementedError("a Function has a static method forward(ctx, *args)")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep what backward needs, where forward has no ctx."""

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError("a Function has a static method backward(ctx, *gradients)")

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """forward(*args), recorded."""
        ctx = FunctionCtx()
        ctx.needs_input_grad = tuple(is_tensor(x) and x.requires_grad for x in args)
        with no_grad():
            if cls.setup_context is Function.setup_context:
                made = cls.forward(ctx, *args)
            else:
                made = cls.forward(*args)
                cls.setup_context(ctx, args, made)
        outputs = made if isinstance(made, tuple) else (made,)
        for y in outputs:
            if not is_tensor(y):
                raise DTypeError(cls.__name__, f"forward returned a {type(y).__name__}, no Tensor")
        constants = [
            i for i, y in enumerate(outputs)
            if y.array.dtype.kind != "f" or any(y is c for c in ctx._constants)
        ]  # fmt: skip
        recorded = context.grad_enabled and any(ctx.needs_input_grad)
        if not recorded or len(constants) == len(outputs):
            found = tuple(wrap(y.array) for y in outputs)
        else:
            found = _recorded(cls, ctx, args, outputs, constants)
        return found if isinstance(made, tuple) else found[0]


def _recorded(
    cls: type[Function],
    ctx: FunctionCtx,
    args: Sequence[Any],
    outputs: tuple[Any, ...],
    constants: list[int],
) -> tuple[Any, ...]:
    """The outputs with a node, which keeps what was saved."""
    arrays = tuple(y.array for y in outputs)
    op = Op(
        cls.forward, cls.__name__, same=(), differentiable=True, samples=(),
        outputs=len(outputs), constants=constants,
    )  # fmt: skip
    op.fused = _backward
    ctx._places = [_place(x, outputs, args) for x in ctx._saved]
    ctx._saved = [x if p is None else None for x, p in zip(ctx._saved, ctx._places, strict=True)]
    ctx._outputs = [(i in constants, meta_of(a.shape, a.dtype)) for i, a in enumerate(arrays)]
    read, values = ({p[1] for p in ctx._places if p and p[0] == kind} for kind in (0, 1))
    wanted = [i for i, needed in enumerate(ctx.needs_input_grad) if needed]
    first, n = arrays[op.variable[0]], len(args)
    node = Node()
    node.op = op
    node.links = [(x.node or x) if i in wanted else None for i, x in enumerate(args)]
    node.links += [_held(x, i in values) for i, x in enumerate(args)]
    node.reads = Reads(n, n, tuple(wanted), tuple(read), tuple(values), ())
    node.output = first if read else None
    node.params = {"ctx": ctx, "function": cls}
    node.shape, node.dtype = first.shape, first.dtype
    node.seq, node.scope, node.hooks = tick(), context.scope, None
    if context.watch is not None:
        context.watch(node, first)
    y = wrap(first, node)
    return (y,) if op.outputs == 1 else tensors_of(op, arrays, y)


def _place(x: Any, *groups: Sequence[Any]) -> tuple[int, int] | None:
    """Which output (0, i) or input (1, i) a saved tensor is; None if it is neither."""
    for kind, tensors in enumerate(groups):
        for i, tensor in enumerate(tensors):
            if x is tensor and is_tensor(x):
                return kind, i
    return None


def _held(x: Any, read: bool) -> Any:
    if not is_tensor(x):
        return None
    return x.array if read else meta_of(x.array.shape, x.array.dtype)


def _backward(g: Any, *values: Any, ctx: FunctionCtx, function: type[Function]) -> list[Any]:
    """The gradients of all inputs, by the user's backward; values: the outputs, then the inputs.

    All are arrays, or in a walk that is recorded Tensors.
    """
    given = list(g) if isinstance(g, tuple) else [g]
    recorded = is_tensor(given[0])
    xp = array_module(given[0].array if recorded else given[0])
    gradients = [
        wrap(xp.zeros(meta.shape, meta.dtype)) if constant else _tensor(given.pop(0))
        for constant, meta in ctx._outputs
    ]
    n = len(ctx._outputs)
    inner = FunctionCtx()
    inner.__dict__.update(ctx.__dict__)
    inner._saved = [
        _kept(function, x, recorded) if p is None else _tensor(values[p[0] * n + p[1]])
        for x, p in zip(ctx._saved, ctx._places, strict=True)
    ]
    found = function.backward(inner, *gradients)
    found = list(found) if isinstance(found, (tuple, list)) else [found]
    inputs = values[n:]
    if len(found) < len(inputs) or any(x is not None for x in found[len(inputs) :]):
        said = f"backward returned {len(found)} gradients, forward has {len(inputs)} arguments"
        raise GraphError(function.__name__, said)
    return [
        _checked(function, i, g, x, recorded)
        for i, (g, x) in enumerate(zip(found, inputs, strict=False))
    ]


def _tensor(x: Any) -> Any:
    return x if is_tensor(x) else wrap(whole(x))


def _kept(function: type[Function], x: Any, recorded: bool) -> Any:
    """A saved tensor that forward made on its way: how it depends on the inputs is not known."""
    if recorded and is_tensor(x) and x.array.dtype.kind == "f":
        raise GraphError(
            function.__name__,
            "create_graph=True needs the derivative of a saved tensor that is neither an input nor "
            "an output of forward. Save the inputs and compute it again in backward",
        )
    return x


def _checked(function: type[Function], i: int, g: Any, x: Any, recorded: bool) -> Any:
    """A gradient as the walk takes it: an array, or a Tensor where the walk is recorded."""
    if g is None:
        return None
    if not is_tensor(g) or x is None:
        kind = "a gradient for what is no Tensor" if x is None else f"a {type(g).__name__}"
        said = f"backward returned {kind} in place {i}; need a Tensor, or None for no gradient"
        raise DTypeError(function.__name__, said)
    if g.shape != x.shape:
        said = f"backward returned {g.shape} in place {i}, for an input of shape {x.shape}"
        raise ShapeError(function.__name__, said)
    g = g if g.dtype == x.dtype else g.to(x.dtype)
    return g if recorded else g.array
