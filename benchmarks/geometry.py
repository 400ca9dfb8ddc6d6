"""Convolutions to measure: sizes and their arrays, without any library's tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Geometry:
    """One convolution of square images, c channels to o; padding None keeps a stride 1's size."""

    n: int
    size: int
    c: int
    o: int
    k: int = 3
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    padding: int | None = None
    transposed: bool = False

    def __str__(self) -> str:
        notes = f" d{self.dilation}" * (self.dilation > 1) + " depthwise" * (self.groups > 1)
        kind = "transposed conv" if self.transposed else "conv"
        shape = f"{self.n}x{self.size}x{self.size} {self.c}->{self.o}"
        return f"{kind} {shape} k{self.k} s{self.stride}{notes}"

    @property
    def pad(self) -> int:
        return self.dilation * (self.k - 1) // 2 if self.padding is None else self.padding

    def arrays(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Images and weights, normally distributed, float32."""
        rng = np.random.default_rng(0)
        ends = (self.c, self.o) if self.transposed else (self.o, self.c)
        x = rng.standard_normal((self.n, self.c, self.size, self.size), dtype=np.float32)
        w = rng.standard_normal((ends[0], ends[1] // self.groups, self.k, self.k), dtype=np.float32)
        return x, w

    def ours(self) -> dict[str, Any]:
        """The keywords of tinyconv's three kernels."""
        pad = (self.pad, self.pad)
        return {
            "stride": (self.stride, self.stride), "padding": (pad, pad),
            "dilation": (self.dilation, self.dilation), "groups": self.groups,
        }  # fmt: skip

    def calls(self, backend: Any, x: Any, w: Any, g: Any) -> dict[str, Callable[[], Any]]:
        """The three kernels on a backend's arrays; g is the gradient of the result.

        The transposed convolution is the adjoint: x and g change places.
        """
        geometry = self.ours()
        wide, narrow = (g, x) if self.transposed else (x, g)

        def down() -> Any:
            return backend.conv2d(wide, w, **geometry)

        def up() -> Any:
            return backend.conv2d_input(narrow, w, input_size=wide.shape[2:], **geometry)

        def weight() -> Any:
            return backend.conv2d_weight(wide, narrow, kernel_size=w.shape[2:], **geometry)

        forward, input_gradient = (up, down) if self.transposed else (down, up)
        return {"forward": forward, "dX": input_gradient, "dW": weight}

    def theirs(self) -> tuple[Any, ...]:
        """What torch.convolution and its backward take after the bias."""
        return ([self.stride] * 2, [self.pad] * 2, [self.dilation] * 2, self.transposed, [0, 0],
                self.groups)  # fmt: skip


@cache
def drawn(geometry: Geometry) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """`Geometry.arrays`, drawn once for all sides."""
    return geometry.arrays()
