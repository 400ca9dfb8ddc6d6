"""``tinyconv curves``: what each argument of Conv2d does to parameters, multiply-adds and time.

How the time is measured: every setting is run once to warm up; then all settings are run in turn,
round after round, so that a busy moment of the machine hits all alike; medians of the rounds are
drawn, with the middle half of them as a band.  The time is the whole call's: forward with the
graph recorded, then backward to input, weight and bias.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyconv import nn
from tinyconv.backend import backend_of
from tinyconv.backend.threads import get_num_threads
from tinyconv.creation import ones, randn
from tinyconv.errors import TinyconvError
from tinyconv.see.language import parse_shape
from tinyconv.see.probe import multiply_adds, probe
from tinyconv.tensor import Tensor

Shape = tuple[int, ...]
INPUT = (4, 32, 56, 56)
ROUNDS = 15


@dataclass(frozen=True)
class Argument:
    """One argument: its values, the convolution it makes of C channels, what it should cost."""

    values: tuple[int, ...]
    layer: Callable[[int, int], tuple[int, nn.Module]]  # (channels, value) -> input channels, layer
    law: str  # of multiply-adds
    axis: str
    doubles: bool = False  # drawn with equal steps for equal factors


def _conv(channels: int, **given: Any) -> tuple[int, nn.Module]:
    return channels, nn.Conv2d(channels, channels, **{"kernel_size": 3, "padding": 1, **given})


ARGUMENTS: dict[str, Argument] = {
    "stride": Argument(
        (1, 2, 3, 4, 5), lambda c, v: _conv(c, stride=v), "fall with stride²", "stride"
    ),
    "kernel": Argument(
        (1, 3, 5, 7, 9),
        lambda c, v: _conv(c, kernel_size=v, padding=v // 2),
        "grow with kernel²",
        "kernel size (padding = k // 2)",
    ),
    "channels": Argument(
        (8, 16, 32, 48, 64), lambda c, v: _conv(v), "grow with in · out", "channels, in and out"
    ),
    "groups": Argument(
        (1, 2, 4, 8, 16, 32), lambda c, v: _conv(c, groups=v), "fall with groups", "groups", True
    ),
    "dilation": Argument(
        (1, 2, 3, 4, 5),
        lambda c, v: _conv(c, dilation=v, padding=v),
        "stay the same",
        "dilation (padding = dilation)",
    ),
    "padding": Argument(
        (0, 1, 2, 4, 6, 8),
        lambda c, v: _conv(c, padding=v),
        "grow with the output",
        "padding, each side",
    ),
}


@dataclass(frozen=True)
class Point:
    """One setting.  Times in seconds: medians over the rounds, and their quartiles."""

    argument: str
    value: int
    layer: str
    input: Shape
    output: Shape
    parameters: int
    multiply_adds: int
    forward: float
    forward_quartiles: tuple[float, float]
    backward: float
    backward_quartiles: tuple[float, float]


@dataclass(frozen=True)
class Curves:
    """What `curves` measured."""

    points: tuple[Point, ...]
    rounds: int
    threads: int
    kernels: str

    def of(self, argument: str) -> list[Point]:
        """The points of one argument, by its value."""
        return [point for point in self.points if point.argument == argument]

    @property
    def arguments(self) -> list[str]:
        """Which arguments were varied."""
        return list(dict.fromkeys(point.argument for point in self.points))

    def data(self) -> dict[str, Any]:
        """Everything as plain numbers; times in seconds."""
        return asdict(self)

    def _repr_png_(self) -> bytes | None:
        """The figure in a notebook, where matplotlib is installed."""
        try:
            figure = draw(self)
        except TinyconvError:
            return None
        file = io.BytesIO()
        figure.savefig(file, dpi=80)
        return file.getvalue()

    def save(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write a figure (.png, .svg, .pdf) with .json and .csv beside it, or one of these alone.

        TinyconvError for a figure where matplotlib is not installed, ValueError for another suffix.
        """
        target = Path(path)
        kind = target.suffix.lower()
        check_suffix(target)
        written = []
        if kind in _FIGURES:
            figure = draw(self)
            figure.savefig(target, dpi=130)
            written.append(target)
        if kind != ".csv":
            beside = target.with_suffix(".json")
            beside.write_text(json.dumps(self.data(), indent=1) + "\n")
            written.append(beside)
        if kind != ".json":
            beside = target.with_suffix(".csv")
            with beside.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(_flat(self.points[0])))
                writer.writeheader()
                writer.writerows(map(_flat, self.points))
            written.append(beside)
        return written


_FIGURES = (".png", ".svg", ".pdf")


def check_suffix(target: Path) -> None:
    """Complain about a file that cannot be written before anything is measured."""
    if target.suffix.lower() not in (*_FIGURES, ".json", ".csv"):
        raise ValueError(f"{target.name!r}: the suffix must be .png, .svg, .pdf, .json or .csv")
    if not target.absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {target.parent}; make it first")
    if target.suffix.lower() in _FIGURES:
        _figure_class()


def _flat(point: Point) -> dict[str, Any]:
    """One line of the CSV: shapes as 1x8x28x28, quartiles in columns of their own."""
    row = asdict(point)
    for name in ("input", "output"):
        row[name] = "x".join(map(str, row[name]))
    for name in ("forward", "backward"):
        row[f"{name}_q1"], row[f"{name}_q3"] = row.pop(f"{name}_quartiles")
    return row


def curves(
    vary: Sequence[str] = tuple(ARGUMENTS), input: Shape = INPUT, rounds: int = ROUNDS
) -> Curves:
    """Parameters, multiply-adds and time of a Conv2d as each argument of ``vary`` changes.

    vary: names out of stride, kernel, channels, groups, dilation, padding.
    input: (N, C, H, W); the layer is Conv2d(C, C, 3, padding=1) but for the argument in question.
    Settings that do not fit the input (groups that do not divide C) are left out.
    """
    unknown = [name for name in vary if name not in ARGUMENTS]
    if unknown or not vary:
        raise ValueError(
            f"vary: {', '.join(unknown) or 'nothing'}; there is {', '.join(ARGUMENTS)}"
        )
    if len(input) != 4 or rounds < 1:
        raise ValueError(f"input {input} must be (N, C, H, W) and rounds {rounds} at least 1")
    settings = [made for name in dict.fromkeys(vary) for made in _settings(name, input)]
    if not settings:
        raise ValueError(f"no value of {', '.join(vary)} fits the input {input}")
    times = _measure([(layer, x) for _, _, layer, x in settings], rounds)
    points = tuple(
        _point(name, value, layer, x, seconds)
        for (name, value, layer, x), seconds in zip(settings, times, strict=True)
    )
    return Curves(points, rounds, get_num_threads(), backend_of(settings[0][3].array).choice)


def _settings(name: str, input: Shape) -> list[tuple[str, int, nn.Module, Tensor]]:
    found = []
    for value in ARGUMENTS[name].values:
        try:
            channels, layer = ARGUMENTS[name].layer(input[1], value)
        except TinyconvError:
            continue
        x_channels = value if name == "channels" else channels
        shape = (input[0], x_channels, *input[2:])
        if probe(layer, shape).error is None:
            found.append((name, value, layer, randn(*shape)))
    return found


def _measure(settings: Sequence[tuple[nn.Module, Tensor]], rounds: int) -> Any:
    """(settings, rounds, 2): seconds forward and backward."""
    for layer, x in settings:
        _run_once(layer, x)  # compiles, fills caches, wakes threads
    seconds = np.zeros((len(settings), rounds, 2))
    for i in range(rounds):
        for j, (layer, x) in enumerate(settings):
            seconds[j, i] = _run_once(layer, x)
    return seconds


def _run_once(layer: nn.Module, x: Tensor) -> tuple[float, float]:
    x = x.detach().requires_grad_()
    layer.zero_grad()
    start = time.perf_counter()
    y = layer(x)
    _wait_for(y.array)
    middle = time.perf_counter()
    gradient = ones(*y.shape)
    begin = time.perf_counter()
    y.backward(gradient)
    assert x.grad is not None
    _wait_for(x.grad.array)
    return middle - start, time.perf_counter() - begin


def _wait_for(array: Any) -> None:
    """A device works on after the call returned; fetching one number waits for it."""
    backend_of(array).to_numpy(array.reshape(-1)[:1])


def _point(name: str, value: int, layer: nn.Module, x: Tensor, seconds: Any) -> Point:
    seen = probe(layer, x.shape)
    output = seen.calls[0].output
    assert output is not None
    low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75), axis=0).tolist()
    return Point(
        name,
        value,
        layer.brief(),
        x.shape,
        output.shape,
        sum(p.array.size for p in layer.parameters()),
        sum(map(multiply_adds, seen.nodes())),
        median[0],
        (low[0], high[0]),
        median[1],
        (low[1], high[1]),
    )


# --- the figure

_INK, _QUIET = "#1a1a1a", "#5f5f5f"
_COUNT, _FORWARD, _BACKWARD = "#1a1a1a", "#0072b2", "#d55e00"  # Okabe and Ito's


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise TinyconvError(
            "curves",
            "the figure needs matplotlib: pip install matplotlib; "
            "the numbers alone do not: -o curves.csv or -o curves.json",
        ) from None
    return Figure


def draw(found: Curves) -> Any:
    """A matplotlib Figure: a column for each argument; parameters, multiply-adds, time below."""
    names = found.arguments
    wide = max(len(names), 2)
    figure = _figure_class()(figsize=(2.55 * wide + 0.7, 7.4), layout="constrained")
    axes = figure.subplots(3, len(names), squeeze=False)
    for column, name in enumerate(names):
        _draw_column(axes[:, column], name, found.of(name), first=column == 0)
    figure.align_ylabels(axes[:, 0])
    n, c, h, w = found.points[0].input
    figure.suptitle(
        "What each argument of Conv2d costs", fontsize=14, color=_INK, x=0.01, ha="left"
    )
    caption = (
        f"Conv2d(C, C, 3, padding=1) with C = {'C' if names == ['channels'] else c} channels on "
        f"{n} images of {h} x {w}, but for the argument on the x-axis.  Time: medians of "
        f"{found.rounds} rounds after a warm-up, band: the middle half of them; "
        f"{found.threads} thread{'' if found.threads == 1 else 's'}."
    )
    figure.supxlabel(
        textwrap.fill(caption, int(14 * figure.get_figwidth())),  # 14 letters of 9 points an inch
        fontsize=9,
        color=_QUIET,
        x=0.01,
        ha="left",
    )
    return figure


def _draw_column(axes: Any, name: str, points: Sequence[Point], first: bool) -> None:
    from matplotlib.ticker import EngFormatter

    argument = ARGUMENTS[name]
    x = [point.value for point in points]
    top, middle, bottom = axes
    top.set_title(name, fontsize=12, fontweight="bold", color=_INK)
    top.plot(x, [p.parameters for p in points], "o-", color=_COUNT)
    middle.plot(x, [p.multiply_adds for p in points], "o-", color=_COUNT)
    middle.set_title(f"multiply-adds {argument.law}", fontsize=9, color=_QUIET, pad=4)
    for label, color, marker in (("forward", _FORWARD, "o"), ("backward", _BACKWARD, "s")):
        band = [getattr(p, f"{label}_quartiles") for p in points]
        bottom.fill_between(x, *zip(*band, strict=True), color=color, alpha=0.2, linewidth=0)
        bottom.plot(x, [getattr(p, label) for p in points], marker + "-", color=color, label=label)
    bottom.set_xlabel(argument.axis, fontsize=9.5)
    for one, unit, formatted in (
        (top, "parameters", EngFormatter(sep="")),
        (middle, "multiply-adds, forward", EngFormatter(sep="")),
        (bottom, "time per call", EngFormatter(sep=" ", unit="s")),
    ):
        if argument.doubles:
            one.set_xscale("log", base=2)
            one.xaxis.set_major_formatter("{x:.0f}")
            one.minorticks_off()
        one.set_ylim(0, one.get_ylim()[1] * 1.08)
        one.set_xticks(x)
        one.yaxis.set_major_formatter(formatted)
        one.tick_params(labelsize=8.5, colors=_QUIET)
        one.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
        if first:
            one.set_ylabel(unit, fontsize=10.5, color=_INK)
    if first:
        bottom.legend(fontsize=9, frameon=False)


# --- the command


def add_command(commands: Any) -> None:
    """``tinyconv curves --vary stride,kernel -o curves.png``"""
    parser = commands.add_parser(
        "curves",
        help="what each argument of Conv2d costs",
        description="Parameters, multiply-adds and measured time against each argument of Conv2d, "
        "as one figure, with the numbers beside it as JSON and CSV.",
    )
    known = ",".join(ARGUMENTS)
    parser.add_argument("--vary", default=known, metavar="NAMES", help=f"default: {known}")
    parser.add_argument(
        "--input",
        default="x".join(map(str, INPUT)),
        metavar="NxCxHxW",
        help="what is convolved (default: %(default)s)",
    )
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "-o",
        "--out",
        dest="output",
        type=Path,
        default=Path("curves.png"),
        metavar="FILE",
        help=".png, .svg, .pdf; .json or .csv for the numbers alone (default: %(default)s)",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    check_suffix(options.output)
    names = [name.strip() for name in options.vary.split(",") if name.strip()]
    found = curves(names, parse_shape(options.input), options.rounds)
    print(f"{'argument':9} {'value':>5} {'parameters':>11} {'multiply-adds':>14} "
          f"{'forward':>9} {'backward':>9}")  # fmt: skip
    for p in found.points:
        print(f"{p.argument:9} {p.value:5} {p.parameters:11,} {p.multiply_adds:14,} "
              f"{1e3 * p.forward:6.2f} ms {1e3 * p.backward:6.2f} ms")  # fmt: skip
    print("written: " + ", ".join(map(str, found.save(options.output))))
    return 0
