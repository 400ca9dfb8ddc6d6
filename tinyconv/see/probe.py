"""A model run once on zeros, to see what calls what in which shapes.

The run leaves no trace on the model: its mode, its running statistics and the random stream are
afterwards what they were.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from tinyconv import nn, random
from tinyconv.autograd import Edge, Node, enable_grad, newest_first
from tinyconv.context import context
from tinyconv.creation import zeros
from tinyconv.errors import ShapeError
from tinyconv.see.axes import Axis, Stamp
from tinyconv.see.reach import Axes, ReceptiveField, layer_axes, receptive_field, two_axes
from tinyconv.tensor import Tensor

# layers for (N, C, H, W): with them (C, H, W) means one image
_IMAGE_LAYERS = (
    nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d, nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.Unfold, nn.PixelShuffle,
    nn.ConstantPad2d, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d,
)  # fmt: skip


@dataclass(eq=False)
class Call:
    """One call of a module, in the order in which calls began.

    input, output: the tensors; None where there was none, or where the call failed
    """

    path: str
    module: nn.Module
    input: Tensor | None
    output: Tensor | None = None

    @property
    def axes(self) -> Axes | None:
        """The layer's geometry, where it is made of windows."""
        return None if self.layout is None else two_axes(self.layout)

    @property
    def layout(self) -> tuple[Axis, ...] | None:
        """One Axis per spatial axis, H and W, or L; as far as it explains the output's shape."""
        if self.input is None or self.output is None:
            return None
        axes = layer_axes(self.module, self.input.shape)
        if axes is None:
            return None
        sizes = self.output.shape[2:]
        fitted = tuple(_fitted(axis, size) for axis, size in zip(axes, sizes, strict=True))
        return fitted if tuple(axis.out for axis in fitted) == sizes else None


def _fitted(axis: Axis, size: int) -> Axis:
    """A transposed convolution may be called with output_size=, in the place of output_padding."""
    return replace(axis, extra=axis.extra + size - axis.out) if isinstance(axis, Stamp) else axis


@dataclass(eq=False)
class Probe:
    """What happened: the calls, and the error if the model raised one.

    failed: the innermost call that was going on then
    """

    model: nn.Module
    input: Tensor
    calls: list[Call]
    error: Exception | None = None
    failed: Call | None = None

    def nodes(self) -> list[Node]:
        """All recorded operations, oldest first."""
        roots = [edge(call.output) for call in self.calls if call.output is not None]
        return [one for one in reversed(newest_first(roots)) if isinstance(one, Node)]

    def jumps(self) -> dict[Edge, tuple[Edge, Axes]]:
        """What `receptive_field` need not read off the operations, because the layer says it."""
        found: dict[Edge, tuple[Edge, Axes]] = {}
        for call in self.calls:
            if call.output is not None and call.input is not None and call.axes is not None:
                found[edge(call.output)] = edge(call.input), call.axes
        return found

    def receptive_field(
        self, output: Tensor, at: tuple[int, int] | None = None
    ) -> ReceptiveField | None:
        """What the pixel ``at`` of a call's output reads of the model's input."""
        if self.input.ndim not in (3, 4) or not self.input.requires_grad:
            return None
        return receptive_field(edge(output), self.input, self.jumps(), at)


def edge(tensor: Tensor) -> Edge:
    """Where a tensor is in the graph."""
    return tensor.node or tensor


def probe(model: nn.Module, shape: Any) -> Probe:
    """Run ``model`` in evaluation mode on zeros of ``shape``, or on a tensor, and watch it.

    shape: (N, C, H, W), or (C, H, W) for one image where the model has layers for images.
    Whatever the model raises is caught and kept.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"need a model or a layer, got a {type(model).__name__}")
    x = example(model, shape)
    calls: list[Call] = []
    going_on: list[Call] = []
    with ExitStack() as after:
        after.enter_context(untouched(model, training=False))
        after.enter_context(enable_grad())
        for module in model.modules():
            before, behind = _watch(calls, going_on)
            # first of all before, last of all behind: other hooks may replace what is passed on
            after.callback(module.register_forward_pre_hook(before).remove)
            after.callback(module.register_forward_hook(behind).remove)
        try:
            model(x)
        except Exception as error:
            return Probe(model, x, calls, error, going_on[-1] if going_on else None)
    return Probe(model, x, calls)


def _watch(calls: list[Call], going_on: list[Call]) -> tuple[Any, Any]:
    def before(module: nn.Module, args: Any) -> None:
        given = tensors(args)
        call = Call(context.scope, module, given[0] if given else None)
        calls.append(call)
        going_on.append(call)

    def behind(module: nn.Module, args: Any, output: Any) -> None:
        call = going_on.pop()
        made = tensors(output)
        call.output = made[0] if made else None

    return before, behind


def tensors(value: Any) -> list[Tensor]:
    """All tensors in an output: alone, or in tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [t for item in value for t in tensors(item)] if isinstance(value, (tuple, list)) else []


def example(model: nn.Module, shape: Any) -> Tensor:
    """Zeros of a shape, of the model's dtype and on its device; or the tensor that was given."""
    if isinstance(shape, Tensor):
        x = shape.detach()
        return x.requires_grad_() if x.is_floating_point() else x
    wanted = _checked(shape)
    if len(wanted) == 3 and any(isinstance(module, _IMAGE_LAYERS) for module in model.modules()):
        wanted = (1, *wanted)
    like = next(model.parameters(), None)
    given: dict[str, Any] = {} if like is None else {"dtype": like.dtype, "device": like.device}
    return zeros(wanted, requires_grad=True, **given)


def _checked(shape: Any) -> tuple[int, ...]:
    good = isinstance(shape, Sequence) and not isinstance(shape, str)
    if not good or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ShapeError("shape", f"{shape!r} is no shape; pass positive sizes such as (1, 28, 28)")
    return tuple(shape)


@contextmanager
def untouched(model: nn.Module, training: bool | None) -> Iterator[None]:
    """Run the model as one likes: its mode, its buffers and the random stream are put back.

    training: the mode inside, None for the present one.
    """
    modules = list(model.modules())
    modes = [module.training for module in modules]
    buffers = [(module, name, b) for module in modules for name, b in module._buffers.items()]
    stream = random.get_rng_state()
    try:
        for module, name, buffer in buffers:
            setattr(module, name, None if buffer is None else buffer.clone())
        if training is not None:
            model.train(training)
        yield
    finally:
        random.set_rng_state(stream)
        for module, name, buffer in buffers:
            setattr(module, name, buffer)
        for module, mode in zip(modules, modes, strict=True):
            module.__dict__["training"] = mode


# --- costs


def multiply_adds(node: Node) -> int:
    """Multiply-adds of one recorded convolution or matrix product; 0 for every other operation.

    Those that meet padding's zeros, or stamp into what a transposed convolution crops, count: it
    is what everybody counts, and what the loops over outputs and taps do.
    """
    name = node.op.name
    if name not in ("conv2d", "conv2d_input", "matmul", "einsum"):
        return 0
    shapes = operand_shapes(node)
    if name == "conv2d":  # every output sums C/groups * KH * KW products
        return math.prod(node.shape) * math.prod(shapes[1][1:])
    if name == "conv2d_input":  # every input stamps C/groups * KH * KW products
        return math.prod(shapes[0]) * math.prod(shapes[1][1:])
    if name == "matmul":
        return math.prod(node.shape) * shapes[0][-1]
    letters: dict[str, int] = {}
    for labels, shape in zip(
        node.params["subscripts"].split("->")[0].split(","), shapes, strict=True
    ):
        letters.update(zip(labels, shape, strict=False))
    return math.prod(letters.values()) * (len(shapes) - 1)


def operand_shapes(node: Node) -> list[tuple[int, ...]]:
    """The shapes of a node's inputs, with or without a gradient."""
    assert node.values is not None
    return [
        tuple(kept.shape if one is None else one.shape)
        for one, kept in zip(node.inputs, node.values, strict=True)
        if one is not None or hasattr(kept, "shape")
    ]
