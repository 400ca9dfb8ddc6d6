"""Modules that hold modules: in a row, in a list, by name."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from itertools import groupby
from typing import Any, Self

from tinyconv.nn.module import Module
from tinyconv.nn.norm import fuses, norm_relu


class _Numbered(Module):
    """Children named "0", "1", "2", ..."""

    _modules: dict[str, Module]  # type: ignore[assignment]  # never None here

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def _name(self, index: int) -> str:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range: there are {len(self)} modules")
        return list(self._modules)[index]

    def _renumber(self, modules: Iterable[Module]) -> None:
        for name in list(self._modules):
            delattr(self, name)
        for module in modules:
            self.append(module)

    def __getitem__(self, index: int | slice) -> Any:
        return self._part(index) if isinstance(index, slice) else self._modules[self._name(index)]

    def _part(self, index: slice) -> Module:
        return type(self)(*list(self)[index])

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, self._name(index), module)

    def __delitem__(self, index: int | slice) -> None:
        modules = list(self)
        del modules[index]
        self._renumber(modules)

    def append(self, module: Module) -> Self:
        """Add a module at the end."""
        self.register_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add several at the end."""
        for module in modules:
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Self:
        """Put a module before position ``index``; the later ones are renumbered."""
        modules = list(self)
        modules.insert(index, module)
        self._renumber(modules)
        return self


def _is_row(given: Any) -> bool:
    """Whether something other than a module holds modules: a list, a generator."""
    return isinstance(given, Iterable) and not isinstance(given, Module)


class Sequential(_Numbered):
    """Modules in a row: each gets the output of the one before.

    ``Sequential(a, b)`` names them "0" and "1"; ``Sequential({"conv": a, "act": b})`` as it says.
    """

    def __init__(self, *modules: Any) -> None:
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            for name, module in modules[0].items():
                self.register_module(name, module)
        elif len(modules) == 1 and _is_row(modules[0]):
            raise TypeError("Sequential takes modules, not one "
                            f"{type(modules[0]).__name__} of them: nn.Sequential(*layers)")
        else:
            self.extend(modules)

    def _part(self, index: slice) -> Module:
        return type(self)(dict(list(self._modules.items())[index]))  # PyTorch keeps the names here

    def forward(self, input: Any) -> Any:
        modules = iter(self._modules.values())
        module = next(modules, None)
        while module is not None:
            following = next(modules, None)
            if following is not None and fuses(module, following):
                input = norm_relu(module, following, input)
                following = next(modules, None)
            else:
                input = module(input)
            module = following
        return input


class ModuleList(_Numbered):
    """A list of modules whose parameters are found; it has no forward of its own."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)

    def forward(self, *_args: Any, **_kwargs: Any) -> Any:
        raise NotImplementedError("ModuleList only holds modules: for layer in self.layers: "
                                  "x = layer(x), or use nn.Sequential(*layers)")

    def _part(self, index: slice) -> Module:
        return type(self)(list(self)[index])

    def __repr__(self) -> str:
        """As PyTorch: equal neighbours on one line, ``(0-2): 3 x ReLU()``."""
        if not len(self):
            return f"{type(self).__name__}()"
        lines, start = [], 0
        for text, same in groupby(map(repr, self)):
            n = len(list(same))
            name = f"({start}-{start + n - 1}): {n} x " if n > 1 else f"({start}): "
            lines.append((name + text).replace("\n", "\n  "))
            start += n
        return "\n  ".join([f"{type(self).__name__}(", *lines]) + "\n)"


class ModuleDict(Module):
    """Modules by name, in the order of insertion; it has no forward of its own."""

    _modules: dict[str, Module]  # type: ignore[assignment]

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        super().__init__()
        self.update(modules or {})

    def __getitem__(self, name: str) -> Module:
        return self._modules[name]

    def __setitem__(self, name: str, module: Module) -> None:
        self.register_module(name, module)

    def __delitem__(self, name: str) -> None:
        self.pop(name)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, name: str) -> bool:
        return name in self._modules

    def keys(self) -> KeysView[str]:
        """The names."""
        return self._modules.keys()

    def values(self) -> ValuesView[Module]:
        """The modules."""
        return self._modules.values()

    def items(self) -> ItemsView[str, Module]:
        """(name, module) pairs."""
        return self._modules.items()

    def update(self, modules: Mapping[str, Module]) -> None:
        """Add modules, replacing those of the same name."""
        for name, module in modules.items():
            self[name] = module

    def pop(self, name: str) -> Module:
        """Take a module out and return it."""
        module = self._modules[name]
        delattr(self, name)
        return module
