"""Where a tensor came from, read off the graph: what an error says beside the two numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from tinyconv.autograd import Node

Pair = tuple[int, int]


class Unpadded(NamedTuple):
    """A convolution that a ``same`` padding would enlarge."""

    scope: str
    padding: Pair
    growth: Pair  # how many rows and columns more the flattened image would have

    def __str__(self) -> str:
        top, left = self.padding
        value = top if top == left else self.padding
        return f"padding={value} in {self.scope or 'conv2d'}"


def before_flatten(x: Any) -> Any:
    """What a flattened x was reshaped from, a node or leaf with more axes; else None."""
    if x.node is None or x.node.op.name != "reshape":
        return None
    edge = x.node.inputs[0]
    return None if edge is None or edge.ndim <= x.ndim else edge


def padding_fix(image: Any, features: int) -> str:
    """``padding=1 in conv1`` where that gives (N, C, H, W) the number of features, else ''."""
    if image.ndim != 4:
        return ""
    found = list(_unpadded(image))
    for choice in [*([conv] for conv in found), found]:
        height, width = (
            image.shape[2 + axis] + sum(conv.growth[axis] for conv in choice) for axis in (0, 1)
        )
        if choice and image.shape[1] * height * width == features:
            return ", ".join(map(str, choice))
    return ""


def _unpadded(edge: Any) -> Iterator[Unpadded]:
    """The convolutions above, nearest first, through pooling and what keeps the shape."""
    strides: list[Pair] = []  # of the layers between that convolution and the image
    while isinstance(edge, Node) and edge.values is not None:
        name = edge.op.name
        if name == "conv2d":
            padding, growth = _same(edge)
            for stride in reversed(strides):
                whole = growth[0] % stride[0] == 0 and growth[1] % stride[1] == 0
                growth = (growth[0] // stride[0], growth[1] // stride[1]) if whole else (0, 0)
            if max(growth) > 0:
                yield Unpadded(edge.scope, padding, growth)
            strides.append(edge.params["stride"])
        elif name in ("pool_gather", "window_sum"):  # adaptive pools have no stride: take the ratio
            down, right = (_shape_of(edge, 0)[axis] // edge.shape[axis] or 1 for axis in (2, 3))
            window = edge.params.get("window") or edge.params
            strides.append(window.get("stride", (down, right)))
        else:
            shape = edge.shape
            edge = next((e for e in edge.inputs if e is not None and e.shape == shape), None)
            continue
        edge = edge.inputs[0]


def _same(conv: Node) -> tuple[Pair, Pair]:
    """The padding that keeps the size at stride 1, and how much larger the output would be."""
    shape = _shape_of(conv, 0)
    paddings, growths = [], []
    for axis, kernel in enumerate(_shape_of(conv, 1)[2:]):
        reach = conv.params["dilation"][axis] * (kernel - 1)
        size = (shape[2 + axis] + reach // 2 * 2 - reach - 1) // conv.params["stride"][axis] + 1
        paddings.append(reach // 2)
        growths.append(size - conv.shape[2 + axis])
    return (paddings[0], paddings[1]), (growths[0], growths[1])


def _shape_of(node: Node, i: int) -> tuple[int, ...]:
    """The shape of input i: that of its node, or of the array kept of a constant."""
    edge = node.inputs[i]
    if edge is not None:
        return edge.shape
    assert node.values is not None
    return tuple(getattr(node.values[i], "shape", ()))
