"""The words: titles, the output size, and each step as lines for a terminal or a screen reader."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyconv.nn.conv import sizes
from tinyconv.see.explain.geometry import Index
from tinyconv.see.explain.steps import Array, Pass, Step
from tinyconv.see.reach import layer_axes

NAMES = {"forward": "forward", "zeros": "as zeros + conv", "dx": "dX", "dw": "dW", "db": "db"}

CROPPED = "Cropped: only the steps of the region are added up."

# What one step does, by the role that is written and the pass.
_WHAT = {
    ("forward", "drive"): "Each output is the sum of its window of the input times the kernel{b}.",
    ("forward", "window"): "Each input stamps the kernel, times its value, onto the output{b}.",
    ("zeros", "drive"): "The same output as a plain convolution: zeros between the rows and "
    "columns of the input, and the kernel flipped{b}.",
    ("dx", "window"): "Each output gradient stamps the kernel, times its value, onto the input "
    "gradient.",
    ("dx", "drive"): "Each input gradient is the sum of its window of the output gradient times "
    "the kernel: a plain convolution.",
    ("dw", "dy"): "Each output gradient weighs its window of the input; the kernel gradient adds "
    "them up.",
    ("dw", "x"): "Each input weighs its window of the output gradient; the kernel gradient adds "
    "them up.",
    ("db", "kernel"): "Each output gradient counts once for the bias of its channel.",
}
_POOLED = {
    ("forward", "max"): "Each output is the greatest number of its window.",
    ("forward", "mean"): "Each output is the mean of its window.",
    ("dx", "max"): "Each output gradient goes to the cell that was greatest; the others get none.",
    ("dx", "mean"): "Each output gradient is shared out evenly over its window.",
}


def what(walk: Pass) -> str:
    """What every step of the pass does, in one sentence."""
    if walk.how != "product":
        return _POOLED[walk.name, walk.how]
    key = walk.drive.name if walk.name == "dw" else walk.target
    start = "; it starts at the bias" if walk.target == "window" else ", plus the bias"
    return _WHAT[walk.name, key].format(b=start if walk.bias is not None else "")


def formula(walk: Pass) -> str:
    """The pass as one line of index arithmetic."""
    if walk.name == "db":
        return "db[o] = sum over n, oh, ow of dy[n,o,oh,ow]"
    names = {role: grid.name for role in ("drive", "window", "kernel")
             if (grid := getattr(walk, role)) is not None}  # fmt: skip
    indices = {"drive": "n,o,i,j", "window": "n,c,h,w", "kernel": "o,c,kh,kw"}
    if walk.how == "product" and walk.drive.name in ("x", "dx"):  # transposed: c steps, o is met
        indices = {"drive": "n,c,i,j", "window": "n,o,h,w", "kernel": "c,o,kh,kw"}
    if walk.how != "product":
        indices["drive"] = "n,c,i,j"
    left, right = (
        f"{names[r]}[{indices[r]}]" if r in names else {"max": "1 or 0", "mean": "1/size"}[walk.how]
        for r in indices if r != walk.target
    )  # fmt: skip
    if walk.how != "product" and walk.target == "drive":
        return f"y[n,c,i,j] = {walk.how} over the window of x[n,c,h,w]"
    return f"{names[walk.target]}[{indices[walk.target]}] += {left} * {right}"


def sizes_as_title(layer: Any, x_shape: Index, y_shape: Index) -> str:
    """Input Shape, Output Shape, K, P, S, D, G."""
    parts = [f"Input Shape : {_tuple(x_shape)}", f"Output Shape : {_tuple(y_shape)}"]
    if hasattr(layer, "kernel_size"):
        pairs = [("K", layer.kernel_size), ("P", layer.padding), ("S", layer.stride),
                 ("D", getattr(layer, "dilation", 1))]  # fmt: skip
        parts += [f"{letter} : {_pair(value)}" for letter, value in pairs]
        parts += [f"G : {layer.groups}"] if hasattr(layer, "groups") else []
        extra = getattr(layer, "output_padding", 0)
        parts += [f"OP : {_pair(extra)}"] if np.any(extra) else []
    return " - ".join(parts)


def _tuple(shape: Index) -> str:
    return str(tuple(shape[1:] if shape[0] == 1 else shape))


def _pair(value: Any) -> str:
    return value if isinstance(value, str) else str(sizes(value, 2, "explain", "size"))


# --- the output size


def size_lines(layer: Any, x_shape: Index) -> list[str]:
    """For height and width: the formula of the output size with its numbers, and what is unread."""
    words = (("H", "row", "rows"), ("W", "column", "columns"))
    axes = layer_axes(layer, x_shape) or ()  # none of a layer with a forward of the user's own
    return [
        "   ".join([f"{letter}: {axis.formula()}", *axis.notes(one, many)])
        for (letter, one, many), axis in zip(words, axes, strict=False)
    ]


# --- numbers


def number(value: float) -> str:
    """Four significant digits, and no digits that say nothing: 0.25, -3, 1.235e-06."""
    text = f"{value:.4g}"
    return "0" if text == "-0" else text


# --- one step


def step_text(walk: Pass, number: int, step: Step, result: Array) -> str:
    """The step as lines: the cell, its rows and columns, every product, the sum.

    result: the array that is written, as it stands after the step.
    """
    count = f"step {number + 1} of {len(walk.steps)}"
    lines = [f"{NAMES[walk.name]}, {count}: {walk.drive.label(step.driver)}"]
    if walk.window is not None:
        rows, columns = walk.geometry.rows, walk.geometry.columns
        lines += [f"  rows     {rows.rules[step.driver[2]]}",
                  f"  columns  {columns.rules[step.driver[3]]}"]  # fmt: skip
    lines += _gathered(walk, step, result) if walk.target == "drive" else _added(walk, step, result)
    return "\n".join(lines) + "\n"


def _gathered(walk: Pass, step: Step, result: Array) -> list[str]:
    """One sum: the terms below each other, then the bias and the total."""
    sign = {"product": "+", "max": " ", "mean": "+"}[walk.how]
    rows = [_term(walk, step, m) for m in range(len(step.terms))]
    if walk.bias is not None:
        channel = step.driver[1]
        rows.append((f"b[{channel}]", number(float(walk.bias[channel]))))
    wide = max(len(names) for names, _ in rows)
    total = number(float(result[walk.drive.at(step.driver)]))
    return [
        *(f"  {sign} {names:<{wide}}   {values}" for names, values in rows),
        f"  {walk.drive.label(step.driver)} = {total}",
    ]


def _added(walk: Pass, step: Step, result: Array) -> list[str]:
    """A sum for each cell: what is added, and what the cell holds now."""
    rows = []
    for m, target in enumerate(step.targets):
        names, values = _term(walk, step, m)
        if target is None:
            assert walk.window is not None
            label, end = walk.window.label(step.places[m]), f"   falls off: {walk.window.padded}"
        else:
            label = walk.result.label(target)
            if walk.target == "window" and target != step.places[m]:  # padding that repeats it
                label = f"{walk.result.label(step.places[m])} -> {label}"
            end = f"   now {number(float(result[walk.result.at(target)]))}"
        rows.append((f"{label} += {names}", values, end))
    wide, wider = (max(len(row[i]) for row in rows) for i in (0, 1))
    return [f"  {names:<{wide}}   {values:<{wider}}{end}" for names, values, end in rows]


def _term(walk: Pass, step: Step, m: int) -> tuple[str, str]:
    """The factors' names and their numbers: dy[0,0,1,1] * w[0,0,0,2], 2 * -0.5 = -1."""
    factors = []
    if walk.target != "drive":
        factors.append((walk.drive.label(step.driver), walk.drive.value(step.driver)))
    if walk.window is not None and walk.target != "window":
        place = step.places[m]
        outside = f" ({walk.window.padded})" if walk.window.outside(place) else ""
        factors.append((walk.window.label(place) + outside, walk.window.value(place)))
    if walk.kernel is not None and walk.target != "kernel":
        factors.append((walk.kernel.label(step.taps[m]), walk.kernel.value(step.taps[m])))
    if walk.how == "max" and walk.target == "drive":
        ((name, value),) = factors
        winner = "  <- the greatest" if step.shares[m] else ""
        return name, f"{number(value)}{winner}"
    if step.shares:
        factors.append(("share", step.shares[m]))
    names, values = " * ".join(n for n, _ in factors), " * ".join(number(v) for _, v in factors)
    return names, f"{values} = {number(step.terms[m])}" if factors[1:] else values
