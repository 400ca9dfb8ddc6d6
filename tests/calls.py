"""A sample drawn and called: outputs, gradients and second gradients, on any device.

The tests of the registry and `benchmarks/gpu_check.py` are made of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import tinyconv as tc
from tinyconv.samples import Sample


@dataclass(frozen=True)
class Slot:
    """The place of a drawn array in a call."""

    number: int


def filled(value: Any, leaves: Sequence[Any]) -> Any:
    if isinstance(value, Slot):
        return leaves[value.number]
    return tuple(filled(v, leaves) for v in value) if type(value) is tuple else value


class Call:
    """One drawn sample: its arrays, and the function on any version of them."""

    def __init__(
        self, function: Any, sample: Sample, dtype: Any = np.float64, device: str = "cpu"
    ) -> None:
        self.function, self.device = function, device
        self.arrays: list[Any] = []
        self.constants: set[int] = set()

        def place(array: Any) -> Slot:
            self.arrays.append(array)
            return Slot(len(self.arrays) - 1)

        def place_constant(array: Any) -> Slot:
            self.constants.add(len(self.arrays))
            return place(array)

        rng = np.random.default_rng(1)
        self.args, self.params = sample.make(rng, dtype, place, place_constant)
        if "dtype" in self.params and np.dtype(dtype) != np.float64:
            self.params["dtype"] = np.dtype(dtype)
        self.params |= {key: device for key in ("device", "source") if key in self.params}

    def tensors(self, change: Callable[[Any], Any] = lambda a: a) -> list[Any]:
        def one(i: int, array: Any) -> Any:
            array = np.asarray(change(array))
            t = (
                tc.from_numpy(array)
                if self.device == "cpu"
                else tc.tensor(array, device=self.device)
            )
            variable = array.dtype.kind == "f" and i not in self.constants
            return t.requires_grad_() if variable else t

        return [one(i, array) for i, array in enumerate(self.arrays)]

    def on(self, leaves: Sequence[Any], function: Any = None, convert: Any = None) -> list[Any]:
        """The outputs; of the twin in PyTorch, when that is given."""
        convert = convert or self.placed
        args = [filled(convert(arg), leaves) for arg in self.args]
        params = {name: filled(convert(value), leaves) for name, value in self.params.items()}
        out = (function or self.function)(*args, **params)
        if getattr(self.function, "outputs", 1) != 1 and function is None:
            return [out[i] for i in self.function.variable]  # the others are constants
        return list(out) if isinstance(out, (tuple, list)) else [out]

    def placed(self, value: Any) -> Any:
        """A parameter as the operation gets it: the arrays of an index are on the device, too."""
        if type(value) is tuple:
            return tuple(map(self.placed, value))
        host_array = isinstance(value, np.ndarray) and self.device != "cpu"
        return tc.tensor(value, device=self.device).array if host_array else value

    def inputs(self) -> list[Any]:
        """The arguments as arrays, for a VJP."""
        return [filled(arg, self.arrays) for arg in self.args]


def draw_like(x: Any, seed: int) -> Any:
    return (
        np.random.default_rng(seed)
        .standard_normal(x.shape)
        .astype(str(x.dtype).replace("torch.", ""))
    )


ORDERS = ("forward", "backward", "double backward")


def by_order(
    f: Any, leaves: list[Any], grad: Any, make: Any, with_gradients: bool = True
) -> Iterator[list[Any]]:
    """y, its gradients, and its second gradients in some random direction; None is zero."""
    outputs = f(leaves)
    yield outputs
    xs = [x for x in leaves if x.requires_grad]
    ys = [y for y in outputs if y.requires_grad]
    if not (xs and ys and with_gradients):
        return
    vs = [make(draw_like(y, 2)).requires_grad_() for y in ys]
    first = grad(ys, xs, vs, create_graph=True, allow_unused=True)
    yield list(first)
    reached = [g for g in first if g is not None and g.requires_grad]
    if reached:
        directions = [make(draw_like(g, 3)) for g in reached]
        yield list(grad(reached, [*xs, *vs], directions, allow_unused=True))


def derivatives(*args: Any, **options: Any) -> list[Any]:
    """The same in one list."""
    return [t for order in by_order(*args, **options) for t in order]


def ours(call: Call, change: Callable[[Any], Any] = lambda a: a) -> list[Any]:
    def make(array: Any) -> Any:
        return tc.tensor(array, device=call.device)

    return derivatives(call.on, call.tensors(change), tc.grad, make)
