"""Parameters that are computed from others: a weight of norm 1, a symmetric one, one of rank 2.

Names, rules and state dicts are torch.nn.utils.parametrize's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tinyconv.autograd import is_tensor, no_grad
from tinyconv.errors import DTypeError, ShapeError
from tinyconv.nn.containers import ModuleDict, ModuleList
from tinyconv.nn.module import Module, Parameter
from tinyconv.tensor import Tensor

_cache: list[dict[tuple[int, str], Tensor] | None] = [None]  # of the innermost `cached` block


class ParametrizationList(ModuleList):
    """The parametrizations of one tensor, in order, and what the first of them is computed from:

    the parameter ``original``, or ``original0``, ``original1``, ... of one that takes several.
    """

    def __init__(self, modules: list[Module], value: Tensor, unsafe: bool) -> None:
        super().__init__(modules)
        self.unsafe = unsafe
        originals = _inverse(modules, value)
        self.is_tensor = is_tensor(originals)
        self.ntensors = 1 if self.is_tensor else len(originals)
        named = {"original": originals} if self.is_tensor else {
            f"original{i}": x for i, x in enumerate(originals)
        }  # fmt: skip
        for name, x in named.items():
            if isinstance(value, Parameter):
                self.register_parameter(name, Parameter(x.detach(), value.requires_grad))
            else:
                self.register_buffer(name, x)

    def _originals(self) -> list[Tensor]:
        if self.is_tensor:
            return [self.original]
        return [getattr(self, f"original{i}") for i in range(self.ntensors)]

    def forward(self) -> Tensor:
        """The tensor."""
        first, *others = self
        x = first(*self._originals())
        for module in others:
            x = module(x)
        return x

    def right_inverse(self, value: Tensor) -> None:
        """Set the originals so that the tensor is this value, as far as it can be."""
        found = _inverse(list(self), value)
        with no_grad():
            for held, x in zip(self._originals(), [found] if self.is_tensor else found,
                               strict=True):  # fmt: skip
                held.data = x.detach().clone()


def _inverse(modules: list[Module], value: Tensor) -> Any:
    """Back through all parametrizations; one without ``right_inverse`` is taken as it is."""
    found: Any = value.detach()
    with no_grad():
        for module in reversed(modules):
            if hasattr(module, "right_inverse"):
                found = module.right_inverse(found)
    return found


def register_parametrization(
    module: Module, tensor_name: str, parametrization: Module, *, unsafe: bool = False
) -> Module:
    """Let ``module.tensor_name`` be ``parametrization(original)``; returns the module.

    What was there becomes the original: through ``parametrization.right_inverse(value)``, if there
    is one.  A second parametrization of the same tensor comes after the first.  The original is
    the parameter from here on: ``module.parametrizations.weight.original``.
    ShapeError or DTypeError if the parametrization changes shape or dtype; unsafe=True lets it.
    AttributeError for a name that is no parameter or buffer.
    """
    if not isinstance(parametrization, Module):
        kind = type(parametrization).__name__
        raise DTypeError("register_parametrization", f"{kind} is no Module with a forward")
    if is_parametrized(module, tensor_name):
        held = module.parametrizations[tensor_name]
        value, modules = getattr(module, tensor_name), [*held, parametrization]
        made = ParametrizationList(modules, _as(value, held), held.unsafe or unsafe)
        module.parametrizations[tensor_name] = made
        _check(module, tensor_name, value, made)
        return module
    tables: tuple[dict[str, Any], ...] = module._parameters, module._buffers
    for table in tables:
        if isinstance(table.get(tensor_name), Tensor):
            value = table[tensor_name]
            made = ParametrizationList([parametrization], value, unsafe)
            _check(module, tensor_name, value, made)
            del table[tensor_name]
            if not is_parametrized(module):
                module.parametrizations = ModuleDict()
            module.parametrizations[tensor_name] = made
            _compute(module)
            return module
    raise AttributeError(
        f"register_parametrization: {type(module).__name__} has no parameter or buffer "
        f"{tensor_name!r}"
    )


def _as(value: Tensor, held: ParametrizationList) -> Tensor:
    """A parameter where the originals are parameters."""
    original = held._originals()[0]
    if isinstance(original, Parameter):
        return Parameter(value.detach(), original.requires_grad)
    return value.detach()


def _check(module: Module, name: str, value: Tensor, made: ParametrizationList) -> None:
    if made.unsafe:
        return
    with no_grad():
        y = made()
    what = f"{type(module).__name__}.{name}"
    if y.shape != value.shape:
        raise ShapeError(
            "register_parametrization",
            f"{what} has shape {value.shape}, parametrized {y.shape}; unsafe=True lets it",
        )
    if y.dtype != value.dtype:
        raise DTypeError(
            "register_parametrization",
            f"{what} is {value.dtype}, parametrized {y.dtype}; unsafe=True lets it",
        )


def _compute(module: Module) -> None:
    """Give the module a class of its own, in which the parametrized names are computed."""
    plain = getattr(type(module), "_plain_class", type(module))
    names = list(module._modules.get("parametrizations") or ())
    if not names:
        del module.parametrizations
        module.__class__ = plain
        return
    content = {name: _computed(name) for name in names}
    module.__class__ = type(f"Parametrized{plain.__name__}", (plain,), {
        "_plain_class": plain, "__module__": plain.__module__, **content,
    })  # fmt: skip


def _computed(name: str) -> property:
    def read(self: Any) -> Tensor:
        kept, key = _cache[0], (id(self), name)
        if kept is None:
            return self.parametrizations[name]()
        if key not in kept:
            kept[key] = self.parametrizations[name]()
        return kept[key]

    def write(self: Any, value: Tensor) -> None:
        if not is_tensor(value):
            raise DTypeError(f"{type(self).__name__}.{name}", "a Tensor may be assigned to it")
        self.parametrizations[name].right_inverse(value)

    return property(read, write)


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Is this tensor computed, or any (None)?"""
    held = module._modules.get("parametrizations")
    if not isinstance(held, ModuleDict):
        return False
    return len(held) > 0 if tensor_name is None else tensor_name in held


def remove_parametrizations(
    module: Module, tensor_name: str, leave_parametrized: bool = True
) -> Module:
    """Let the tensor be a parameter again: with the value that it has now, or with the original.

    ValueError if it is not parametrized, or with leave_parametrized=False if there are several
    originals.
    """
    if not is_parametrized(module, tensor_name):
        raise ValueError(f"{type(module).__name__} has no parametrization of {tensor_name!r}")
    held = module.parametrizations[tensor_name]
    originals = held._originals()
    if not leave_parametrized and not held.is_tensor:
        raise ValueError("leave_parametrized=False: there is more than one original tensor")
    with no_grad():
        value = getattr(module, tensor_name).detach() if leave_parametrized else None
    original = originals[0]
    if value is not None:
        original.data = value.clone()
    del module.parametrizations[tensor_name]
    _compute(module)
    if isinstance(original, Parameter):
        module.register_parameter(tensor_name, original)
    else:
        module.register_buffer(tensor_name, original)
    return module


@contextmanager
def cached() -> Iterator[None]:
    """Inside, each parametrized tensor is computed once, however often it is read."""
    before = _cache[0]
    _cache[0] = {} if before is None else before
    try:
        yield
    finally:
        _cache[0] = before
