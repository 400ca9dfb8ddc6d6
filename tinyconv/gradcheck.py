"""Numerical gradient checks along random directions, to any order.

The gradient of F is checked in its own right, then as a function: with F' (inputs, v) = v^T J_F,
order 2 checks the gradient of F', order 3 that of F'', with respect to the inputs and to v.  A
direction u costs two evaluations however many numbers there are:

    <u, grad <v, F(x)>>  =  (<v, F(x + eps u)> - <v, F(x - eps u)>) / (2 eps)  +  O(eps^2)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinyconv.autograd import enable_grad, grad, is_tensor, wrap
from tinyconv.backend import Array, backend_of
from tinyconv.dtypes import float64
from tinyconv.errors import GraphError, TinyconvError
from tinyconv.tensor import Tensor

Function = Callable[..., list[Tensor]]  # Tensors in, those outputs that are floats out


class GradcheckError(TinyconvError, AssertionError):
    """A gradient and its numerical estimate differ."""


def gradcheck(
    fn: Callable[..., Any],
    inputs: Tensor | Sequence[Any],
    order: int = 1,
    eps: float = 1e-6,
    atol: float = 1e-6,
    rtol: float = 1e-5,
    directions: int = 2,
    seed: int = 0,
) -> bool:
    """Compare the gradients of ``fn(*inputs)`` up to ``order`` with central differences.

    inputs: every Tensor that requires grad is checked; floats are converted to float64.
    fn returns a Tensor or a sequence of Tensors, the same numbers for the same inputs.

    Returns True, or raises GradcheckError that names the function, the order, the input and both
    numbers.  Also checked: that two calls agree, that everything is computed in float64, that no
    forward and no VJP writes into what it was given, that the two ways through each VJP agree (on
    arrays, and with create_graph), and that no VJP reads a value that its underscore promises not
    to read.  What it does not see: an error away from the inputs given.
    """
    args: list[Any] = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    name = getattr(fn, "__name__", type(fn).__name__)
    checked = [i for i, arg in enumerate(args) if is_tensor(arg) and arg.requires_grad]
    if not checked:
        raise GraphError(name, "gradcheck: no input requires grad; call x.requires_grad_()")
    args = [a.detach().double() if is_tensor(a) and a.is_floating_point() else a for a in args]
    function = _function_of(fn, args, checked, name)
    rng = np.random.default_rng(seed)
    points = [args[i].array for i in checked]
    names = [f"input {i}" for i in checked]
    with enable_grad():
        for n in range(1, order + 1):
            check = _Check(function, points, rng, f"gradcheck, order {n}", name)
            check.deterministic()
            check.repeatable()
            check.both_paths()
            check.promises(n)
            for i, label in enumerate(names):
                for _ in range(directions):
                    check.direction(i, label, eps, atol, rtol)
            function = _gradient_of(function, len(points))
            names = names + [f"grad_output {i}" for i in range(len(check.vs))]
            points = points + check.vs
    return True


def _function_of(
    fn: Callable[..., Any], args: list[Any], checked: list[int], name: str
) -> Function:
    """``fn`` of the checked arguments alone; of its results, those that are floats."""

    def function(*xs: Tensor) -> list[Tensor]:
        filled = dict(enumerate(args)) | dict(zip(checked, xs, strict=True))
        before = [a.array.copy() if is_tensor(a) else None for a in filled.values()]
        out = fn(*filled.values())
        for i, (arg, old) in enumerate(zip(filled.values(), before, strict=True)):
            if old is not None and not _same(arg.array, old):
                raise GradcheckError(
                    name,
                    f"gradcheck: the function overwrote its input {i}; compute a new array "
                    "(y = 2 * x in the place of x *= 2), or a copy first: x.copy()",
                )
        outs = out if isinstance(out, (tuple, list)) else [out]
        found = [y for y in outs if is_tensor(y) and y.is_floating_point()]
        _check_dtypes(name, "output", found)
        return found

    return function


def _same(a: Array, b: Array) -> bool:
    """The same numbers; NaN is the same as NaN."""
    return bool(((a == b) | (a != a) & (b != b)).all())


def _check_dtypes(name: str, what: str, found: Sequence[Tensor]) -> None:
    for i, y in enumerate(found):
        if y.dtype != float64:
            raise GradcheckError(
                name,
                f"gradcheck: {what} {i} is {y.dtype} where the inputs are float64: numerical "
                "differences need float64 all the way. Do not convert inside, "
                "x.astype(np.float32); a constant takes its dtype from x: a.astype(x.dtype)",
            )


def _gradient_of(function: Function, n: int) -> Function:
    """The function (x_1..x_n, v_1..v_m) -> the n gradients of sum <v, function(x)>."""

    def gradient(*args: Tensor) -> list[Tensor]:
        return _gradients(function, args[:n], args[n:], create_graph=True)

    return gradient


def _gradients(
    function: Function, xs: Sequence[Tensor], vs: Sequence[Tensor], create_graph: bool,
    of: Sequence[int] | None = None,
) -> list[Tensor]:
    """Gradients with zeros in the place of None: what does not depend on x has derivative 0.

    of: the positions of the inputs whose gradients are wanted (default: all).
    """
    reached = [(y, v) for y, v in zip(function(*xs), vs, strict=True) if y.requires_grad]
    wanted = list(xs) if of is None else [xs[i] for i in of]
    if not reached:
        return [_zeros(x) for x in wanted]
    ys, seeds = zip(*reached, strict=True)
    found = grad(ys, wanted, seeds, create_graph=create_graph, allow_unused=True)
    return [_zeros(x) if g is None else g for x, g in zip(wanted, found, strict=True)]


def _zeros(x: Tensor) -> Tensor:
    return wrap(backend_of(x.array).xp.zeros_like(x.array))


class _Check:
    """One function at one point, with random weights v for its outputs."""

    def __init__(
        self,
        function: Function,
        points: list[Array],
        rng: np.random.Generator,
        title: str,
        name: str,
    ) -> None:
        self.function, self.points, self.rng = function, points, rng
        self.title, self.name = title, name
        self.ys = [y.array for y in function(*self._leaves())]
        if not self.ys:
            self._fail("the function returned no float Tensor: there is no gradient to check")
        self.vs = [self._draw(y) for y in self.ys]
        self.grads = self._analytic(create_graph=False)

    def _draw(self, like: Array) -> Array:
        return backend_of(like).xp.asarray(self.rng.standard_normal(like.shape), dtype=float64)

    def _leaves(self, moved: int = -1, step: Any = 0.0) -> list[Tensor]:
        moved_to = [x + step if i == moved else x for i, x in enumerate(self.points)]
        return [wrap(backend_of(x).xp.asarray(x)).requires_grad_() for x in moved_to]

    def _analytic(self, create_graph: bool) -> list[Array]:
        xs, vs = self._leaves(), [wrap(v) for v in self.vs]
        given = [x.array for x in (*xs, *vs)]
        before = [x.copy() for x in given]
        grads = _gradients(self.function, xs, vs, create_graph)
        if not all(map(_same, given, before)):
            self._fail(
                "a VJP overwrote what it was given, g or a value that it reads; compute a new "
                "array (g * x in the place of g *= x)"
            )
        _check_dtypes(self.name, "gradient", grads)
        return [g.array for g in grads]

    def _fail(self, message: str) -> None:
        raise GradcheckError(self.name, f"{self.title}, {message}")

    def deterministic(self) -> None:
        for y, again in zip(self.ys, self.function(*self._leaves()), strict=True):
            if not bool(((y == again.array) | (y != y)).all()):
                self._fail("the function is not deterministic: two calls on the same inputs differ")

    def repeatable(self) -> None:
        """Two walks over one graph agree unless a VJP writes into what the graph keeps."""
        xs, vs = self._leaves(), [wrap(v.copy()) for v in self.vs]
        ys = self.function(*xs)
        reached = [(y, v) for y, v in zip(ys, vs, strict=True) if y.requires_grad]
        if not reached:
            return
        outs, seeds = zip(*reached, strict=True)
        for _ in range(2):
            found = grad(outs, xs, seeds, retain_graph=True, allow_unused=True)
            self._compare(
                [None if g is None else g.array for g in found],
                "between two walks over one graph: a VJP overwrites g or what it reads, or is "
                "not deterministic",
            )

    def both_paths(self) -> None:
        self._compare(self._analytic(create_graph=True), "between create_graph=False and True")

    def promises(self, order: int) -> None:
        """Inputs that are no leaves: then nothing is kept but what VJPs say they read.

        At first order each input alone, too: what one VJP reads is there for the others else.
        """
        everything = range(len(self.points))
        for wanted in [everything, *([i] for i in everything if order == 1)]:
            for create_graph in (False, True):
                try:
                    found = self._not_as_leaves(wanted, create_graph)
                except TinyconvError as error:
                    raise GradcheckError(self.name, f"{self.title}, {error}") from error
                self._compare(
                    [found.get(i) for i in everything],
                    f"where only input {wanted[0]} requires grad, or where it is no leaf: does a "
                    "VJP read a value whose name starts with an underscore?",
                )

    def _not_as_leaves(self, wanted: Sequence[int], create_graph: bool) -> dict[int, Array]:
        xs = [
            leaf.clone() if i in wanted else leaf.detach() for i, leaf in enumerate(self._leaves())
        ]
        vs = [wrap(v) for v in self.vs]
        found = _gradients(self.function, xs, vs, create_graph, wanted)
        return {i: g.array for i, g in zip(wanted, found, strict=True)}

    def _compare(self, found: Sequence[Array | None], where: str) -> None:
        for i, (a, b) in enumerate(zip(self.grads, found, strict=True)):
            if b is None:
                continue
            gap = float(abs(a - b).max()) if a.size else 0.0
            if not gap <= 1e-9 * (1.0 + (float(abs(a).max()) if a.size else 0.0)):
                self._fail(f"gradient {i} differs by {gap:.3g} {where}")

    def direction(self, i: int, label: str, eps: float, atol: float, rtol: float) -> None:
        u = self._draw(self.points[i])
        analytic = float((u * self.grads[i]).sum())
        plus, minus = (
            self.function(*self._leaves(i, eps * u)),
            self.function(*self._leaves(i, -eps * u)),
        )
        difference = sum(
            float((v * (p.array - m.array)).sum())
            for v, p, m in zip(self.vs, plus, minus, strict=True)
        )
        numerical = difference / (2 * eps)
        if not abs(analytic - numerical) <= atol + rtol * abs(numerical):
            self._fail(
                f"{label} {self.points[i].shape}: along a random direction the gradient is "
                f"{analytic:.10g}, numerically {numerical:.10g}"
            )
