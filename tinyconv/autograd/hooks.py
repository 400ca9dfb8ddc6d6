"""Hooks: functions that see a gradient on its way, and may replace it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tinyconv.autograd.graph import is_tensor, whole, wrap
from tinyconv.errors import ShapeError


class RemovableHandle:
    """What registering a hook returns: ``remove()`` takes the hook out again."""

    def __init__(self, hooks: list[Any], hook: Any) -> None:
        self.hooks, self.hook = hooks, hook
        hooks.append(hook)

    def remove(self) -> None:
        if self.hook in self.hooks:
            self.hooks.remove(self.hook)


def run_hooks(hooks: Iterable[Callable[[Any], Any]], g: Any) -> Any:
    plain = not is_tensor(g)
    for hook in list(hooks):  # a hook may remove itself
        tensor = wrap(whole(g)) if plain else g
        replaced = hook(tensor)
        if replaced is not None:
            if not is_tensor(replaced) or (replaced.shape, replaced.dtype) != (g.shape, g.dtype):
                what = f"{getattr(replaced, 'shape', '')} {getattr(replaced, 'dtype', '')}"
                raise ShapeError(
                    "hook",
                    f"it returned a {type(replaced).__name__} {what}, need {g.shape} {g.dtype}",
                )
            g = replaced.array if plain else replaced
    return g
