"""The table of operations: `@op` puts a function into it, `Op.defvjp` adds the derivatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

from tinyconv.autograd.call import Op
from tinyconv.samples import Sample

OPS: dict[str, Op] = {}  # every operation there is


@overload
def op(forward: Callable[..., Any], /) -> Op: ...
@overload
def op(
    *,
    name: str | None = None,
    same: Sequence[int] | None = None,
    differentiable: bool = True,
    samples: Sequence[Sample] = (),
    takes: str = "any",
    outputs: int = 1,
    constants: Sequence[int] = (),
) -> Callable[[Callable[..., Any]], Op]: ...
def op(
    forward: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    same: Sequence[int] | None = None,
    differentiable: bool = True,
    samples: Sequence[Sample] = (),
    takes: str = "any",
    outputs: int = 1,
    constants: Sequence[int] = (),
) -> Op | Callable[[Callable[..., Any]], Op]:
    """Make an operation of a function on arrays and register it in OPS.

    The function takes arrays as positional arguments and everything else as keywords; what it
    returns may share their memory.  same: the positions of the inputs that must agree in dtype
    (default: those with a VJP).  samples: what to test it with.  differentiable=False: the result
    is a constant to the derivative; without it, a float result needs VJPs (`Op.defvjp`).

    takes: the element types of those inputs, if they are Tensors.  "any"; "floats": integers and
    booleans raise a DTypeError; "promoted": they are computed as float32; "numbers": no booleans;
    "alike": no booleans, nor integers of two dtypes.

    outputs: how many arrays the function returns, a tuple if more than one.  constants: those of
    them that have no derivative.

    ValueError if another operation has the name; the same function may be defined again.
    """

    def register(function: Callable[..., Any]) -> Op:
        made = Op(
            function, name or function.__name__,
            same=same, differentiable=differentiable, samples=samples, takes=takes,
            outputs=outputs, constants=constants,
        )
        _check_free(made)
        OPS[made.name] = made
        return made

    return register if forward is None else register(forward)


def _check_free(made: Op) -> None:
    """ValueError if the name is taken, save by an earlier version of the same function."""
    taken = OPS.get(made.name)
    if taken is None:
        return
    old, new = taken.forward, made.forward
    if old is not new and (old.__module__, old.__qualname__) != (new.__module__, new.__qualname__):
        raise ValueError(
            f"{made.name} is the name of an operation already (of {old.__module__}); choose "
            f"another: @tc.op(name='my_{made.name}')"
        )
