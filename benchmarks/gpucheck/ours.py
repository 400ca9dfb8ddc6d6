"""tinyconv's sides, one for each path of kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from geometry import Geometry, drawn
from networks import tinyconv_training

import tinyconv as tc
from gpucheck.device import Makers, Side, gpu, paths, use, using
from gpucheck.parts import Missing

GRAPH = "graph"


def on(path: str, work: Callable[[], object]) -> Side:
    return Side(work, partial(use, path))


def steps(n: int) -> Makers:
    """A train step of ResNet-8 on each path."""
    return {
        path: lambda path=path: on(path, tinyconv_training(n, device="cuda")) for path in paths()
    }


def graphs(n: int) -> Makers:
    """The step of the fastest path, captured in a CUDA graph."""

    def make() -> Side:
        fastest = list(paths())[-1]
        if "own" not in paths():
            raise Missing("a capture needs the layer 'own'")
        with using(fastest):
            return on(fastest, captured(tinyconv_training(n, device="cuda")))

    return {GRAPH: make}


def captured(step: Callable[[], Any]) -> Callable[[], Any]:
    """A step without inputs: the batch is always the same."""
    return tc.cuda.graph(step, ())


def convolution(geometry: Geometry, dtype: str, kernel: str) -> Makers:
    """kernel: "forward", "dX", "dW", or "all" three in turn."""

    def make(path: str) -> Side:
        x, w = (gpu().xp.asarray(a.astype(dtype)) for a in drawn(geometry))
        with using(path):
            g = geometry.calls(gpu(), x, w, None)["forward"]()
        g.fill(1)
        calls = geometry.calls(gpu(), x, w, g)

        def everything() -> Any:
            return [call() for call in calls.values()]

        return on(path, everything if kernel == "all" else calls[kernel])

    return {path: partial(make, path) for path in paths()}
