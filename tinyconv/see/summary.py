"""``print(tc.summary(model, (1, 28, 28)))``: what every layer makes, costs, keeps and sees.

Multiply-adds are those of convolutions and matrix products, padding's zeros included: the number
of times that the loops over outputs and taps multiply.  FLOPs are twice that.
"""

from __future__ import annotations

import argparse
import html
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from tinyconv import nn
from tinyconv.autograd import Node, enable_grad, newest_first
from tinyconv.backend import array_module
from tinyconv.see import language
from tinyconv.see.probe import Call, Probe, edge, multiply_adds, probe, tensors, untouched
from tinyconv.see.reach import ReceptiveField
from tinyconv.see.shapes import failure

Shape = tuple[int, ...]
_HEADINGS = (
    "path", "layer", "output", "parameters", "multiply-adds", "saved for backward",
    "receptive field",
)  # fmt: skip
_TEXT_COLUMNS = 3  # these are flush left, numbers are flush right


@dataclass(frozen=True)
class Row:
    """One module that computes something itself, in the order of the first calls.

    output:          shape of its last call's output; None where it failed or gave no tensor
    parameters:      its own, each counted once in the table
    multiply_adds:   over all its calls
    saved:           bytes that its operations keep for the backward pass beyond parameters, each
                     array counted where it is kept first; None where the training run failed
    receptive_field: of the middle output pixel, on the model's input; None without one
    """

    path: str
    layer: str
    output: Shape | None
    parameters: int
    multiply_adds: int
    saved: int | None
    receptive_field: ReceptiveField | None
    calls: int

    @property
    def flops(self) -> int:
        """Floating-point operations: a multiply-add is two."""
        return 2 * self.multiply_adds

    def cells(self) -> list[str]:
        """What the table shows."""
        name = self.layer + (f" x{self.calls}" if self.calls > 1 else "")
        return [
            self.path or "(model)",
            name,
            "?" if self.output is None else str(self.output),
            f"{self.parameters:,}" if self.parameters else "",
            f"{self.multiply_adds:,}" if self.multiply_adds else "",
            "?" if self.saved is None else _bytes(self.saved) if self.saved else "",
            _seen(self.receptive_field),
        ]


@dataclass(frozen=True)
class Summary:
    """What `summary` found; printed, it is a table.

    rows:      one per module that computes something
    trainable: how many of the parameters require grad
    failed:    path of the layer that raised ``error``; the rows go up to it
    """

    rows: tuple[Row, ...]
    input: Shape
    parameters: int
    trainable: int
    training: bool
    failed: str | None = None
    error: Exception | None = None

    @property
    def multiply_adds(self) -> int:
        """Of the whole forward pass."""
        return sum(row.multiply_adds for row in self.rows)

    @property
    def flops(self) -> int:
        """Twice the multiply-adds."""
        return 2 * self.multiply_adds

    @property
    def saved(self) -> int | None:
        """Bytes kept for the backward pass; None where the model failed in its present mode."""
        found = [row.saved for row in self.rows]
        return None if None in found else sum(n for n in found if n is not None)

    def data(self) -> list[dict[str, Any]]:
        """The rows as dictionaries of plain numbers, for JSON or a data frame."""
        return [
            {
                "path": row.path,
                "layer": row.layer,
                "output": None if row.output is None else list(row.output),
                "parameters": row.parameters,
                "multiply_adds": row.multiply_adds,
                "flops": row.flops,
                "saved_bytes": row.saved,
                "receptive_field": None
                if row.receptive_field is None
                else [row.receptive_field.height, row.receptive_field.width],
                "calls": row.calls,
            }
            for row in self.rows
        ]

    def _totals(self) -> list[str]:
        mode = "training" if self.training else "evaluation"
        saved = (
            "unknown, the model fails in this mode" if self.saved is None else _bytes(self.saved)
        )
        frozen = self.parameters - self.trainable
        lines = [
            f"input           {self.input}",
            f"parameters      {self.parameters:,}"
            + (f", {frozen:,} of them frozen" if frozen else ""),
            f"multiply-adds   {self.multiply_adds:,}   (convolutions and matrix products)",
            f"FLOPs           {self.flops:,}   (2 x multiply-adds)",
            f"saved           {saved}   (for backward, in {mode} mode, besides parameters)",
        ]
        if any(row.receptive_field for row in self.rows):
            lines.append("receptive field: of the middle output pixel, if the input had no end")
        if self.error is not None:
            lines = [failure(self.failed, self.error), "up to there:", *lines]
        return lines

    def __str__(self) -> str:
        table = [list(_HEADINGS), *(row.cells() for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [_aligned(cells, widths) for cells in table]
        rule = "-" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:], rule, *self._totals()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = _html_row("th", _HEADINGS)
        body = "".join(_html_row("td", row.cells()) for row in self.rows)
        foot = html.escape("\n".join(self._totals()))
        return f'<table style="border-collapse:collapse">{head}{body}</table><pre>{foot}</pre>'


def summary(model: nn.Module, shape: Any) -> Summary:
    """Path, output shape, parameters, multiply-adds, saved bytes and receptive field by module.

    shape: (N, C, H, W), (C, H, W) for one image, (N, C, L), or a tensor; costs are for all N.
    The model runs twice: in evaluation mode for shapes and multiply-adds, and as it is (training
    or not) for what the backward pass keeps.  It is left as it was.
    """
    seen = probe(model, shape)
    paths = {call.path for call in seen.calls}
    products: Counter[str] = Counter()
    for node in seen.nodes():
        products[_home(node.scope, paths)] += multiply_adds(node)
    saved = _saved(seen, paths)
    rows = tuple(_rows(seen, products, saved))
    parameters = list(model.parameters())
    where = None if seen.failed is None else seen.failed.path or "the model"
    return Summary(
        rows,
        seen.input.shape,
        sum(p.array.size for p in parameters),
        sum(p.array.size for p in parameters if p.requires_grad),
        model.training,
        where,
        seen.error,
    )


def _rows(seen: Probe, products: Counter[str], saved: dict[str, int] | None) -> Iterable[Row]:
    counted: set[int] = set()
    by_path: dict[str, list[Call]] = {}
    for call in seen.calls:
        by_path.setdefault(call.path, []).append(call)
    for path, calls in by_path.items():
        last = calls[-1]
        module = last.module
        kept = 0 if saved is None else saved.get(path, 0)
        is_leaf = next(module.children(), None) is None
        own = [p for p in module.parameters(recurse=False) if id(p) not in counted]
        if not (is_leaf or own or products[path] or kept):
            continue
        counted.update(map(id, own))
        yield Row(
            path,
            module.brief(),
            None if last.output is None else last.output.shape,
            sum(p.array.size for p in own),
            products[path],
            None if saved is None else kept,
            None if last.output is None else seen.receptive_field(last.output),
            len(calls),
        )


def _home(scope: str, paths: set[str]) -> str:
    """The row of a scope: its own, or that of the module around a call that is not registered."""
    while scope and scope not in paths:
        scope = scope.rpartition(".")[0]
    return scope


def _saved(seen: Probe, paths: set[str]) -> dict[str, int] | None:
    """Bytes by path.  Hooks keep batch norm and ReLU from fusing, so this run has none of ours."""
    if seen.error is not None:
        return _kept(seen.nodes(), seen.model, paths)
    try:
        with untouched(seen.model, training=None), enable_grad():
            output = seen.model(seen.input.detach())
            order = newest_first([edge(one) for one in tensors(output)])
            nodes = [one for one in reversed(order) if isinstance(one, Node)]
            return _kept(nodes, seen.model, paths)
    except Exception:  # batch norm cannot train on one value per channel, say
        return None


def _kept(nodes: Sequence[Node], model: nn.Module, paths: set[str]) -> dict[str, int]:
    """Memory that the nodes keep, each piece once; parameters and buffers are there anyway."""
    state = model._named(("_parameters", "_buffers"), "", True, True)
    owned = dict(_bounds(t.array) for _, t in state)
    found: set[tuple[int, int]] = set()
    sizes: Counter[str] = Counter()
    for node in nodes:
        for array in _arrays([node.saved, node.params]):
            bounds = _bounds(array)
            if bounds not in found and owned.get(bounds[0], -1) < bounds[1]:
                found.add(bounds)
                sizes[_home(node.scope, paths)] += bounds[1] - bounds[0]
    return dict(sizes)


def _bounds(array: Any) -> tuple[int, int]:
    """Its first byte in memory, and the first after it."""
    known = byte_bounds if isinstance(array, np.ndarray) else array_module(array).byte_bounds
    low, high = known(array)
    return int(low), int(high)


def _arrays(value: Any) -> Iterable[Any]:
    if hasattr(value, "strides") and not isinstance(value, np.generic):
        yield value
    elif isinstance(value, dict):
        yield from _arrays(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _arrays(item)


# --- words


def _bytes(n: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n} B"


def _seen(field: ReceptiveField | None) -> str:
    if field is None:
        return ""
    if field.everything:
        return "all"
    return str(field.width) if field.signal else f"{field.height}x{field.width}"


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    placed = [
        cell.ljust(width) if i < _TEXT_COLUMNS else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(placed).rstrip()


def _html_row(tag: str, cells: Sequence[str]) -> str:
    sides = ["left" if i < _TEXT_COLUMNS else "right" for i in range(len(cells))]
    return (
        "<tr>"
        + "".join(
            f'<{tag} style="text-align:{side};padding:2px 10px;border-bottom:1px solid #ddd">'
            f"{html.escape(cell)}</{tag}>"
            for cell, side in zip(cells, sides, strict=True)
        )
        + "</tr>"
    )


# --- the command


def add_command(commands: Any) -> None:
    """``tinyconv summary resnet8 1x28x28``, or layers in the place of the model's name."""
    parser = commands.add_parser(
        "summary",
        help="what every layer makes, costs, keeps and sees",
        description="Output shape, parameters, multiply-adds, saved bytes, receptive field.",
        epilog=language.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL",
                        help=f'{", ".join(_MODELS)}, or layers: "conv(8,k3) relu pool(2)"')
    parser.add_argument(
        "shape", nargs="?", metavar="CxHxW",
        help="the input's shape, or NxCxHxW (default: the model's usual one)"
    )
    parser.set_defaults(run=_run)


_MODELS = {
    "resnet8": (nn.resnet.resnet8, "1x28x28"),
    "resnet20": (nn.resnet.resnet20, "1x28x28"),
    "resnet18": (nn.resnet.resnet18, "3x224x224"),
    "resnet34": (nn.resnet.resnet34, "3x224x224"),
    "resnet50": (nn.resnet.resnet50, "3x224x224"),
}


def _run(options: argparse.Namespace) -> int:
    text = options.shape or _MODELS.get(options.model, (None, ""))[1]
    if not text:
        raise ValueError("summary of layers needs the input's shape behind them, such as 1x28x28")
    shape = language.with_batch(language.parse_shape(text))
    if options.model in _MODELS:
        make = _MODELS[options.model][0]
        small = options.model in ("resnet8", "resnet20")
        model: nn.Module = make(in_channels=shape[1]) if small else make()
    else:
        model = language.parse_network(options.model, shape)
    found = summary(model, shape)
    print(found)
    return 0 if found.error is None else 1
