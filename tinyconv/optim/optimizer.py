"""What all optimizers share: groups of parameters, their state, and the loop of a step."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from copy import deepcopy
from functools import partial
from typing import Any, ClassVar

from tinyconv.autograd import enable_grad, no_grad, wrap
from tinyconv.backend import Array, Backend, array_module, backend_of
from tinyconv.backend.silence import silence
from tinyconv.context import context
from tinyconv.errors import READ_ONLY, DTypeError, GraphError, ShapeError
from tinyconv.tensor import Tensor

Group = dict[str, Any]
State = dict[str, Any]
Ready = tuple[Array, Array, State]  # a parameter, its gradient, and what is remembered of it


class Optimizer:
    """Base class; a new optimizer defines `update`, the rule for one parameter.

    params:   Tensors, or groups: dicts with "params" and options of their own
    defaults: the options of a group that does not name them

    param_groups: the groups, a list of dicts; a schedule writes their "lr"
    state:        per parameter, what the rule remembers from step to step
    """

    RANGES: ClassVar[dict[str, tuple[float, float]]] = {
        "lr": (0.0, math.inf), "eps": (0.0, math.inf), "weight_decay": (0.0, math.inf),
        "momentum": (0.0, math.inf), "alpha": (0.0, 1.0),
    }

    def __init__(self, params: Iterable[Any], defaults: Group) -> None:
        self.name = type(self).__name__
        self.defaults = defaults
        self.state: defaultdict[Tensor, State] = defaultdict(dict)
        self.param_groups: list[Group] = []
        if isinstance(params, Tensor):
            raise TypeError(f"{self.name}: params is one Tensor; put it in a list")
        if not isinstance(params, Iterable):
            raise TypeError(f"{self.name}: params is a {type(params).__name__}, not a list of "
                            "Tensors; pass model.parameters()")
        groups = list(params)
        if not groups:
            raise ValueError(f"{self.name}: no parameters. Layers in a Python list are not seen: "
                             "use nn.ModuleList. Or was model.parameters() read before? An "
                             "iterator gives its items once: list(model.parameters())")
        for group in groups if isinstance(groups[0], dict) else [{"params": groups}]:
            self.add_param_group(group)

    def update_all(self, ready: list[Ready], *_: Any, **options: Any) -> None:
        """`update` for each parameter of a group; a rule with a kernel for many overrides it.

        All arrays are on one device.
        """
        for p, g, state in ready:
            self.update(p, g, state, **options)

    def update(self, p: Array, g: Array, state: State, *_: Any, **options: Any) -> None:
        """Change the parameter p in place, given its gradient g and its group's options.

        state: the parameter's own, {} before the first step.  A rule names the options it reads as
        keywords; they are those of ``defaults``.
        """
        raise NotImplementedError

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        closure: computes the loss and its gradients anew; its result is returned.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        grads = {p: p.grad for p in self._params() if p.grad is not None}
        for p in grads:
            self._check_grad(p)
        if context.capture is None:
            self._update_groups(grads)
        else:  # a graph would keep today's options; the gradients' memory is what it writes to
            context.capture.between(partial(self._update_groups, grads))
        return loss

    @no_grad()
    def _update_groups(self, grads: dict[Tensor, Tensor]) -> None:
        for group in self.param_groups:
            options = {name: _number(group[name]) for name in self.defaults}
            ready: defaultdict[Backend, list[Ready]] = defaultdict(list)
            for p in group["params"]:
                if p in grads:
                    # dated like any in-place write: a backward that still needs p will object
                    entry = (p._write(self.name), grads[p].array, self.state[p])
                    ready[backend_of(p.array)].append(entry)
            with silence():
                for entries in ready.values():
                    self.update_all(entries, **options)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or set them to zero in place."""
        for group in self.param_groups:
            for p in group["params"]:
                p._zero_grad(set_to_none)

    def add_param_group(self, group: Group) -> None:
        """One more group: ``{"params": [...], "lr": 0.01}``; missing options are the defaults."""
        if not isinstance(group, dict):
            kind = type(group).__name__
            raise TypeError(f'{self.name}: a group is a dict {{"params": [...]}}, not a {kind}')
        params = group["params"]
        if isinstance(params, set):
            raise TypeError(
                f"{self.name}: a set has no fixed order, and state_dict() counts on one; use a list"
            )
        params = [params] if isinstance(params, Tensor) else list(params)
        group = {**self.defaults, **group, "params": params}
        self._check_params(params)
        self._check_options(group)
        self.param_groups.append(group)

    # --- saving

    def state_dict(self) -> dict[str, Any]:
        """{"state": {i: {...}}, "param_groups": [...]}; i counts parameters over all groups.

        The Tensors share memory with the optimizer's state.
        """
        index = {p: i for i, p in enumerate(self._params())}
        state = {index[p]: dict(entries) for p, entries in self.state.items() if entries}
        groups = [{**g, "params": [index[p] for p in g["params"]]} for g in self.param_groups]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`: a copy of it, in each parameter's dtype and on its device."""
        saved_groups = state_dict["param_groups"]
        saved_sizes = [len(group["params"]) for group in saved_groups]
        sizes = [len(group["params"]) for group in self.param_groups]
        if saved_sizes != sizes:
            raise ValueError(
                f"{self.name}.load_state_dict: the saved groups hold {saved_sizes} parameters, "
                f"this optimizer's {sizes}; build it with the groups that it was saved with"
            )
        groups = []
        for group, saved in zip(self.param_groups, saved_groups, strict=True):
            self._check_kind(saved)
            options = {name: deepcopy(value) for name, value in saved.items() if name != "params"}
            groups.append({**group, **options})
            self._check_options(groups[-1])
        indices = [i for group in saved_groups for i in group["params"]]
        state: defaultdict[Tensor, State] = defaultdict(dict)
        for i, p in zip(indices, self._params(), strict=True):
            if i in state_dict["state"]:
                entries = state_dict["state"][i]
                state[p] = {key: self._loaded(i, p, key, value) for key, value in entries.items()}
        self.param_groups, self.state = groups, state

    def _check_kind(self, saved: Group) -> None:
        """Switches may have come later; the numbers that a rule computes with are its own."""
        numbers = {name for name, value in self.defaults.items() if type(value) is not bool}
        if missing := sorted(numbers - saved.keys()):
            raise ValueError(
                f"{self.name}.load_state_dict: the saved groups have no {', '.join(missing)}: "
                "another kind of optimizer saved them; load them into one of that kind"
            )

    def _loaded(self, i: int, p: Tensor, key: str, value: Any) -> Any:
        if key == "step":  # PyTorch keeps it as a tensor
            return int(value)
        if not isinstance(value, Tensor):
            return deepcopy(value)
        if value.shape != p.shape:
            raise ShapeError(
                f"{self.name}.load_state_dict",
                f"{key} of parameter {i} has shape {value.shape}, the parameter {p.shape}; build "
                "the optimizer with the parameters in the order of the saved one",
            )
        return value.detach().to(p.device).to(p.dtype).clone()

    # --- checks

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _check_params(self, params: list[Any]) -> None:
        seen = set(self._params())
        for i, p in enumerate(params):
            if not isinstance(p, Tensor):
                raise TypeError(f"{self.name}: parameter {i} is a {type(p).__name__}, not a "
                                "Tensor; pass model.parameters()")
            if not p.is_leaf:
                raise GraphError(
                    self.name,
                    f"parameter {i} {p.shape} was computed ({p.op}), so backward() gives it no "
                    ".grad; optimize the leaf it came from, or x.detach().requires_grad_()",
                )
            if p in seen:
                raise ValueError(f"{self.name}: parameter {i} {p.shape} appears twice and would be "
                                 "updated twice a step; name each once, in one group")
            seen.add(p)

    def _check_options(self, group: Group) -> None:
        for name, (low, high) in self.RANGES.items():
            value = _number(group.get(name, low))
            if not isinstance(value, (int, float)) or not low <= value <= high:  # nan is not
                limit = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
                raise ValueError(f"{self.name}: {name} must be a number {limit}, got {value!r}")
        betas = group.get("betas", ())
        if len({isinstance(beta, Tensor) for beta in betas}) > 1:
            raise ValueError(f"{self.name}: betas must be two numbers or two Tensors, got {betas}")
        for i, beta in enumerate(betas):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"{self.name}: betas[{i}] must be at least 0 and below 1, got "
                                 f"{beta}; it is the share of its past that a running mean keeps")

    def _check_grad(self, p: Tensor) -> None:
        assert p.grad is not None
        if p.grad.shape != p.shape:
            raise ShapeError(self.name, f"a parameter {p.shape} has a .grad {p.grad.shape}")
        if p.grad.dtype != p.dtype:
            raise DTypeError(self.name, f"a {p.dtype} parameter has a {p.grad.dtype} .grad; "
                                        f"convert it: p.grad = p.grad.to(tc.{p.dtype})")

    def __repr__(self) -> str:
        lines = []
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {name}: {group[name]}" for name in sorted(group) if name != "params"]
        return f"{self.name} (\n" + "\n".join(lines) + "\n)"


def memory(state: State, key: str, p: Array) -> Array:
    """The array ``state[key]``, in p's shape and dtype; zeros the first time."""
    if key not in state:
        state[key] = wrap(array_module(p).zeros_like(p))
    array = state[key].array
    if not getattr(array.flags, "writeable", True):
        raise GraphError(key, READ_ONLY)
    return array


def _number(option: Any) -> Any:
    """np.float64 is a float, yet it would widen float32 arrays; a Python float does not."""
    return option.item() if hasattr(option, "item") else option
