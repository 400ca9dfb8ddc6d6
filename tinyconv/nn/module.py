"""Module: parameters, buffers and submodules under attribute names, and where a call happens.

Names, rules and the printed form are torch.nn.Module's, so that state dicts move both ways.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, NamedTuple, Self
from weakref import WeakKeyDictionary, ref

import numpy as np

from tinyconv.autograd import RemovableHandle, no_grad
from tinyconv.context import context
from tinyconv.creation import zeros
from tinyconv.dtypes import as_dtype, float16, float32, float64
from tinyconv.errors import DTypeError, TinyconvError, not_a_tensor
from tinyconv.nn.backward_hooks import Boundary
from tinyconv.tensor import Tensor, as_array

_registrations = [0]  # how often any module's tables have changed
_TABLES = {"_parameters": "a Parameter", "_buffers": "a Tensor", "_modules": "a Module"}


class Parameter(Tensor):
    """A tensor that a Module owns and an optimizer updates; assigning it to a module registers it.

    Shares the memory of ``data`` if that is a Tensor.
    """

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        self.array = data.array if isinstance(data, Tensor) else as_array(data)
        self._grad = self.node = self.hooks = None
        self.requires_grad = False
        if requires_grad:
            self.requires_grad_()

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"


def new_parameter(shape: tuple[int, ...], device: str | None, dtype: Any) -> Parameter:
    """A parameter for ``reset_parameters`` to fill."""
    return Parameter(zeros(shape, device=device, dtype=dtype))


class IncompatibleKeys(NamedTuple):
    """What ``load_state_dict(strict=False)`` left alone."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class _Table(dict[str, Any]):
    """What is registered under names; each is an ordinary attribute of the module too, which is

    found quickest.  Whatever way a name comes into a table or leaves it, the attribute follows.
    """

    __slots__ = ("owner",)

    def __init__(self, owner: Module, content: Mapping[str, Any]) -> None:
        super().__init__()
        self.owner = ref(owner)  # weak, because the module owns the table
        self.update(content)

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        _registrations[0] += 1
        if (owner := self.owner()) is not None:
            owner.__dict__[name] = value

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        _registrations[0] += 1
        if (owner := self.owner()) is not None:
            owner.__dict__.pop(name, None)

    def __ior__(self, other: Any) -> Self:  # type: ignore[override,misc]
        self.update(other)
        return self

    def pop(self, name: str, *default: Any) -> Any:
        if default and name not in self:
            return default[0]
        value = self[name]
        del self[name]
        return value

    def popitem(self) -> tuple[str, Any]:
        if not self:
            raise KeyError("popitem: nothing is registered")
        name = next(reversed(self))
        return name, self.pop(name)

    # dict's own ways would not come past these
    clear, update, setdefault = (
        MutableMapping.clear, MutableMapping.update, MutableMapping.setdefault
    )  # fmt: skip

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy's table gets its owner from `Module.__setstate__`."""
        return dict, (dict(self),)


# Paths by outermost module, and the state of `_registrations` then (see Module._paths).
_found_paths: WeakKeyDictionary[Module, tuple[dict[int, str], int]] = WeakKeyDictionary()


class StateDictError(TinyconvError, RuntimeError):
    """A state dict that does not fit the module: everything missing, unexpected and mis-shaped."""


class Module:
    """Base class of layers and networks.

    Subclasses call ``super().__init__()`` first, assign Parameters and Modules as attributes and
    define ``forward``.  Calling the module runs forward; every operation inside records the
    module's attribute path (``layer2.0.conv1``), and errors start with it.
    """

    is_layer = False  # True where forward is one operation: errors then name the layer instead

    training: bool
    _hooks: list[tuple[str, Callable[..., Any]]]  # of all kinds; most modules have none
    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Module | None]

    def __init__(self) -> None:
        self.__dict__.update(
            training=True, **{table: _Table(self, {}) for table in _TABLES}, _not_saved=set(),
            _hooks=[],
        )  # not by assignment: __setattr__ looks into the tables

    def __setstate__(self, state: dict[str, Any]) -> None:
        """For copies and pickles."""
        self.__dict__.update(state)
        self.__dict__.update({table: _Table(self, state[table]) for table in _TABLES})

    # --- the call

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes: for subclasses to define, and called by ``module(x)``."""
        raise NotImplementedError(
            f"{type(self).__name__} has no forward(); define: def forward(self, x): ..."
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        now = context.__dict__  # this thread's, looked up once
        outer, outer_scope = now["module"], now["scope"]
        if outer is None:
            now["paths"] = self._paths()
        path = now["paths"].get(id(self))
        if path is None:  # not registered in the outermost module: named after its caller
            path = _join(outer_scope, type(self).__name__)
        now["module"], now["scope"] = self, path
        try:
            if self._hooks:
                return self._call_with_hooks(args, kwargs)
            return self.forward(*args, **kwargs)
        except (AttributeError, TypeError) as error:
            if not self.is_layer or not args or isinstance(args[0], Tensor):
                raise
            said = not_a_tensor("the input", args[0], "x")
            raise DTypeError(type(self).__name__, said) from error
        finally:
            now["module"], now["scope"] = outer, outer_scope

    def _paths(self) -> dict[int, str]:
        """id(module) -> path, of this module and all below it; remembered until a tree changes."""
        found, when = _found_paths.get(self, ({}, -1))
        if when != _registrations[0]:
            found = {id(module): path for path, module in self.named_modules()}
            _found_paths[self] = found, _registrations[0]
        return found

    def _hooks_of(self, kind: str) -> list[Callable[..., Any]]:
        return [hook for name, hook in self._hooks if name == kind]

    def _call_with_hooks(self, args: Any, kwargs: dict[str, Any]) -> Any:
        for hook in self._hooks_of("forward pre"):
            replaced = hook(self, args)
            if replaced is not None:
                args = replaced if isinstance(replaced, tuple) else (replaced,)
        before, after = self._hooks_of("backward pre"), self._hooks_of("backward")
        boundary = Boundary(self, before, after) if before or after else None
        if boundary is not None:
            args = boundary.enter(args)
        output = self.forward(*args, **kwargs)
        for hook in self._hooks_of("forward"):
            replaced = hook(self, args, output)
            output = output if replaced is None else replaced
        return output if boundary is None else boundary.leave(output)

    def register_forward_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, args)`` before forward; what it returns replaces the arguments.

        Returns a handle; ``handle.remove()`` takes the hook out again.
        """
        return RemovableHandle(self._hooks, ("forward pre", hook))

    def register_forward_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, args, output)`` after forward; what it returns replaces the output.

        Returns a handle; ``handle.remove()`` takes the hook out again.
        """
        return RemovableHandle(self._hooks, ("forward", hook))

    def register_full_backward_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, grad_input, grad_output)`` when the inputs' gradients are there.

        Both are tuples, an entry for each positional argument and each output, None where there
        is no gradient.  What the hook returns replaces grad_input.  Returns a handle;
        ``handle.remove()`` takes the hook out again.
        """
        return RemovableHandle(self._hooks, ("backward", hook))

    def register_full_backward_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, grad_output)`` before the module's backward pass.

        What it returns replaces grad_output.
        """
        return RemovableHandle(self._hooks, ("backward pre", hook))

    # --- attributes

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Parameter):
            self._register("_parameters", name, value)
        elif isinstance(value, Module):
            self._register("_modules", name, value)
        else:
            for table, wanted in _TABLES.items():
                if name in self.__dict__.get(table, ()):
                    is_buffer = table == "_buffers" and isinstance(value, Tensor)
                    if value is not None and not is_buffer:
                        raise TypeError(
                            f"{type(self).__name__}.{name} is registered as {wanted}: it takes "
                            f"another or None, not a {type(value).__name__}. Delete it first"
                        )
                    self.__dict__[table][name] = value
                    return
            object.__setattr__(self, name, value)

    def _register(self, table: str, name: str, value: Any) -> None:
        """Put a value under a name into one table, and take the name out of all others."""
        state = self.__dict__
        if table not in state:
            raise AttributeError(
                f"{type(self).__name__}: cannot register {name!r} before super().__init__(); "
                f"make it the first line of {type(self).__name__}.__init__"
            )
        if not name or "." in name:
            raise ValueError(f"{type(self).__name__}: {name!r} cannot name {_TABLES[table]}: "
                             "a name is not empty and has no dot, dots join the names of a path")
        for other in (state[t] for t in _TABLES if t != table):
            other.pop(name, None)
        state["_not_saved"].discard(name)
        state[table][name] = value

    def _register_new(self, table: str, name: str, value: Any, kind: type) -> None:
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{type(self).__name__}: {name!r} must be {_TABLES[table]} or None, "
                            f"got {_what(value)}")
        taken = name in self.__dict__ and name not in self.__dict__.get(table, ())
        if hasattr(type(self), name) or taken:
            raise ValueError(f"{type(self).__name__} already has an attribute {name!r}")
        self._register(table, name, value)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """``self.name = param``; None reserves the name (a layer without bias)."""
        self._register_new("_parameters", name, param, Parameter)

    def register_module(self, name: str, module: Module | None) -> None:
        """``self.name = module``, for names that are computed."""
        self._register_new("_modules", name, module, Module)

    add_module = register_module  # PyTorch has both names

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """A tensor that belongs to the state but is not trained, such as a running mean.

        persistent=False keeps it out of the state dict.
        """
        self._register_new("_buffers", name, tensor, Tensor)
        if not persistent:
            self._not_saved.add(name)

    def __getattr__(self, name: str) -> Any:
        if "_modules" not in self.__dict__ and name in Module.__annotations__:
            raise AttributeError(
                f"{type(self).__name__}.__init__ has not called super().__init__(); "
                "make it its first line"
            )
        close = [] if name.startswith("__") else difflib.get_close_matches(name, dir(self), 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{hint}")

    def __delattr__(self, name: str) -> None:
        for table in _TABLES:
            if name in self.__dict__.get(table, ()):
                del self.__dict__[table][name]
                self._not_saved.discard(name)
                return
        object.__delattr__(self, name)

    # --- walking

    def named_modules(
        self, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """This module and all below it with their paths, each once, parents first."""
        seen = set()
        stack = [(prefix, self)]
        while stack:
            path, module = stack.pop()
            if remove_duplicate and module in seen:
                continue
            seen.add(module)
            yield path, module
            for name, child in reversed(module._modules.items()):
                if child is not None:
                    stack.append((_join(path, name), child))

    def modules(self) -> Iterator[Module]:
        """This module and all below it."""
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules that are attributes of this one, each once."""
        seen = set()
        for name, module in self._modules.items():
            if module is not None and module not in seen:
                seen.add(module)
                yield name, module

    def children(self) -> Iterator[Module]:
        """The modules that are attributes of this one."""
        return (module for _, module in self.named_children())

    def get_submodule(self, target: str) -> Module:
        """The module at a path: ``net.get_submodule("layer2.0.conv1")``."""
        found = self
        for name in target.split(".") if target else ():
            found = getattr(found, name)
        return found

    def _named(
        self, tables: tuple[str, ...], prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, Any]]:
        seen = set()
        owners = self.named_modules(prefix, remove_duplicate) if recurse else [(prefix, self)]
        for path, module in owners:
            for table in tables:
                for name, tensor in getattr(module, table).items():
                    if tensor is not None and not (remove_duplicate and tensor in seen):
                        seen.add(tensor)
                        yield _join(path, name), tensor

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Parameters with their paths; a shared one once, under its first path."""
        return self._named(("_parameters",), prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """All parameters, for an optimizer."""
        return (param for _, param in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Buffers with their paths."""
        return self._named(("_buffers",), prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """All buffers."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    # --- all at once

    def apply(self, fn: Callable[[Module], Any]) -> Self:
        """Call ``fn`` on every module, children before their parent."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    def train(self, mode: bool = True) -> Self:
        """Training mode: batch norm uses the batch's statistics, dropout drops."""
        for module in self.modules():
            module.__dict__["training"] = mode
        return self

    def eval(self) -> Self:
        """Evaluation mode: batch norm uses its running statistics, dropout does nothing."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Train all parameters, or freeze them."""
        for param in self.parameters():
            param.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients; ``set_to_none=False`` fills them with zeros instead."""
        for param in self.parameters():
            param._zero_grad(set_to_none)

    def to(self, *targets: Any, device: str | None = None, dtype: Any = None) -> Self:
        """Everything to a device, floats to a dtype: ``net.to("cpu")``, ``net.to(tc.float64)``.

        The Parameter objects stay the same, so an optimizer made before stays valid.
        """
        for target in targets:
            if isinstance(target, Tensor):
                device, dtype = target.device, target.dtype
            elif isinstance(target, str) and not hasattr(np, target):
                device = target
            else:
                dtype = target
        if dtype is not None and as_dtype(dtype).kind != "f":
            raise DTypeError("to", f"a module's parameters are floats; {as_dtype(dtype)} is not")
        for _, tensor in self._named(("_parameters", "_buffers"), "", True, True):
            for held in (tensor, tensor.grad):
                if held is not None:
                    kind = dtype if held.is_floating_point() else None
                    held.array = held.detach().to(device=device, dtype=kind).array
        return self

    def cpu(self) -> Self:
        """Everything to the CPU."""
        return self.to("cpu")

    def cuda(self, device: Any = None) -> Self:
        """Everything to the GPU; DeviceError where there is none.  device: its number."""
        return self.to("cuda" if device is None else f"cuda:{device}")

    def float(self) -> Self:
        """Floats to float32."""
        return self.to(float32)

    def double(self) -> Self:
        """Floats to float64."""
        return self.to(float64)

    def half(self) -> Self:
        """Floats to float16."""
        return self.to(float16)

    # --- the state

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        """What a state dict holds: also what is shared, under every name, as PyTorch does."""
        for path, module in self.named_modules(remove_duplicate=False):
            for name, tensor in module._named(("_parameters", "_buffers"), "", False, False):
                if name not in module._not_saved:
                    yield _join(path, name), tensor

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers by path, in PyTorch's order.

        The tensors share the module's memory: clone them to keep a snapshot.
        """
        return {path: tensor.detach() for path, tensor in self._state()}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True
    ) -> IncompatibleKeys:
        """Copy tensors or arrays into the parameters and buffers of the same names.

        Values are cast to the module's dtype.  StateDictError lists every name that is missing,
        unexpected (both allowed with strict=False) or has another shape, and nothing is changed.
        """
        if not isinstance(state_dict, Mapping):
            fix = "; pass its .state_dict()" if isinstance(state_dict, Module) else ""
            if isinstance(state_dict, (str, os.PathLike)):
                fix = f"; pass tc.load({str(state_dict)!r})"
            raise TypeError(f"load_state_dict: expected a dict of tensors, got "
                            f"{_what(state_dict)}{fix}")
        own = dict(self._state())
        for name, value in state_dict.items():
            if not hasattr(value, "shape"):
                raise DTypeError("load_state_dict", _no_entry(name, value))
        missing = [name for name in own if name not in state_dict]
        unexpected = [name for name in state_dict if name not in own]
        misshaped = [name for name in own if name not in missing
                     and tuple(state_dict[name].shape) != own[name].shape]
        if misshaped or (strict and (missing or unexpected)):
            wrong = (missing, unexpected) if strict else ([], [])
            text = _mismatch(type(self).__name__, own, state_dict, *wrong, misshaped)
            raise StateDictError("load_state_dict", text)
        with no_grad():
            for name, tensor in own.items():
                if name not in missing:
                    value = state_dict[name]
                    tensor.copy_(value if isinstance(value, Tensor) else Tensor(value))
        return IncompatibleKeys(missing, unexpected)

    # --- as text

    def brief(self) -> str:
        """A short form for error messages and graphs: ``Conv2d(1->8, k3)``."""
        return type(self).__name__

    def extra_repr(self) -> str:
        """What stands between the parentheses of ``repr``."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        children = [f"({name}): " + repr(module).replace("\n", "\n  ")
                    for name, module in self._modules.items()]
        if not children and "\n" not in extra:
            return f"{type(self).__name__}({extra})"
        lines = [*extra.splitlines(), *children]
        return "\n  ".join([f"{type(self).__name__}(", *lines]) + "\n)"


class Layer(Module):
    """A module whose forward is one operation; its errors name the layer, not the operation."""

    is_layer = True


def _what(value: Any) -> str:
    """What was given in the place of a module or a tensor, and how to make one of it."""
    if isinstance(value, type):
        return f"the class {value.__name__}; call it: {value.__name__}(...)"
    name = getattr(value, "__name__", getattr(value, "name", None))
    if not callable(value) or not isinstance(name, str):
        return f"a {type(value).__name__}"
    from tinyconv import nn  # it imports this file first

    layers = [layer for layer in vars(nn) if layer.lower() == name.replace("_", "")]
    fix = f"use nn.{layers[0]}()" if layers else "write a Module whose forward calls it"
    return f"the function {name}; {fix}"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _no_entry(name: str, value: Any) -> str:
    """What stands in a state dict in the place of a tensor, and what to do."""
    said = f"{name!r} is a {type(value).__name__}, not a tensor; "
    if isinstance(value, Mapping):
        return f"{said}this is a whole checkpoint: load_state_dict(state[{name!r}])"
    return f"{said}make it one, tc.tensor(state[{name!r}]), or leave it out"


def _mismatch(
    module: str, own: Mapping[str, Any], given: Mapping[str, Any],
    missing: list[str], unexpected: list[str], misshaped: list[str],
) -> str:
    """The text of a StateDictError: three lists with shapes, and what to do."""

    def listed(title: str, entries: list[str]) -> list[str]:
        return [f"  {title} ({len(entries)}): {', '.join(entries)}"] if entries else []

    def shape(x: Any) -> str:
        return str(tuple(x.shape))

    lines = [
        f"{len(given)} entries do not fit {module}, which has {len(own)}",
        *listed("missing", [f"{name} {shape(own[name])}" for name in missing]),
        *listed("unexpected", [f"{name} {shape(given[name])}" for name in unexpected]),
        *listed("of another shape", [
            f"{name} is {shape(given[name])}, wanted {shape(own[name])}" for name in misshaped
        ]),
    ]
    prefix = unexpected[0].split(".")[0] + "." if unexpected else ""
    if prefix and all(name.removeprefix(prefix) in own for name in unexpected):
        lines.append(f"  the names only differ by {prefix!r}: "
                     f"load {{k.removeprefix({prefix!r}): v for k, v in state.items()}}")
    elif own.keys().isdisjoint(given):
        lines.append("  no name fits: is this the state of another model?")
    elif not misshaped:
        lines.append("  to load what fits: load_state_dict(state, strict=False)")
    else:
        rest = f"{{k: v for k, v in state.items() if k not in {misshaped}}}"
        lines.append(f"  to load the rest: load_state_dict({rest}, strict=False)")
    return "\n".join(lines)
