"""The layers of kernels for a GPU, from the fastest down.

A layer is a module of this package with kernels under the reference's names, and a function
``prepare(cupy)`` that raises where the layer cannot work here: a package is missing, a compiler
does not run.  What cannot work is left out with one warning, and the next layer serves.
"""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType
from typing import Any

RUNGS = ["own"]  # names of modules in this package, the fastest first


def climb(cupy: Any) -> tuple[list[ModuleType], dict[str, str]]:
    """The layers that work here, and for each other one the reason."""
    layers, reasons = [], {}
    for name in RUNGS:
        try:
            layer = importlib.import_module(f"tinyconv.backend.cuda.{name}")
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
