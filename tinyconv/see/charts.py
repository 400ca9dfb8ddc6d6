"""Small charts for HTML pages: line charts as SVG, numbers as colours, arrays as pictures.

Written by hand, without a plotting library: a page must not need more than the package does.
Colours: Okabe and Ito's for lines, cividis (Nuñez et al., 2018) for magnitudes; both can be told
apart by colour-blind people.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLUE, VERMILION = "#0072b2", "#d55e00"

_CIVIDIS = ("#00224e", "#213b6e", "#4c556c", "#6c6e72", "#8e8978", "#b3a772", "#dbc761", "#fee838")
_DIVERGING = (BLUE, "#7fb8d8", "#f7f7f7", "#eaae7f", VERMILION)  # negative, zero, positive


# --- numbers as colours


def _scale(colours: Sequence[str], x: Any) -> NDArray[np.uint8]:
    """Numbers in 0..1 as (..., 3) RGB, between the colours at equal distances."""
    rgb = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in colours], float)
    at = np.linspace(0, 1, len(rgb))
    channels = [np.interp(x, at, rgb[:, channel]) for channel in range(3)]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


def magnitudes(x: Any) -> NDArray[np.uint8]:
    """0 is dark blue, 1 is yellow."""
    return _scale(_CIVIDIS, x)


def signed(x: Any, limit: float) -> NDArray[np.uint8]:
    """-limit is blue, 0 is white, limit is vermilion."""
    return _scale(_DIVERGING, (np.asarray(x, float) / (limit or 1.0) + 1) / 2)


def png(pixels: NDArray[np.uint8], alt: str, kind: str = "") -> str:
    """(H, W) grey or (H, W, 3) RGB as an <img> that holds its picture.

    Format: https://www.w3.org/TR/png; RGB and grey, 8 bits, no filter.
    """
    height, width = pixels.shape[:2]
    colour_type = 2 if pixels.ndim == 3 else 0
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    rows = np.ascontiguousarray(pixels).reshape(height, -1)
    lines = zlib.compress(np.hstack([np.zeros((height, 1), np.uint8), rows]).tobytes(), 9)
    chunks = [(b"IHDR", header), (b"IDAT", lines), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    source = "data:image/png;base64," + base64.b64encode(data).decode()
    shown = f' class="{kind}"' if kind else ""
    return f'<img{shown} src="{source}" alt="{escape(alt)}" width="{width}" height="{height}">'


# --- lines


@dataclass(frozen=True)
class Line:
    """One line of a chart.  Points that are not finite or not positive are left out."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    colour: str = BLUE
    dashed: bool = False
    dots: bool = False


_WIDTH, _HEIGHT = 460, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 14, 46


def line_chart(lines: Sequence[Line], x_label: str, y_label: str, about: str) -> str:
    """Lines over a logarithmic axis, as SVG that takes the width that there is.

    about: what the chart shows, for those who cannot see it.
    """
    points = {line.name: _positive(line) for line in lines}
    everything = [point for line in points.values() for point in line]
    if not everything:
        return '<p class="none">Nothing to draw yet.</p>'
    to_x = _axis([x for x, _ in everything], _LEFT, _WIDTH - _RIGHT)
    bottom, top = min(y for _, y in everything), max(y for _, y in everything)
    ticks = _log_ticks(bottom, top)
    logs = [math.log(y) for y in (bottom, top, ticks[0], ticks[-1])]
    to_y = _axis(logs, _HEIGHT - _BOTTOM, _TOP)
    body = [_y_axis(ticks, to_y), _x_axis([x for x, _ in everything], to_x)]
    body += [
        _drawn(line, [(to_x(x), to_y(math.log(y))) for x, y in points[line.name]]) for line in lines
    ]
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    body += [
        _label(x_label, f'x="{(_LEFT + _WIDTH - _RIGHT) / 2:g}" y="{_HEIGHT - 6}"'),
        _label(y_label, f'transform="translate(13 {middle:g}) rotate(-90)"'),
    ]
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(about)}">{"".join(body)}</svg>{_legend(lines)}'
    )


def _label(text: str, place: str) -> str:
    return f'<text class="label" {place} text-anchor="middle">{escape(text)}</text>'


def _positive(line: Line) -> list[tuple[float, float]]:
    return [(x, y) for x, y in zip(line.xs, line.ys, strict=True) if 0 < y < math.inf]


def _axis(values: Sequence[float], start: float, end: float) -> Any:
    """The function that takes the least value to ``start`` and the greatest to ``end``."""
    low, high = min(values), max(values)
    span = high - low or 1.0
    return lambda value: start + (end - start) * (value - low) / span


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, 20, 50, ...: those inside, and the next below; at most six or so."""
    first, last = math.floor(math.log10(low)), math.floor(math.log10(high))
    steps = (1, 2, 5) if high / low < 1000 else (1,)
    marks = [step * 10.0**power for power in range(first, last + 2) for step in steps]
    below = [mark for mark in marks if mark <= low][-1:]
    inside = [mark for mark in marks if low < mark <= high]
    return below + inside


def _y_axis(ticks: Sequence[float], to_y: Any) -> str:
    return "".join(
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{_LEFT - 7}" y="{y + 4.5:.1f}" text-anchor="end">{tick:g}</text>'
        for tick, y in ((tick, to_y(math.log(tick))) for tick in ticks)
    )


def _x_axis(xs: Sequence[float], to_x: Any) -> str:
    """Whole numbers, at most eight of them."""
    first, last = math.ceil(min(xs)), math.floor(max(xs))
    step = max(1, math.ceil((last - first) / 7))
    return "".join(
        f'<text x="{to_x(x):.1f}" y="{_HEIGHT - _BOTTOM + 19}" text-anchor="middle">{x}</text>'
        for x in range(first, last + 1, step)
    )


def _drawn(line: Line, points: Sequence[tuple[float, float]]) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashes = ' stroke-dasharray="7 4"' if line.dashed else ""
    drawn = f'<polyline points="{path}" stroke="{line.colour}"{dashes}/>'
    if line.dots or len(points) == 1:
        drawn += "".join(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{line.colour}"/>' for x, y in points
        )
    return drawn


def _legend(lines: Sequence[Line]) -> str:
    keys = "".join(
        f'<span><svg class="key" viewBox="0 0 34 10" aria-hidden="true">'
        f"{_drawn(line, [(1, 5), (33, 5)])}</svg>{escape(line.name)}</span>"
        for line in lines
    )
    return f'<p class="legend">{keys}</p>'
