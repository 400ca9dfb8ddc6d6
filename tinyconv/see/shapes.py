"""``print(tc.shapes(model, (1, 28, 28)))``: the arithmetic of shapes with the user's own numbers.

For every layer the formula, what the floor leaves over, which input pixels are never read, which
other sizes give the same output; for the whole model the receptive field, hull and holes apart.
"""

from __future__ import annotations

import argparse
import html
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyconv import nn
from tinyconv.see import language
from tinyconv.see.axes import Axis, Stamp, Window, positions
from tinyconv.see.probe import Call, Probe, edge, multiply_adds, probe
from tinyconv.see.reach import ReceptiveField, read_mask

_WORDS = {
    1: [("L", "position", "positions")],
    2: [("H", "row", "rows"), ("W", "column", "columns")],
}
Shape = tuple[int, ...]
WIDTH = 100
PICTURE = 25  # rows and columns of the largest receptive field that is drawn as text


@dataclass(frozen=True)
class LayerShape:
    """One layer of the model, in the order of the calls.

    axes:           H and W, or L: formula, remainder, unread positions; () for other layers
    output:         None where the layer failed
    multiply_adds:  of convolutions and matrix products, padding's zeros included
    on_padding:     how many of them meet padding, or stamp into what is cropped
    """

    path: str
    brief: str
    input: Shape | None
    output: Shape | None
    axes: tuple[Axis, ...]
    parameters: int
    multiply_adds: int
    on_padding: int
    sums: tuple[str, ...]  # how the last numbers come about

    @property
    def unread(self) -> tuple[list[int], ...]:
        """For each axis the input positions that no output reads."""
        return tuple(axis.unread for axis in self.axes)

    def lines(self) -> list[str]:
        """What is printed of it, heading first."""
        shown = [_plain(shape) if shape else "?" for shape in (self.input, self.output)]
        change = f"keeps {shown[0]}" if shown[0] == shown[1] else " -> ".join(shown)
        lines = [f"{self.path}  {self.brief}  {change}".strip()]
        words = _WORDS.get(len(self.axes), [])
        for axis, (letter, one, many) in zip(self.axes, words, strict=True):
            lines += _beside(f"    {letter}: {axis.formula()}", axis.notes(one, many))
        inverse = {w[0]: self._inverse(axis) for axis, w in zip(self.axes, words, strict=True)}
        if len(set(inverse.values())) == 1:
            inverse = {"": next(iter(inverse.values()))}
        lines += [
            f"    inverse{f' {k}' if k else ''}: {said}" for k, said in inverse.items() if said
        ]
        return lines + [f"    {text}" for text in self.sums]

    def _inverse(self, axis: Axis) -> str:
        said = axis.inverse()
        if said and "Conv" in self.brief and isinstance(axis, Window):
            first, *others = axis.sizes()
            back = ", ".join(f"with output_padding={m - first} to {m}" for m in others)
            said += f"; transposed, it goes back to {first}, {back}"
        return said


@dataclass(frozen=True)
class Shapes:
    """What `shapes` found; printed, it is the arithmetic as text.

    field:   what the middle output pixel reads; None if nothing, or without a spatial input
    unread:  (H, W) of bool: input pixels that no output of the whole model reads; or None
    failed:  path of the layer that raised ``error``; the layers up to it are there
    """

    input: Shape
    layers: tuple[LayerShape, ...]
    output: Shape | None
    field: ReceptiveField | None
    unread: np.ndarray[Any, np.dtype[np.bool_]] | None
    failed: str | None = None
    error: Exception | None = None

    def __str__(self) -> str:
        blocks = [[f"input {_plain(self.input)}"], *(layer.lines() for layer in self.layers)]
        if self.error is not None:
            blocks.append([failure(self.failed, self.error)])
        elif self.unread is not None:
            field = self.field or "the middle output pixel reads no input pixel"
            unread = _unread(self.unread, len(self.input) == 3)
            blocks.append([f"receptive field: {field}", *self._holes(), unread])
        return "\n".join("\n".join(block) for block in blocks)

    def _holes(self) -> list[str]:
        """A picture of the receptive field where it has holes and is not too large."""
        field = self.field
        if field is None or not field.holes or max(field.mask[field.box].shape) > PICTURE:
            return []
        return [f"    {line}" for line in field.picture().splitlines()]

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f'<pre style="line-height:1.35">{html.escape(str(self))}</pre>'


def shapes(layer_or_model: nn.Module, shape: Any) -> Shapes:
    """The shape arithmetic of a layer or a model, with the numbers of an input of ``shape``.

    shape: (N, C, H, W), (C, H, W) for one image, (N, C, L), or a tensor.
    The model runs once, in evaluation mode, and is left as it was.  Where a layer fails, the
    layers up to it are there and ``failed`` and ``error`` say what happened.
    """
    seen = probe(layer_or_model, shape)
    counts: Counter[str] = Counter()
    for node in seen.nodes():
        counts[node.scope] += multiply_adds(node)
    own = [call for call in seen.calls if not any(True for _ in call.module.children())
           or call is seen.failed]  # fmt: skip
    layers = tuple(_layer(call, counts) for call in own)
    output = seen.calls[0].output if seen.error is None else None
    field = unread = None
    if output is not None:
        field = seen.receptive_field(output)
        spatial = seen.input.ndim in (3, 4) and seen.input.requires_grad
        unread = ~read_mask(edge(output), seen.input, seen.jumps()) if spatial else None
    return Shapes(
        seen.input.shape, layers, None if output is None else output.shape, field, unread,
        _where(seen), seen.error,
    )  # fmt: skip


def _where(seen: Probe) -> str | None:
    return (
        None if seen.failed is None else f"{seen.failed.path} {seen.failed.module.brief()}".strip()
    )


def _layer(call: Call, counts: Counter[str]) -> LayerShape:
    given = None if call.input is None else call.input.shape
    made = None if call.output is None else call.output.shape
    axes = call.layout or ()
    parameters = sum(p.array.size for p in call.module.parameters())
    count = counts[call.path]
    idle = _on_padding(call, count)
    return LayerShape(
        call.path, call.module.brief(), given, made, axes, parameters, count, idle,
        tuple(_sums(call, parameters, count, idle)),
    )  # fmt: skip


def _on_padding(call: Call, count: int) -> int:
    """Of a convolution's multiply-adds those that meet nothing."""
    axes = call.layout if count else None
    if axes is None or not isinstance(axes[0], (Window, Stamp)):
        return 0
    if isinstance(axes[0], Window) and axes[0].mode != "zeros":
        return 0  # there the padding holds copies of real pixels
    real, every = 1, 1
    for axis in axes:
        assert isinstance(axis, (Window, Stamp))
        real *= int(axis.matrix.sum())
        every *= (axis.out if isinstance(axis, Window) else axis.n) * axis.k
    return count - count // every * real


def _sums(call: Call, parameters: int, count: int, idle: int) -> list[str]:
    """How parameters and multiply-adds come about, for convolutions and linear layers."""
    layer: Any = call.module
    if not count or call.output is None or call.input is None:
        return []
    lost = ""
    if isinstance(layer, nn.Linear):
        own, each = f"{layer.out_features}*({layer.in_features}", [layer.in_features]
        rows, bias = call.output.shape, " + 1)"
    elif isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        each = [layer.in_channels // layer.groups, *layer.kernel_size]
        own, rows, bias = f"{layer.out_channels}*({_times(each)}", call.output.shape, " + 1)"
        lost = f", {idle:,} of them with padding's zeros" if idle else ""
    elif isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d)):
        each = [layer.out_channels // layer.groups, *layer.kernel_size]
        own, rows = f"{layer.in_channels}*{_times(each)}", call.input.shape
        bias = f" + {layer.out_channels}"
        lost = f", {idle:,} of them into what the padding crops" if idle else ""
    else:
        return []
    if layer.bias is None:
        bias = ")" if "(" in own else ""
    return [
        f"parameters {own}{bias} = {parameters:,}",
        f"multiply-adds {_times(rows)} * {_times(each)} = {count:,}{lost}",
    ]


def _beside(line: str, notes: list[str]) -> list[str]:
    """The notes behind a line as far as they fit, the others below."""
    lines = [line]
    for note in notes:
        if len(lines[-1]) + 3 + len(note) <= WIDTH:
            lines[-1] += f"   {note}"
        else:
            lines.append(f"       {note}")
    return lines


def _times(factors: Sequence[int]) -> str:
    return "*".join(map(str, factors))


def failure(path: str | None, error: Exception) -> str:
    """One line that names the layer once."""
    said = str(error) or type(error).__name__
    return f"FAILED: {said}" if path and said.startswith(path) else f"FAILED at {path}: {said}"


def _plain(shape: Shape) -> str:
    return f"({', '.join(map(str, shape))})"


def _unread(mask: np.ndarray[Any, np.dtype[np.bool_]], signal: bool) -> str:
    """``unread: ...``, by rows and columns where whole ones are meant."""
    count = int(mask.sum())
    if count and signal:
        which = [int(i) for i in np.flatnonzero(mask[0])]
        return f"unread: {positions(which, 'position', 'positions')} of {mask.size}"
    if not count:
        return "unread: none, every input pixel reaches the output"
    rows, columns = np.flatnonzero(mask.all(1)), np.flatnonzero(mask.all(0))
    lines = mask.copy()
    lines[rows] = lines[:, columns] = False
    named = [
        positions([int(i) for i in which], *words)
        for which, words in ((rows, ("row", "rows")), (columns, ("column", "columns")))
        if len(which)
    ]
    where = " and ".join(named)
    if lines.any():
        others = f"{int(lines.sum())} scattered pixels"
        where = f"{where}, and {others}" if named else others
    return f"unread: {count} of {mask.size} input pixels reach no output: {where}"


# --- the command


def add_command(commands: Any) -> None:
    """``tinyconv shapes 1x28x28 "conv(8,k3,s2,p1) pool(2)"``"""
    parser = commands.add_parser(
        "shapes",
        help="the arithmetic of shapes, layer by layer",
        description="The formulas with the numbers, unread pixels, inverse sizes, receptive field.",
        epilog=language.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shape", metavar="CxHxW",
                        help="the input's shape: 1x28x28, NxCxHxW, or CxL for a signal")
    parser.add_argument("layers", metavar="LAYERS", help='in quotes: "conv(8,k3,s2,p1) pool(2)"')
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    shape = language.with_batch(language.parse_shape(options.shape))
    found = shapes(language.parse_network(options.layers, shape), shape)
    print(found)
    return 0 if found.error is None else 1
