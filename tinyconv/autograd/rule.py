"""One line of the table: a forward function and its derivatives."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from tinyconv.autograd.operands import as_number
from tinyconv.samples import Sample

Vjp: TypeAlias = Callable[..., Any]

# What `dim` may be where it is annotated so: several axes would have another meaning, or none.
ONE_AXIS: dict[str, tuple[type, ...]] = {"int": (int,), "int | None": (int, type(None))}


class Rule:
    """A forward function, one vector-Jacobian product (VJP) per input, and samples to test it.

    outputs: how many arrays the forward returns, in a tuple if more than one.  constants: which of
    them are constants to the derivative, such as a batch's mean or the places of maxima.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        name: str,
        *,
        same: Sequence[int] | None,
        differentiable: bool,
        samples: Sequence[Sample],
        takes: str = "any",
        outputs: int = 1,
        constants: Sequence[int] = (),
    ) -> None:
        self.forward = forward
        self.name = name
        self.differentiable = differentiable
        self.outputs = outputs
        self.variable = tuple(i for i in range(outputs) if i not in constants)  # have a gradient
        self.takes = takes
        self.ruled = takes != "any"
        self.number = as_number  # how a Python number becomes an operand of integers
        self.float32_number = False  # does it count in float32 beside float16?
        self.vjps: tuple[Vjp | None, ...] = ()
        self.fused: Vjp | None = None
        self.samples = list(samples)
        self.__doc__ = forward.__doc__
        self.__name__ = name
        parameters = inspect.signature(forward).parameters.values()
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self.operands = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        self.arity = len(self.operands)
        keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
        self.keywords = [p.name for p in keywords]
        self.__signature__ = _as_called(parameters)
        self.defaults = {p.name: p.default for p in keywords if p.default is not p.empty}
        axis = [inspect.formatannotation(p.annotation) for p in keywords if p.name == "dim"]
        self.axis = ONE_AXIS.get(axis[0]) if axis else None
        self._same = same
        self.same: Sequence[int] = same or ()
        self.agree = len(self.same) > 1
        self.apart = self.arity > max(len(self.same), 1)

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def defvjp(
        self, *vjps: Vjp | None, fused: Vjp | None = None, samples: Sequence[Sample] = ()
    ) -> None:
        """One VJP per array input (None: no gradient): ``lambda g, y, *inputs, **params: ...``.

        TypeError where one is missing or cannot take these arguments.

        g is the gradient of the output y.  Name an argument with a leading underscore when only
        its shape and dtype are read: its values are then not kept for the backward pass.
        Of several outputs each is an argument of its own in the place of y, and g is the tuple of
        the gradients of those that are no constants: the one gradient where there is one such.
        A variadic operation has one VJP, ``lambda i, g, y, *inputs, **params``, for input i.
        Of a function of one array, without keywords, it may be an operation of (g, y).

        fused: all gradients of a first-order backward at once, as a tuple, by a kernel on arrays:
        ``(g, y, *inputs, **params)``.  Unlike the VJPs, which serve every higher order, it may
        read outputs that are constants, though they depend on the inputs.
        """
        for vjp in vjps:
            fits = self.arity == 1 and self.outputs == 1 and not self.keywords
            if isinstance(vjp, Rule) and not (fits and vjp.arity == 2):
                raise TypeError(
                    f"{self.name}: {vjp.name} cannot be its VJP; that takes an operation of (g, y) "
                    "and a function of one array. Write lambda g, y, *inputs, **params: ..."
                )
        self._check_vjps(vjps)
        self.vjps = vjps
        self.fused = fused
        self.samples += samples
        if self._same is None:
            self.same = tuple(i for i, vjp in enumerate(vjps) if vjp is not None)
        self.agree = len(self.same) > 1 or self.variadic
        self.apart = self.arity > max(len(self.same), 1)  # some may have a dtype of their own

    def test_with(self, *samples: Sample) -> None:
        """More samples; apart from the rules, where a table of rules is to be read."""
        self.samples += samples

    def _check_vjps(self, vjps: Sequence[Vjp | None]) -> None:
        wanted = 1 if self.variadic else self.arity
        if not self.differentiable:
            raise TypeError(f"{self.name} is declared differentiable=False: it takes no VJP")
        if len(vjps) != wanted:
            raise TypeError(
                f"{self.name}: {len(vjps)} VJP{'s' * (len(vjps) != 1)} given, need {wanted}: one "
                f"per array input ({', '.join(self.operands) or 'variadic: one for all'}), None "
                "for an input that has no gradient"
            )
        if not any(vjps):
            raise TypeError(
                f"{self.name}: no input has a VJP. To make the result a constant to the "
                "derivative, declare it: @tc.op(differentiable=False), without defvjp"
            )
        usage = self.usage()
        for i, vjp in enumerate(vjps):
            if vjp is None or isinstance(vjp, Rule):
                continue
            if not callable(vjp):
                raise TypeError(f"{self.name}: its VJP {i} is a {type(vjp).__name__}; {usage}")
            try:
                takes = inspect.signature(vjp)
            except ValueError:  # of a function written in C nothing is known
                raise TypeError(
                    f"{self.name}: its VJP {i} has no signature to read; {usage}"
                ) from None
            given = ["g", *self.returned, *self.operands]
            if self.variadic:
                given = ["i", "g", *self.returned] + ["x"] * 3
            try:
                takes.bind(*given, **dict.fromkeys(self.keywords))
            except TypeError as error:
                said = f"{self.name}: its VJP {i} takes {takes}: {error}; {usage}"
                raise TypeError(said) from None

    @property
    def returned(self) -> list[str]:
        """Names for the outputs."""
        return ["y"] if self.outputs == 1 else [f"y{i}" for i in range(self.outputs)]

    def usage(self) -> str:
        """How to write a VJP of this operation."""
        names = ["g", *self.returned, *self.operands]
        if self.variadic:
            names = ["i", "g", *self.returned, "*inputs"]
        keywords = ["*", *self.keywords] if self.keywords and not self.variadic else self.keywords
        return f"write it as lambda {', '.join([*names, *keywords])}: ..."


def _as_called(parameters: Iterable[inspect.Parameter]) -> inspect.Signature:
    """How an operation is called: its metadata by name or by position, as PyTorch's functions."""
    parameters = [p.replace(annotation=p.empty) for p in parameters]
    if not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        parameters = [p.replace(kind=p.POSITIONAL_OR_KEYWORD) for p in parameters]
    return inspect.Signature(parameters)
