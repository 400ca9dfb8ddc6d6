"""Hooks that see the gradients of a module's inputs and outputs.

Both sides of the module go through an identity whose backward is where the hooks run: behind the
output's, before the module's own backward, and behind the inputs', after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tinyconv.autograd import Function, is_tensor
from tinyconv.errors import DTypeError

Gradients = tuple[Any, ...]


class _Identity(Function):
    """The tensors themselves; their gradients go through ``seen``."""

    @staticmethod
    def forward(ctx: Any, seen: Callable[[Gradients], Gradients], *tensors: Any) -> Any:
        ctx.seen = seen
        return tuple(tensor.detach() for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return None, *ctx.seen(grads)


class Boundary:
    """The two sides of one call of a module with backward hooks."""

    def __init__(self, module: Any, before: Sequence[Any], after: Sequence[Any]) -> None:
        self.module = module
        self.before, self.after = list(before), list(after)
        self.count = 0  # of the arguments
        self.variable: list[int] = []  # those that get a gradient
        self.outputs: Gradients | None = None

    def enter(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments, as the module gets them."""
        self.count = len(args)
        self.variable = [i for i, x in enumerate(args) if is_tensor(x) and x.requires_grad]
        if not self.variable:
            return args
        passed = _Identity.apply(self._at_inputs, *(args[i] for i in self.variable))
        made = list(args)
        for i, x in zip(self.variable, passed, strict=True):
            made[i] = x
        return tuple(made)

    def leave(self, output: Any) -> Any:
        """The output, as the caller gets it: a Tensor, or a tuple with Tensors in it."""
        outputs = output if isinstance(output, tuple) else (output,)
        places = [i for i, y in enumerate(outputs) if is_tensor(y) and y.requires_grad]
        if not places:
            return output
        count = len(outputs)

        def at_outputs(grads: Gradients) -> Gradients:
            full = self._spread(grads, places, count)
            for hook in self.before:
                full = _replaced("full backward pre hook", hook(self.module, full), full)
            self.outputs = full
            if not self.variable:
                self._run((None,) * self.count)
            return tuple(full[i] for i in places)

        passed = _Identity.apply(at_outputs, *(outputs[i] for i in places))
        made = list(outputs)
        for i, y in zip(places, passed, strict=True):
            made[i] = y
        return tuple(made) if isinstance(output, tuple) else made[0]

    def _at_inputs(self, grads: Gradients) -> Gradients:
        found = self._run(self._spread(grads, self.variable, self.count))
        return tuple(found[i] for i in self.variable)

    def _run(self, inputs: Gradients) -> Gradients:
        if self.outputs is None:  # not past the output: a second-order walk through the inside
            return inputs
        outputs, self.outputs = self.outputs, None
        for hook in self.after:
            replaced = hook(self.module, inputs, outputs)
            inputs = _replaced("full backward hook", replaced, inputs)
        return inputs

    @staticmethod
    def _spread(grads: Gradients, places: list[int], count: int) -> Gradients:
        full: list[Any] = [None] * count
        for i, g in zip(places, grads, strict=True):
            full[i] = g
        return tuple(full)


def _replaced(what: str, found: Any, before: Gradients) -> Gradients:
    """What a hook returned in the place of the gradients, or these."""
    if found is None:
        return before
    found = found if isinstance(found, tuple) else (found,)
    if len(found) != len(before):
        said = f"it returned {len(found)} gradients, got {len(before)}"
        raise DTypeError(what, said)
    return found
