"""The page: page.html with its style, its script and the numbers written into it.

The numbers are JSON in the element ``<script id="numbers">``: the arrays, and for each pass and
step the cells that meet (flat positions in the arrays) and their products.
"""

from __future__ import annotations

import html
import json
import math
import re
from importlib import resources
from typing import TYPE_CHECKING, Any

from tinyconv.errors import ShapeError
from tinyconv.see.explain import text
from tinyconv.see.explain.geometry import Index
from tinyconv.see.explain.steps import Grid, Pass

if TYPE_CHECKING:
    from tinyconv.see.explain import Explanation

Json = dict[str, Any]


def render(explanation: Explanation) -> str:
    """The whole page as a string."""
    folder = resources.files(__package__)
    template, style, script = (
        (folder / f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")
    )
    parts = {
        "title": html.escape(f"{explanation.layer.brief()}, step by step"),
        "style": style,
        "script": script,
        "numbers": as_json(numbers(explanation)),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def as_json(data: Json) -> str:
    """JSON that may stand in a script element."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def numbers(explanation: Explanation) -> Json:
    """Everything that the page shows."""
    book = _Book()
    passes, left_out = [], {}
    for name in explanation.passes:
        try:
            passes.append(book.add(explanation.of(name)))
        except ShapeError as error:  # more steps than the pass that was asked for
            left_out[text.NAMES[name]] = str(error)
    return {
        "layer": explanation.layer.brief(),
        "facts": explanation.title.split(" - "),
        "sizes": explanation.sizes,
        "show": explanation.show,
        "cropped": "" if explanation.region is None else text.CROPPED,
        "arrays": book.arrays,
        "scenes": book.scenes,
        "passes": passes,
        "leftOut": left_out,
    }


class _Book:
    """Arrays and steps, each written once however many passes use it."""

    def __init__(self) -> None:
        self.arrays: list[Json] = []
        self.scenes: list[Json] = []
        self._array_at: dict[tuple[str, Index, Index], int] = {}
        self._scene_at: dict[int, int] = {}

    def add(self, walk: Pass) -> Json:
        # The same windows in another pass: only its products are new.
        scene = self._scene_at.setdefault(id(walk.geometry), len(self.scenes))
        if scene == len(self.scenes):
            self.scenes.append(_scene(walk))
        data: Json = {
            "name": walk.name,
            "label": text.NAMES[walk.name],
            "what": text.what(walk),
            "formula": text.formula(walk),
            "how": walk.how,
            "target": walk.target,
            "scene": scene,
            "terms": [[_rounded(v, 6) for v in step.terms] for step in walk.steps],
        }
        for role in ("drive", "window", "kernel"):
            grid = getattr(walk, role)
            data[role] = None if grid is None else self._array(grid)
        if walk.how != "product":
            data["shares"] = [[_rounded(v, 6) for v in step.shares] for step in walk.steps]
        if walk.bias is not None:
            data["bias"] = [_rounded(v, 7) for v in walk.bias.tolist()]
        return data

    def _array(self, grid: Grid) -> int:
        key = (grid.name, grid.origin, grid.values.shape)
        at = self._array_at.setdefault(key, len(self.arrays))
        if at == len(self.arrays):
            self.arrays.append(_array(grid))
        return at


def _scene(walk: Pass) -> Json:
    window, kernel, (rows, columns) = walk.window, walk.kernel, (
        walk.geometry.rows, walk.geometry.columns
    )  # fmt: skip
    data: Json = {
        "drivers": [_flat(walk.drive, step.driver) for step in walk.steps],
        "places": _windows([[_flat(window, p) for p in s.places] for s in walk.steps]),
        "taps": _windows([[_flat(kernel, t) for t in s.taps] for s in walk.steps]),
    }
    if window is not None:
        data["rows"] = {step.driver[2]: rows.rules[step.driver[2]] for step in walk.steps}
        data["columns"] = {step.driver[3]: columns.rules[step.driver[3]] for step in walk.steps}
        # Where the value of each drawn row stands: itself, or another where padding repeats.
        for name, axis, at in (("rowSource", rows, 2), ("columnSource", columns, 3)):
            start, count = window.origin[at], window.values.shape[at]
            sources = [axis.source(place) for place in range(start, start + count)]
            data[name] = [-1 if s is None else s - start for s in sources]
    return data


def _flat(grid: Grid | None, index: Index) -> int:
    """The cell's position in the values in reading order."""
    assert grid is not None
    position = 0
    for i, n in zip(grid.at(index), grid.values.shape, strict=True):
        position = position * n + i
    return position


def _windows(lists: list[list[int]]) -> Json:
    """Lists of positions, short: a start for each, and its pattern, which many of them share."""
    patterns: dict[tuple[int, ...], int] = {}
    starts = [cells[0] if cells else 0 for cells in lists]
    which = [
        patterns.setdefault(tuple(cell - start for cell in cells), len(patterns))
        for cells, start in zip(lists, starts, strict=True)
    ]
    return {"starts": starts, "which": which, "patterns": list(patterns)}


def _array(grid: Grid) -> Json:
    data: Json = {
        "name": grid.name,
        "title": grid.title,
        "axes": grid.axes,
        "shape": grid.values.shape,
        "origin": grid.origin,
        "values": [_rounded(v, 7) for v in grid.values.ravel().tolist()],
    }
    if grid.size is not None:
        data |= {"size": grid.size, "unread": grid.unread, "padded": grid.padded}
    if grid.inserted != (1, 1):
        data["inserted"] = grid.inserted
    return data


def _rounded(value: float, digits: int) -> float | int | str:
    """A number in few characters; JSON has no NaN and no infinity, the page reads their names."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
