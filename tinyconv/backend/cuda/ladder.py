"""The layers of kernels for a GPU, from the fastest down.

A layer is a module of this package with kernels under the reference's names, and with

    prepare(cupy)   raises where the layer cannot work here: a library is too old, a compiler fails
    missing()       for a layer on an optional package: why that is not there, or None
    about(cupy)     for a layer on somebody's library: which one it found

What cannot work is left out with one warning, and the next layer serves.  An optional package that
was never installed is no step down: `show_config` and the doctor name it, and nobody is warned.
"""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType
from typing import Any

RUNGS = ["cudnn", "own"]  # names of modules in this package, the fastest first


def climb(cupy: Any) -> tuple[list[ModuleType], dict[str, str]]:
    """The layers that work here, and for each other one the reason."""
    layers, reasons = [], {}
    for name in RUNGS:
        try:
            layer = importlib.import_module(f"tinyconv.backend.cuda.{name}")
            if absent := getattr(layer, "missing", lambda: None)():
                reasons[name] = absent
                continue
            layer.prepare(cupy)
        except Exception as error:  # whatever it is: there is a slower way
            reasons[name] = f"{type(error).__name__}: {error}"
            warnings.warn(
                f"cuda: without the layer {name!r} ({reasons[name]}); the next slower one serves",
                stacklevel=2,
            )
        else:
            layers.append(layer)
    return layers, reasons
