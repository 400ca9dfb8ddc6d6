"""How exact: TF32 or full float32 on a GPU, the same bits in every run or not, fast algorithms or

the definition's sums.
"""

from __future__ import annotations

import os
from typing import Any

from tinyconv.backend import BACKENDS

PRECISIONS = ("highest", "tf32")

_modes: dict[str, Any] = {
    "deterministic": False,
    "precision": "highest",
    "direct": os.environ.get("TINYCONV_DIRECT", "0") not in ("", "0"),
}


def use_deterministic_algorithms(mode: bool) -> None:
    """On a GPU, take only kernels that give the same bits in every run; slower.

    Without it, gradients of indexing are added up in no fixed order there, and cuDNN may do so with
    convolutions; see docs/gpu.md.
    On the CPU every kernel does so anyway.
    """
    _modes["deterministic"] = bool(mode)


def are_deterministic_algorithms_enabled() -> bool:
    """Is deterministic mode on?"""
    return deterministic()


def deterministic() -> bool:
    return _modes["deterministic"]


def use_direct_convolutions(mode: bool) -> None:
    """Compute every convolution as the sum that defines it, by no fast algorithm; slower.

    On the CPU Winograd's algorithm computes most 3x3 convolutions of stride 1.  It mixes the pixels
    of a tile: where rounding could make an output depend on a pixel that it does not read, the
    direct sum takes its place (docs/conv.md), but the last bits may still differ when a pixel
    nearby does.  With this mode they do not.  TINYCONV_DIRECT=1 in the environment turns it on from
    the start.  On a GPU such algorithms are never used.
    """
    _modes["direct"] = bool(mode)


def are_direct_convolutions_enabled() -> bool:
    """Does `use_direct_convolutions` hold?"""
    return direct()


def direct() -> bool:
    return _modes["direct"]


def set_float32_precision(precision: str) -> None:
    """How a GPU multiplies float32: "highest" as float32, "tf32" with 10 bits of mantissa, faster.

    TF32 is used by matrix products and convolutions; sums are float32 either way.  The default is
    "highest".  The CPU always computes in full precision.
    """
    if precision not in PRECISIONS:
        known = " or ".join(map(repr, PRECISIONS))
        raise ValueError(f"set_float32_precision: {precision!r} is not {known}")
    _modes["precision"] = precision
    for backend in BACKENDS.values():
        backend.use_precision(precision)


def get_float32_precision() -> str:
    """What `set_float32_precision` chose."""
    return _modes["precision"]
