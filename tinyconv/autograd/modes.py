"""Are operations recorded?  Switches for a block, a function or from here on."""

from __future__ import annotations

from typing import Any

from tinyconv.context import Setting, context


class grad_mode(Setting):
    """Record operations, or do not, inside a ``with`` block or a decorated function."""

    attribute = "grad_enabled"


class _WithoutArguments(grad_mode):
    """``@tc.no_grad`` without parentheses decorates, too."""

    def __new__(cls, function: Any = None) -> Any:
        return super().__new__(cls) if function is None else cls()(function)


class no_grad(_WithoutArguments):
    """Nothing inside is recorded: for evaluation and for writing parameters."""

    def __init__(self) -> None:
        super().__init__(False)


class enable_grad(_WithoutArguments):
    """Record again inside a `no_grad` block."""

    def __init__(self) -> None:
        super().__init__(True)


class inference_mode(grad_mode):
    """PyTorch's other name of `no_grad`."""

    def __new__(cls, mode: Any = True) -> Any:
        return cls()(mode) if callable(mode) else super().__new__(cls)

    def __init__(self, mode: bool = True) -> None:
        super().__init__(not mode)


class set_grad_enabled(grad_mode):
    """Record from here on, or do not; as a ``with`` block or a decorator, only inside."""

    def __init__(self, mode: bool) -> None:
        super().__init__(bool(mode))
        # What to put back in this thread, should the object turn out to be for a block only.
        self._acted = [(context.__dict__, context.grad_enabled)]
        context.grad_enabled = self.value

    def _take_back(self) -> None:
        while self._acted and self._acted[0][0] is context.__dict__:
            context.grad_enabled = self._acted.pop()[1]

    def __enter__(self) -> None:
        self._take_back()
        super().__enter__()

    def __call__(self, function: Any) -> Any:
        self._take_back()
        return super().__call__(function)


def is_grad_enabled() -> bool:
    return context.grad_enabled
