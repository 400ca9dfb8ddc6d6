"""One step as a drawing, written as SVG, PNG or (every step) GIF: the look of the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyconv.see.explain import text
from tinyconv.see.explain.geometry import Index
from tinyconv.see.explain.steps import Array, Grid, Pass, Step

if TYPE_CHECKING:
    from tinyconv.see.explain import Explanation

Color = tuple[int, int, int]

# Told apart by every eye: blue below zero, orange above, near white at zero.
MINUS, ZERO, PLUS = (31, 95, 168), (244, 242, 236), (185, 90, 5)
PAPER, INK, SOFT, EDGE, RAY = (255,) * 3, (29, 36, 48), (93, 102, 117), (217, 214, 205), (238,) * 3
SHADES = 25  # of each colour: a GIF has 256 in all
LEFT_TO_RIGHT = ("x", "dx", "z", "db", "w", "wf", "dw", "y", "dy")
MARGIN, GAP, BETWEEN = 24, 56, 12  # around everything, between panels, between planes
NAME = 20  # the height of a plane's name
WIDTH = 940  # what a picture fills before its cells get smaller


@dataclass(frozen=True)
class Frame:
    """Shapes in drawing order: ("rect", x, y, w, h, fill, edge, width), ("line", x, y, x, y,
    color), ("area", points, fill), ("text", x, y, text, size, color, anchor)."""

    width: int
    height: int
    words: str
    shapes: list[tuple[Any, ...]]


# --- what is drawn


@dataclass(frozen=True)
class _Panel:
    role: str
    grid: Grid
    across: int  # planes side by side
    most: float  # the greatest number: the end of the colour scale

    @property
    def columns(self) -> int:
        """How many cells stand side by side."""
        return self.across * self.grid.values.shape[3]

    def width(self, side: int) -> int:
        return self.columns * side + (self.across - 1) * BETWEEN

    def height(self, side: int) -> int:
        n, c, h, _ = self.grid.values.shape
        return math.ceil(n * c / self.across) * (h * side + NAME)


class Artist:
    """Draws the steps of one pass; every frame has the same size."""

    def __init__(self, explanation: Explanation) -> None:
        self.explanation, self.walk = explanation, explanation.walk
        self.panels = _panels(self.walk)
        columns = sum(panel.columns for panel in self.panels)
        self.side = max(12, min(44, (WIDTH - GAP * (len(self.panels) - 1)) // columns))
        self.title = _wrapped(explanation.title, 112)
        self.top = MARGIN + 20 * len(self.title) + 64
        self.size = (self._width(), self._height())

    def _panel_width(self, panel: _Panel) -> int:
        return max(panel.width(self.side), 108)  # room for the caption

    def _width(self) -> int:
        inner = sum(map(self._panel_width, self.panels)) + GAP * (len(self.panels) - 1)
        return max(inner, 780) + 2 * MARGIN

    def _height(self) -> int:
        return self.top + max(panel.height(self.side) for panel in self.panels) + 72

    def frame(self, number: int, step: Step, result: Array) -> Frame:
        where = self._places()
        shapes = list(self._rays(step, where))
        for panel in self.panels:
            shapes += self._panel(panel, step, result, where[panel.role], number)
        shapes += self._words(number, step, result)
        return Frame(*self.size, text.step_text(self.walk, number, step, result), shapes)

    def _places(self) -> dict[str, Callable[[Index], tuple[int, int]]]:
        """For each panel: where the top left corner of a cell is."""
        inner = sum(map(self._panel_width, self.panels)) + GAP * (len(self.panels) - 1)
        x, found = (self.size[0] - inner) // 2, {}
        tallest = max(panel.height(self.side) for panel in self.panels)
        for panel in self.panels:
            width = self._panel_width(panel)
            left = x + (width - panel.width(self.side)) // 2
            top = self.top + (tallest - panel.height(self.side)) // 2
            found[panel.role] = self._corner(panel, left, top)
            x += width + GAP
        return found

    def _corner(self, panel: _Panel, left: int, top: int) -> Callable[[Index], tuple[int, int]]:
        _, C, H, W = panel.grid.values.shape

        def corner(at: Index) -> tuple[int, int]:
            down, right = divmod(at[0] * C + at[1], panel.across)
            return (left + (right * W + at[3]) * self.side + right * BETWEEN,
                    top + down * (H * self.side + NAME) + NAME + at[2] * self.side)  # fmt: skip

        return corner

    def _rays(
        self, step: Step, where: dict[str, Callable[[Index], tuple[int, int]]]
    ) -> Iterator[tuple[Any, ...]]:
        """Light between the driver cell and its window."""
        role = "window" if step.places else "kernel"
        grid, side = getattr(self.walk, role), self.side
        one = where["drive"](self.walk.drive.at(step.driver))
        planes: dict[Index, list[tuple[int, int]]] = {}
        for index in step.places or step.taps:
            planes.setdefault(index[:2], []).append(where[role](grid.at(index)))
        for corners in planes.values():
            left, top = np.min(corners, 0).tolist()
            right, bottom = (np.max(corners, 0) + side).tolist()
            near, far = (right, one[0]) if left < one[0] else (left, one[0] + side)
            points = [(near, top), (far, one[1]), (far, one[1] + side), (near, bottom)]
            yield "area", points, RAY

    def _panel(
        self, panel: _Panel, step: Step, result: Array, corner: Callable[[Index], tuple[int, int]],
        number: int,
    ) -> Iterator[tuple[Any, ...]]:  # fmt: skip
        grid, side = panel.grid, self.side
        written = panel.role == self.walk.target
        values = result if written else grid.values
        here = {"drive": [step.driver], "window": step.places, "kernel": step.taps}[panel.role]
        on = {grid.at(index) for index in here}
        empty = self._not_yet(number) if written and panel.role == "drive" else set()
        best = {grid.at(p) for p, s in zip(step.places, step.shares, strict=False)
                if s and self.walk.how == "max" and panel.role == "window"}  # fmt: skip
        x, y = corner((0, 0, 0, 0))
        caption = f"{grid.name}  {grid.title}" + (", written" if written else "")
        middle = x + panel.width(side) / 2
        named = len({at[:2] for at in np.ndindex(*values.shape)}) > 1 or any(grid.origin[:2])
        yield "text", middle, y - (NAME if named else 0) - 9, caption, 14, INK, "middle"
        for at in np.ndindex(*values.shape):
            if named and grid.axes == 4 and at[2:] == (0, 0):
                px, py = corner(at)
                yield "text", px, py - 5, _plane(grid, at), 11, SOFT, "start"
            yield from self._cell(panel, at, corner(at), float(values[at]), at in empty, written)
        for at in sorted(on):
            px, py = corner(at)
            width = 4 if panel.role == "drive" or at in best else 2
            yield "rect", px, py, side - 1, side - 1, None, INK, width

    def _not_yet(self, number: int) -> set[Index]:
        return {self.walk.drive.at(step.driver) for step in self.walk.steps[number + 1 :]}

    def _cell(
        self, panel: _Panel, at: Index, corner: tuple[int, int], value: float, empty: bool,
        written: bool,
    ) -> Iterator[tuple[Any, ...]]:  # fmt: skip
        (x, y), grid, side = corner, panel.grid, self.side
        index = tuple(i + o for i, o in zip(at, grid.origin, strict=True))
        outside, inserted = grid.outside(index), grid.is_inserted(index)
        plain = empty or outside or inserted
        fill = PAPER if plain else _shade(value, panel.most)
        yield "rect", x, y, side - 1, side - 1, fill, EDGE if plain else None, 1
        if outside:
            yield "line", x, y + side - 1, x + side - 1, y, EDGE
            yield "line", x, y + side // 2, x + side // 2, y, EDGE
            yield "line", x + side // 2, y + side - 1, x + side - 1, y + side // 2, EDGE
        if grid.is_unread(index):
            yield "line", x + 3, y + 3, x + side - 4, y + side - 4, SOFT
            yield "line", x + 3, y + side - 4, x + side - 4, y + 3, SOFT
        if side >= 20 and not empty and not (outside and written):
            color = SOFT if outside or inserted else PAPER if _strong(value, panel.most) else INK
            size = max(7, round(side * 0.29))
            yield "text", x + side / 2, y + side / 2 + size * 0.35, _short(value), size, color, \
                "middle"  # fmt: skip

    def _words(self, number: int, step: Step, result: Array) -> Iterator[tuple[Any, ...]]:
        walk, y = self.walk, MARGIN + 4
        middle = self.size[0] / 2
        for line in self.title:
            yield "text", middle, y + 8, line, 14, INK, "middle"
            y += 20
        yield "text", middle, y + 14, text.what(walk), 13, SOFT, "middle"
        count = f"{text.NAMES[walk.name]}, step {number + 1} of {len(walk.steps)}"
        yield "text", middle, self.size[1] - 38, _summary(walk, step, result), 15, INK, "middle"
        yield "text", middle, self.size[1] - 14, count, 12, SOFT, "middle"


def _panels(walk: Pass) -> list[_Panel]:
    *_, (_, final) = walk.running()
    panels = []
    for role in ("drive", "window", "kernel"):
        grid = getattr(walk, role)
        if grid is not None:
            n, c = grid.values.shape[:2]
            across = c if role == "kernel" and c <= 4 else math.ceil(math.sqrt(n * c))
            values = final if role == walk.target else grid.values
            known = np.abs(values[np.isfinite(values)])
            panels.append(_Panel(role, grid, across, float(known.max(initial=0))))
    return sorted(panels, key=lambda panel: LEFT_TO_RIGHT.index(panel.grid.name))


def _plane(grid: Grid, at: Index) -> str:
    n, c = at[0] + grid.origin[0], at[1] + grid.origin[1]
    if grid.name in ("w", "dw", "wf"):
        return f"{grid.name}[{n},{c}]"
    return f"channel {c}" if grid.values.shape[0] == 1 and not n else f"image {n}, channel {c}"


def _summary(walk: Pass, step: Step, result: Array) -> str:
    """The step as one line: the whole sum where it fits."""
    driver, numbers = walk.drive.label(step.driver), [text.number(t) for t in step.terms]
    if walk.target != "drive":
        start = f"{driver} = {text.number(walk.drive.value(step.driver))}"
        if walk.name == "db":
            target = step.taps[0]
            total = text.number(float(result[walk.result.at(target)]))
            return f"{start} is added: {walk.result.label(target)} = {total}"
        lost = sum(target is None for target in step.targets)
        off = f", {lost} of {len(step.terms)} fall off the edge" if lost else ""
        verb = {
            "max": "goes to the greatest of its window, in",
            "mean": "shared out over its window of",
            "product": "stamped onto" if walk.target == "window" else "times its window, added to",
        }[walk.how]
        return f"{start}, {verb} {walk.result.name}{off}"
    total = text.number(float(result[walk.drive.at(step.driver)]))
    if walk.how == "max":
        return f"{driver} = the greatest of {len(numbers)} = {total}"
    numbers = [n for n in numbers if n != "0"]
    if walk.bias is not None:
        numbers.append(text.number(float(walk.bias[step.driver[1]])))
    line = f"{driver} = {' + '.join(numbers).replace('+ -', '- ')} = {total}"
    return line if len(line) <= 96 else f"{driver} = sum of {len(numbers)} numbers = {total}"


def _wrapped(line: str, width: int) -> list[str]:
    """Lines of at most ``width`` characters, broken between facts."""
    lines = [""]
    for fact in line.split(" - "):
        longer = f"{lines[-1]} - {fact}" if lines[-1] else fact
        if len(longer) > width:
            lines.append(fact)
        else:
            lines[-1] = longer
    return lines


# --- colours and numbers


def _share(value: float, most: float) -> float:
    return min(1.0, abs(value) / most) if most > 0 and math.isfinite(value) else 0.0


def _strong(value: float, most: float) -> bool:
    """Whether white letters stand out more than dark ones."""
    return _share(value, most) > 0.82


def _shade(value: float, most: float) -> Color:
    return _ramp(round(_share(value, most) * SHADES) * (-1 if value < 0 else 1))


def _ramp(step: int) -> Color:
    end, share = (MINUS if step < 0 else PLUS), abs(step) / SHADES
    r, g, b = (round(z + (e - z) * share) for z, e in zip(ZERO, end, strict=True))
    return r, g, b


def _short(value: float) -> str:
    """At most five characters or so, for a cell."""
    size = abs(value)
    if not math.isfinite(value):
        return str(value)
    if size and (size < 0.005 or size >= 10_000):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    places = 0 if size >= 100 else 1 if size >= 10 else 2
    short = f"{value:.{places}f}"
    return (short.rstrip("0").rstrip(".") if places else short) or "0"


# --- files


def draw(explanation: Explanation, number: int) -> Frame:
    """Step ``number`` of the pass that is shown."""
    for i, (step, result) in enumerate(explanation.walk.running()):
        if i == number:
            return Artist(explanation).frame(number, step, result)
    raise IndexError(number)


def svg(frame: Frame) -> str:
    """The frame as an SVG document, with the step's text for those who do not see it."""
    size = f'width="{frame.width}" height="{frame.height}"'
    view = f'viewBox="0 0 {frame.width} {frame.height}" role="img"'
    font = 'font-family="system-ui, Helvetica, Arial, sans-serif"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {view} {font}>',
        f"<desc>{escape(frame.words)}</desc>",
        f'<rect {size} fill="{_hex(PAPER)}"/>',
    ]
    return "\n".join([*lines, *map(_element, frame.shapes), "</svg>", ""])


def _element(shape: tuple[Any, ...]) -> str:
    kind, *rest = shape
    if kind == "rect":
        x, y, w, h, fill, edge, width = rest
        stroke = f' stroke="{_hex(edge)}" stroke-width="{width}"' if edge else ""
        paint = _hex(fill) if fill else "none"
        return f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="3" fill="{paint}"{stroke}/>'
    if kind == "line":
        a, b, c, d, color = rest
        return f'<path d="M{a} {b}L{c} {d}" stroke="{_hex(color)}"/>'
    if kind == "area":
        points, fill = rest
        listed = " ".join(f"{x},{y}" for x, y in points)
        return f'<polygon points="{listed}" fill="{_hex(fill)}"/>'
    x, y, words, size, color, anchor = rest
    return (f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{_hex(color)}" '
            f'text-anchor="{anchor}">{escape(words)}</text>')  # fmt: skip


def _hex(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def png(frame: Frame) -> bytes:
    """The frame as a PNG image."""
    file = BytesIO()
    _image(frame).save(file, "png")
    return file.getvalue()


def gif(explanation: Explanation, fps: float) -> bytes:
    """Every step, one after the other, over and over; the last one stays longer."""
    if not 0 < fps <= 50:
        raise ValueError(f"save: fps={fps}; a GIF shows more than 0 and at most 50 steps a second")
    artist, palette = Artist(explanation), _palette()
    images = [
        _image(artist.frame(i, step, result)).quantize(palette=palette, dither=0)
        for i, (step, result) in enumerate(explanation.walk.running())
    ]
    milliseconds = [round(1000 / fps)] * len(images)
    milliseconds[-1] += 1500
    file = BytesIO()
    images[0].save(file, "gif", save_all=True, append_images=images[1:], duration=milliseconds,
                   loop=0, comment=explanation.title.encode())  # fmt: skip
    return file.getvalue()


def _pillow() -> Any:
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise ModuleNotFoundError(
            'PNG and GIF pictures need Pillow: pip install pillow; .svg and .html do not'
        ) from None
    return Image, ImageDraw, ImageFont


def _image(frame: Frame) -> Any:
    Image, ImageDraw, _ = _pillow()
    image = Image.new("RGB", (frame.width, frame.height), PAPER)
    pen = ImageDraw.Draw(image)
    for kind, *rest in frame.shapes:
        if kind == "rect":
            x, y, w, h, fill, edge, width = rest
            pen.rectangle((x, y, x + w - 1, y + h - 1), fill, edge, width)
        elif kind == "line":
            pen.line(rest[:4], rest[4])
        elif kind == "area":
            pen.polygon(rest[0], rest[1])
        else:
            x, y, words, size, color, anchor = rest
            side = {"middle": "ms", "start": "ls"}[anchor]
            pen.text((round(x), round(y)), words, color, _font(size), anchor=side)
    return image


@cache
def _font(size: int) -> Any:
    return _pillow()[2].load_default(size)


def _palette() -> Any:
    """An image that holds every colour: no frame gets its own, so nothing flickers."""
    Image = _pillow()[0]
    ends = [PAPER, INK, SOFT, EDGE, RAY]
    greys = [(v, v, v) for v in range(0, 256, 12)]
    # Letters fade into what is below them.
    ramp = [_ramp(step) for step in range(-SHADES, SHADES + 1)]
    faded = [tuple((a + b) // 2 for a, b in zip(color, ink, strict=True))
             for color in ramp for ink in (PAPER, INK)]  # fmt: skip
    colors = [*ends, *ramp, *greys, *faded][:256]
    image = Image.new("P", (1, 1))
    image.putpalette([v for color in colors for v in color])
    return image
