"""Samples: how an operation says what to test it with.

A sample is a call with shapes in the place of arrays:

    sample((3, 4), (4,))                 # two float arrays
    sample((3, 4), ints(5, high=3), dim=0)   # a float array and five indices 0..2

Floats are drawn without ties and away from zero, so that neither a maximum nor a kink such as
ReLU's makes the derivative ambiguous.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np

from tinyconv.dtypes import float32
from tinyconv.errors import DTypeError, TinyconvError, not_a_tensor, not_taken


@dataclass(frozen=True)
class Draw:
    """An array still to be drawn."""

    shape: tuple[int, ...]
    low: float = -2.0
    high: float = 2.0
    kind: str = "float"  # "int" (low <= value < high), "bool", "constant": floats, no gradient

    def array(self, rng: np.random.Generator, dtype: Any) -> Any:
        if self.kind == "int":
            return rng.integers(int(self.low), int(self.high), self.shape)
        if self.kind == "bool":
            return rng.random(self.shape) < 0.5
        n = int(np.prod(self.shape))
        steps = (rng.permutation(n) + 0.5 + rng.uniform(-0.2, 0.2, n)) / max(n, 1)
        values = self.low + (self.high - self.low) * steps
        gap = 0.1 * (self.high - self.low) / max(n, 1)
        values[np.abs(values) < gap] = gap
        return values.reshape(self.shape).astype(dtype)


@dataclass(frozen=True)
class Sample:
    """One call: ``args`` (Draw, tuple of Draw, constant) and keyword ``params``."""

    args: tuple[Any, ...]
    params: dict[str, Any] = field(default_factory=dict)
    smooth: bool = True  # False: piecewise linear at places a numerical check would step over

    def make(
        self,
        rng: np.random.Generator,
        dtype: Any = np.float64,
        wrap: Callable[[Any], Any] = lambda a: a,
        constant: Callable[[Any], Any] | None = None,
    ) -> tuple[list[Any], dict[str, Any]]:
        """Draw the arrays; ``wrap`` turns each into what the callee takes (a Tensor, say).

        constant: the same for arrays of which no gradient is wanted (default: ``wrap``).
        """
        fixed = constant or wrap

        def realise(value: Any) -> Any:
            if isinstance(value, Draw):
                place = fixed if value.kind == "constant" else wrap
                return place(value.array(rng, dtype))
            if isinstance(value, np.ndarray):
                return fixed(value.copy())
            if isinstance(value, tuple) and any(isinstance(v, Draw) for v in value):
                return tuple(realise(v) for v in value)
            return value

        args = [realise(arg) for arg in self.args]
        return args, {name: realise(value) for name, value in self.params.items()}


def floats(*shape: int, low: float = -2.0, high: float = 2.0) -> Draw:
    """Floats in [low, high), no two equal."""
    return Draw(shape, low, high)


def constants(*shape: int, low: float = 0.5, high: float = 2.0) -> Draw:
    """Floats that are no variables: class weights, running statistics."""
    return Draw(shape, low, high, "constant")


def ints(*shape: int, high: int, low: int = 0) -> Draw:
    """Integers low <= i < high."""
    return Draw(shape, low, high, "int")


def bools(*shape: int) -> Draw:
    """Fair coins."""
    return Draw(shape, kind="bool")


def sample(*args: Any, smooth: bool = True, **params: Any) -> Sample:
    """A sample; a tuple of ints stands for a float array of that shape."""

    def draw(arg: Any) -> Any:
        is_shape = isinstance(arg, tuple) and all(type(n) is int for n in arg)
        return Draw(arg) if is_shape else arg

    return Sample(tuple(draw(arg) for arg in args), params, smooth)


def positive(*args: Any, **params: Any) -> Sample:
    """A sample whose floats lie in [0.5, 2.5): for log, sqrt and their like."""
    drawn = sample(*args, **params)
    return Sample(
        tuple(
            Draw(a.shape, 0.5, 2.5) if isinstance(a, Draw) and a.kind == "float" else a
            for a in drawn.args
        ),
        drawn.params,
    )


# --- functions made of operations: they need no VJP of their own, only samples

FUNCTIONS: dict[str, tuple[Callable[..., Any], list[Sample]]] = {}
F = TypeVar("F", bound=Callable[..., Any])


def plain(params: dict[str, Any]) -> dict[str, Any]:
    """The same with Python's numbers in the place of NumPy's scalars, which would widen float32."""
    for value in params.values():
        if isinstance(value, np.generic):
            return {name: _plain(value) for name, value in params.items()}
    return params


_harmless: set[type] = {type(None), bool, int, float, str, tuple}  # and others, as they are met


def _without_scalars(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same without NumPy's scalars, save the first: a 0-d array's number is computed on."""
    _harmless.update(kind for kind in map(type, args) if not issubclass(kind, np.generic))
    return (*args[:1], *map(_plain, args[1:]))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def function(*samples: Sample, name: str | None = None, takes: str = "any") -> Callable[[F], F]:
    """Register a function on Tensors under its name, with what to test it with.

    A list, say, where a sample has a Tensor gets an error that says so, not Python's.
    takes: as for `autograd.op`, of the arguments for which the samples draw floats; "floats" is
    met if one of them holds floats, for that one decides.
    """

    def register(f: F) -> F:
        key = name or f.__name__
        ruled = takes != "any"

        @functools.wraps(f)
        def registered(*args: Any, **params: Any) -> Any:
            if ruled and not (args and getattr(args[0], "dtype", None) is float32):
                _check_floats(key, f, samples, args, params)
            if not _harmless.issuperset(map(type, args)):
                args = _without_scalars(args)
            if params and not _harmless.issuperset(map(type, params.values())):
                params = plain(params)
            try:
                return f(*args, **params)
            except (AttributeError, TypeError) as error:
                if isinstance(error, TinyconvError):
                    raise
                for what, value in _operands(f, samples, args, params):
                    if not (hasattr(value, "requires_grad") or isinstance(value, (int, float))):
                        raise DTypeError(key, not_a_tensor(what, value, what)) from error
                raise

        FUNCTIONS[key] = (registered, list(samples))
        return cast(F, registered)

    return register


def _check_floats(
    key: str, f: Any, samples: Sequence[Sample], args: Sequence[Any], params: Mapping[str, Any]
) -> None:
    """DTypeError where no argument for which the samples draw floats holds any."""
    if params.get("dtype") is not None:  # says what to compute in
        return
    held = [
        (what, value)
        for what, value in _operands(f, samples, args, params, "float")
        if hasattr(value, "requires_grad")
    ]
    if held and all(value.dtype.kind in "biu" for _, value in held):
        raise not_taken(key, held[0][0], held[0][1].dtype)


def _operands(
    f: Callable[..., Any],
    samples: Sequence[Sample],
    args: Sequence[Any],
    params: Mapping[str, Any],
    kind: str = "",
) -> Iterator[tuple[str, Any]]:
    """What a call passes where a sample has an array, with the argument's name.

    kind: only where all samples that have an array draw this kind.
    """
    parameters = list(inspect.signature(f).parameters.values())
    ends = len(parameters) - 1
    given = [(parameters[min(i, ends)], i, value) for i, value in enumerate(args)]
    names = {p.name: i for i, p in enumerate(parameters)}
    given += [(parameters[names[k]], names[k], v) for k, v in params.items() if k in names]
    for parameter, i, value in given:
        drawn = [s.args[i] if i < len(s.args) else s.params.get(parameter.name) for s in samples]
        left_out = value is None and any(d is None for d in drawn)
        if kind and {getattr(d, "kind", "") for d in drawn if d is not None} != {kind}:
            continue
        if not left_out and any(isinstance(d, (Draw, np.ndarray)) for d in drawn):
            several = parameter.kind is parameter.VAR_POSITIONAL
            yield f"{parameter.name}[{i - ends}]" if several else parameter.name, value
