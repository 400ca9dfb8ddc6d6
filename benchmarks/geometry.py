"""Convolutions to measure: sizes and their arrays, without any library's tensors."""

from __future__ import annotations

from dataclasses import dataclass
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

    def theirs(self) -> tuple[Any, ...]:
        """What torch.convolution and its backward take after the bias."""
        return ([self.stride] * 2, [self.pad] * 2, [self.dilation] * 2, self.transposed, [0, 0],
                self.groups)  # fmt: skip
