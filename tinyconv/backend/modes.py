"""How exact: TF32 or full float32 on a GPU, and the same bits in every run or not."""

from __future__ import annotations

from typing import Any

from tinyconv.backend import BACKENDS

PRECISIONS = ("highest", "tf32")

_modes: dict[str, Any] = {"deterministic": False, "precision": "highest"}


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
