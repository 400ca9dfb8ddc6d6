"""``tinyconv explain``: a layer from options, on whole numbers that are easy to check."""

from __future__ import annotations

import argparse
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tinyconv import nn
from tinyconv.autograd import no_grad
from tinyconv.errors import ShapeError
from tinyconv.see.explain import FILES, Explanation, explain
from tinyconv.see.explain.geometry import Index
from tinyconv.see.explain.steps import PASSES
from tinyconv.tensor import Tensor


def add_command(commands: Any) -> None:
    """``tinyconv explain conv --input 6x6 -k 3 -o conv.html``"""
    parser = commands.add_parser(
        "explain",
        help="a layer step by step: a page, a moving picture, text",
        description="A layer's forward and backward passes step by step, on small numbers.",
    )
    parser.add_argument("layer", choices=_LAYERS, metavar="LAYER", help=", ".join(_LAYERS))
    parser.add_argument(
        "--input",
        type=_shape,
        default=(1, 1, 6, 6),
        metavar="CxHxW",
        help="the input's shape: 6x6, 3x6x6 or NxCxHxW (default: 6x6)",
    )
    for flags, help in (
        (("-k", "--kernel"), "kernel size, 3 or 3x5 (default: 3; pools: 2)"),
        (("-s", "--stride"), "stride (default: 1; pools: the kernel size)"),
        (("-d", "--dilation"), "dilation (default: 1)"),
        (("--output-padding",), "of convT: rows and columns added after (default: 0)"),
        (("--output-size",), "of adaptive pools (default: 3)"),
    ):
        parser.add_argument(*flags, type=_pair, metavar="N", help=help)
    parser.add_argument(
        "-p",
        "--padding",
        type=_padding,
        metavar="N",
        help="padding: 1, 1x2, same or valid (default: 0)",
    )
    parser.add_argument(
        "-g", "--groups", type=int, default=1, metavar="N", help="groups (default: 1)"
    )
    parser.add_argument(
        "--out-channels", type=int, metavar="N", help="default: 1, or as many as there are groups"
    )
    parser.add_argument(
        "--bias",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether the layer has a bias (default: yes)",
    )
    parser.add_argument(
        "--pass",
        dest="show",
        choices=PASSES,
        default="forward",
        help="what is shown first (default: forward); zeros: convT as zeros + conv",
    )
    parser.add_argument(
        "--region",
        type=_region,
        metavar="A:B,...",
        help="only these steps, for the last axes: 0:1,0:8,0:8",
    )
    parser.add_argument(
        "--step",
        type=int,
        metavar="N",
        help="the step, from 0, of .svg and .png (default: the middle one)",
    )
    parser.add_argument(
        "--fps", type=float, default=2.0, metavar="N", help="steps a second of .gif (default: 2)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the numbers (default: 0)"
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="FILE",
        help=f"{', '.join(FILES)}; without it the text is printed",
    )
    parser.add_argument("--open", action="store_true", help="show the file in the browser")
    parser.set_defaults(run=run)  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Explain the layer that the options describe."""
    explanation = from_options(options)
    if options.out is None:
        if options.open:
            raise ValueError("--open shows a file; say which one to write: -o out.html")
        print(explanation.text(), end="")
        return 0
    try:
        path = explanation.save(options.out, step=options.step, fps=options.fps)
    except (IndexError, ModuleNotFoundError) as error:  # one line for the user, no traceback
        raise ValueError(str(error)) from error
    print(f"{path}: {explanation.title}, {len(explanation)} steps")
    if options.open:
        webbrowser.open(path.resolve().as_uri())
    return 0


def from_options(options: argparse.Namespace) -> Explanation:
    """The layer, its input and an output gradient, of small whole numbers."""
    unused = [name for name in _UNUSED[options.layer] if getattr(options, name) is not None]
    if unused:
        flag = unused[0].replace("_", "-")
        raise ValueError(f"explain {options.layer}: it has no --{flag}; leave it out")
    layer = _LAYERS[options.layer](options)
    rng = np.random.default_rng(options.seed)
    x = Tensor(rng.integers(-4, 6, options.input).astype(np.float32))
    with no_grad():
        for parameter in layer.parameters():
            values = rng.choice([-2, -1, 1, 2], parameter.shape).astype(np.float32)
            parameter.copy_(Tensor(values))
        y = layer(x)
    grad = rng.integers(-2, 4, y.shape).astype(np.float32)
    return explain(layer, x, show=options.show, grad=grad, region=options.region)


# --- the layers


def _convolution(options: argparse.Namespace) -> nn.Module:
    return nn.Conv2d(*_channels(options), _or(options.kernel, 3), _or(options.stride, 1),
                     _or(options.padding, 0), _or(options.dilation, 1), options.groups,
                     options.bias)  # fmt: skip


def _transposed(options: argparse.Namespace) -> nn.Module:
    if isinstance(options.padding, str):
        raise ShapeError("explain convT", f"padding {options.padding!r} is for conv; use numbers")
    return nn.ConvTranspose2d(
        *_channels(options), _or(options.kernel, 3), _or(options.stride, 1),
        _or(options.padding, 0), _or(options.output_padding, 0), options.groups, options.bias,
        _or(options.dilation, 1),
    )  # fmt: skip


def _channels(options: argparse.Namespace) -> tuple[int, int]:
    return options.input[1], _or(options.out_channels, options.groups)


def _max_pool(options: argparse.Namespace) -> nn.Module:
    return nn.MaxPool2d(_or(options.kernel, 2), options.stride, _or(options.padding, 0),
                        _or(options.dilation, 1))  # fmt: skip


def _avg_pool(options: argparse.Namespace) -> nn.Module:
    return nn.AvgPool2d(_or(options.kernel, 2), options.stride, _or(options.padding, 0))


def _adaptive_avg(options: argparse.Namespace) -> nn.Module:
    return nn.AdaptiveAvgPool2d(_or(options.output_size, 3))


def _adaptive_max(options: argparse.Namespace) -> nn.Module:
    return nn.AdaptiveMaxPool2d(_or(options.output_size, 3))


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


_LAYERS: dict[str, Callable[[argparse.Namespace], nn.Module]] = {
    "conv": _convolution,
    "convT": _transposed,
    "maxpool": _max_pool,
    "avgpool": _avg_pool,
    "adaptive-avgpool": _adaptive_avg,
    "adaptive-maxpool": _adaptive_max,
}
_ADAPTIVE = ("kernel", "stride", "padding", "dilation", "output_padding", "out_channels")
_UNUSED: dict[str, tuple[str, ...]] = {
    "conv": ("output_padding", "output_size"),
    "convT": ("output_size",),
    "maxpool": ("output_padding", "output_size", "out_channels"),
    "avgpool": ("dilation", "output_padding", "output_size", "out_channels"),
    "adaptive-avgpool": _ADAPTIVE,
    "adaptive-maxpool": _ADAPTIVE,
}


# --- the options' values


def _numbers(text: str, most: int) -> Index:
    parts = text.lower().split("x")
    if not all(part.isdecimal() for part in parts) or len(parts) > most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 3 or 3x5")
    return tuple(map(int, parts))


def _shape(text: str) -> Index:
    sizes = _numbers(text, 4)
    if len(sizes) < 2 or 0 in sizes:
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape such as 6x6 or 3x6x6")
    return (1,) * (4 - len(sizes)) + sizes


def _pair(text: str) -> Index:
    sizes = _numbers(text, 2)
    return sizes * 2 if len(sizes) == 1 else sizes


def _padding(text: str) -> str | Index:
    return text if text in ("same", "valid") else _pair(text)


def _region(text: str) -> tuple[slice, ...]:
    try:
        ends = [[int(end) if end else None for end in part.split(":")] for part in text.split(",")]
        return tuple(slice(*end) if end[1:] else slice(end[0], (end[0] or 0) + 1) for end in ends)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a region such as 0:1,0:8,0:8") from None
