"""A layer step by step on real numbers: a page, a moving picture, one frame, or text."""

from __future__ import annotations

import html
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tinyconv.autograd import no_grad
from tinyconv.errors import ShapeError
from tinyconv.nn.module import Module
from tinyconv.see.explain import page, picture, steps, text
from tinyconv.see.explain.steps import Array, Pass
from tinyconv.tensor import Tensor, as_array

FILES = (".html", ".gif", ".svg", ".png", ".txt")


def explain(
    layer: Module, x: Any, *, show: str = "forward", grad: Any = None, region: Any = None
) -> Explanation:
    """Every step of a layer's forward and backward passes, on this layer's and this x's numbers.

    layer: Conv2d, ConvTranspose2d, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d or AdaptiveMaxPool2d.
    x: its input, (N, C, H, W); N = C = 1 is the easiest to follow.
    show: the pass that the text and the pictures show, and with which the page opens: "forward",
        "dx" (gradient of the input), "dw" (of the kernel), "db" (of the bias), or "zeros" (a
        transposed convolution as a plain one on an input with zeros between).
    grad: the gradient of the output, in the output's shape; ones by default, as of y.sum().
    region: only these steps: positions and slices of the last axes, region=np.s_[0:1, 0:8, 0:8].

    A step is one output cell (of a transposed convolution: one input cell). ShapeError for an x
    or a grad that does not fit, and for more than 2,000 steps; TypeError for other layers;
    ValueError for a pass that the layer does not have.
    """
    if not isinstance(layer, Module):
        raise TypeError(f"explain: a {type(layer).__name__} is not a layer; tc.explain(layer, x)")
    x = x if isinstance(x, Tensor) else Tensor(as_array(x))
    with no_grad():
        y = layer(x)
    y = y[0] if isinstance(y, tuple) else y  # return_indices
    if grad is None:
        grad = np.ones(y.shape)
    elif np.shape(grad) != y.shape:
        raise ShapeError("explain", f"grad {np.shape(grad)} must have the output's shape {y.shape}")
    return Explanation(layer, _numbers(x), _numbers(grad), show, region)


def _numbers(values: Any) -> Array:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    return np.array(values, np.float64)


class Explanation:
    """The steps of one pass and their pictures: text by `step`, files by `save`.

    In a notebook it is the page itself, with all the passes that the layer has.
    """

    def __init__(self, layer: Any, x: Array, grad: Array, show: str, region: Any) -> None:
        self.layer = layer
        self.x_shape, self.y_shape = x.shape, grad.shape
        self.show, self.region = show, region
        self._makers = steps.of_layer(layer, x, grad)
        self._made: dict[str, Pass] = {}
        if show not in self._makers:
            raise ValueError(f"explain: {layer.brief()} has no pass {show!r}; there is "
                             + ", ".join(map(repr, self.passes)))  # fmt: skip
        self.walk  # noqa: B018  too many steps: an error now, not at the first look

    @property
    def passes(self) -> tuple[str, ...]:
        """The passes that this layer has."""
        return tuple(name for name in steps.PASSES if name in self._makers)

    def of(self, name: str) -> Pass:
        """A pass as data: the arrays, and for each step the cells and the products."""
        if name not in self._made:
            self._made[name] = self._makers[name](self.region)
        return self._made[name]

    @property
    def walk(self) -> Pass:
        """The pass that is shown."""
        return self.of(self.show)

    @cached_property
    def title(self) -> str:
        """Input Shape, Output Shape, K, P, S, D, G."""
        return text.sizes_as_title(self.layer, self.x_shape, self.y_shape)

    @cached_property
    def sizes(self) -> list[str]:
        """The formula of the output size with its numbers, for height and width."""
        return text.size_lines(self.layer, self.x_shape)

    def __len__(self) -> int:
        return len(self.walk.steps)

    def step(self, number: int) -> str:
        """One step as text: the cells, the products, the sum. IndexError for one that is not."""
        if not -len(self) <= number < len(self):
            raise IndexError(f"step {number}: there are {len(self)}, 0..{len(self) - 1}")
        return self._texts(number % len(self))

    def _texts(self, only: int | None = None) -> str:
        """The text of one step, or of all of them."""
        return "\n".join(
            text.step_text(self.walk, i, step, result)
            for i, (step, result) in enumerate(self.walk.running())
            if only in (None, i)
        )

    def text(self) -> str:
        """Everything as text."""
        head = [self.layer.brief(), self.title, *self.sizes, ""]
        head += [text.what(self.walk), text.formula(self.walk)]
        head += [] if self.region is None else [text.CROPPED]
        return "\n".join(head) + "\n\n" + self._texts()

    def html(self) -> str:
        """The page: one file that needs nothing else."""
        return page.render(self)

    def save(
        self, path: str | os.PathLike[str], *, step: int | None = None, fps: float = 2.0
    ) -> Path:
        """Write a file and return its path; the suffix decides: .html, .gif, .svg, .png, .txt.

        step: which one .svg and .png show; the middle one by default.
        fps: how many steps a second a .gif shows.
        .gif and .png need Pillow: pip install pillow.
        ValueError for another suffix, FileNotFoundError where the folder is missing.
        """
        target = Path(path)
        kind = target.suffix.lower()
        if kind not in FILES:
            raise ValueError(f"save: {target.name!r} has the suffix {kind!r}; there is "
                             + ", ".join(FILES))  # fmt: skip
        if not target.parent.is_dir():
            raise FileNotFoundError(f"save: there is no folder {target.parent}; make it first")
        target.write_bytes(self._file(kind, len(self) // 2 if step is None else step, fps))
        return target

    def _file(self, kind: str, step: int, fps: float) -> bytes:
        if kind == ".html":
            return self.html().encode()
        if kind == ".txt":
            return self.text().encode()
        if kind == ".gif":
            return picture.gif(self, fps)
        self.step(step)  # an error that says which steps there are
        frame = picture.draw(self, step % len(self))
        return picture.svg(frame).encode() if kind == ".svg" else picture.png(frame)

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"<explanation of {self.layer.brief()}, {self.show}: {len(self)} steps>"

    def _repr_html_(self) -> str:
        page, name = html.escape(self.html()), html.escape(self.layer.brief())
        style = "width:100%;height:46rem;border:0"
        return f'<iframe srcdoc="{page}" title="{name}" style="{style}"></iframe>'
