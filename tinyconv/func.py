"""Functions of functions: gradients, products with Jacobians and Hessians, models as functions.

Names and arguments are torch.func's.  "Tensors" may be a Tensor, or tuples, lists and dicts of
such, nested at will.  Everything holds to every order, for it is `tc.grad` underneath.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tinyconv import autograd
from tinyconv.autograd import enable_grad, is_grad_enabled, is_tensor, newest_first
from tinyconv.creation import zeros_like
from tinyconv.errors import DTypeError, GraphError, ShapeError
from tinyconv.nn.module import Module
from tinyconv.tensor import Tensor

__all__ = ["functional_call", "grad", "grad_and_value", "hvp", "jvp", "vjp"]

Tensors = Any


def functional_call(
    module: Module,
    parameter_and_buffer_dicts: Mapping[str, Tensor],
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Any:
    """``module(*args, **kwargs)`` with these tensors in the place of its own, by path.

    The module itself is left as it was; a running mean that is replaced moves in the replacement.
    KeyError for a path that the module does not have.  args: a tuple, or one argument.
    """
    args = args if isinstance(args, tuple) else (args,)
    with _replaced(module, parameter_and_buffer_dicts):
        return module(*args, **(kwargs or {}))


@contextmanager
def _replaced(module: Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """The module's attributes, not its tables, hold other tensors for a while."""
    places = []
    for path, tensor in tensors.items():
        parent, _, name = path.rpartition(".")
        owner = module.get_submodule(parent)
        if name not in owner._parameters and name not in owner._buffers:
            raise KeyError(f"functional_call: {type(module).__name__} has no {path!r}")
        places.append((owner.__dict__, name, tensor))
    before = [held[name] for held, name, _ in places]
    try:
        for held, name, tensor in places:
            held[name] = tensor
        yield
    finally:
        for (held, name, _), own in zip(places, before, strict=True):
            held[name] = own


def grad(f: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Any:
    """The function that gives the gradient of f, whose result is a number, for its arguments.

    argnums: which of them.  has_aux: f returns (number, anything), and the new function (gradient,
    anything).
    """
    valued = grad_and_value(f, argnums, has_aux)

    def gradient(*args: Any, **kwargs: Any) -> Any:
        found, value = valued(*args, **kwargs)
        return (found, value[1]) if has_aux else found

    return gradient


def grad_and_value(
    f: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Any:
    """As `grad`, with what f gave: (gradient, value), or (gradient, (value, anything))."""

    def valued(*args: Any, **kwargs: Any) -> Any:
        numbers = (argnums,) if isinstance(argnums, int) else argnums
        with _inside(*(args[i] for i in numbers)) as leaves:
            given = list(args)
            for i, leaf in zip(numbers, leaves, strict=True):
                given[i] = leaf
            result = f(*given, **kwargs)
            value = result[0] if has_aux else result
            if not is_tensor(value) or value.array.size != 1:
                shape = getattr(value, "shape", type(value).__name__)
                raise ShapeError("func.grad", f"f returned {shape}; it must return one number")
            found = tuple(_gradients(value, leaf, None) for leaf in leaves)
        found, result = _outside((found, result), leaves)
        return (found[0] if isinstance(argnums, int) else found), result

    return valued


def vjp(f: Callable[..., Any], *primals: Tensors, has_aux: bool = False) -> Any:
    """(f(*primals), the function from a cotangent v to v^T J, one for each primal).

    The function may be called again and again.
    """
    with _inside(*primals) as leaves:
        result = f(*leaves)
    value = result[0] if has_aux else result

    def pullback(cotangents: Tensors) -> tuple[Tensors, ...]:
        found = tuple(_gradients(value, leaf, cotangents) for leaf in leaves)
        return _outside(found, leaves)

    out = _outside(value, leaves)
    return (out, pullback, result[1]) if has_aux else (out, pullback)


def jvp(
    f: Callable[..., Any], primals: tuple[Tensors, ...], tangents: tuple[Tensors, ...]
) -> tuple[Any, Any]:
    """(f(*primals), J tangents): what the result does when the arguments move.

    By two products with the transposed Jacobian: v^T J is linear in v, and its derivative by v is J
    (Townsend, A new trick for calculating Jacobian vector products, 2017).
    """
    _check_pairs("func.jvp", primals, tangents)
    with _inside(*primals) as leaves:
        value = f(*leaves)
        (ghosts,) = _as_leaves((_map(zeros_like, value),))
        pulled = tuple(_gradients(value, leaf, ghosts, create_graph=True) for leaf in leaves)
        pairs = [
            (g, t) for g, t in zip(_flat(pulled), _flat(tangents), strict=True) if g.requires_grad
        ]
        targets = _flat(ghosts)
        found: list[Any] = [None] * len(targets)
        if pairs:
            outputs, directions = zip(*pairs, strict=True)
            found = list(autograd.grad(outputs, targets, directions, create_graph=True,
                                       allow_unused=True))  # fmt: skip
    moved = iter(zeros_like(t) if g is None else g for g, t in zip(found, targets, strict=True))
    return _outside((value, _map(lambda _: next(moved), ghosts)), (leaves, ghosts))


def hvp(
    f: Callable[..., Any], primals: tuple[Tensors, ...], tangents: tuple[Tensors, ...]
) -> tuple[Any, Any]:
    """(f(*primals), H tangents) for f with one number as its result: the Hessian's product.

    The gradient of the gradient's product with the tangents (Pearlmutter, Fast exact
    multiplication by the Hessian, 1994).
    """
    _check_pairs("func.hvp", primals, tangents)
    with _inside(*primals) as leaves:
        value = f(*leaves)
        gradients = tuple(_gradients(value, leaf, None, create_graph=True) for leaf in leaves)
        products = [
            (g * t).sum()
            for g, t in zip(_flat(gradients), _flat(tangents), strict=True) if g.requires_grad
        ]  # fmt: skip
        if products:
            found = tuple(_gradients(sum(products), leaf, None) for leaf in leaves)
        else:  # f is linear
            found = tuple(_map(zeros_like, leaf) for leaf in leaves)
    return _outside((value, found), leaves)


# --- tensors in tuples, lists and dicts


def _map(f: Callable[[Tensor], Any], tree: Tensors) -> Any:
    if is_tensor(tree):
        return f(tree)
    if isinstance(tree, dict):
        return {key: _map(f, value) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        made = [_map(f, value) for value in tree]
        return type(tree)(*made) if hasattr(tree, "_fields") else type(tree)(made)
    return tree


def _flat(tree: Tensors) -> list[Tensor]:
    found: list[Tensor] = []
    _map(found.append, tree)
    return found


def _check_pairs(name: str, primals: Any, tangents: Any) -> None:
    if not isinstance(primals, tuple) or not isinstance(tangents, tuple):
        raise DTypeError(name, "primals and tangents are tuples, one entry for each argument: (x,)")
    shapes, others = ([x.shape for x in _flat(tree)] for tree in (primals, tangents))
    if shapes != others:
        raise ShapeError(name, f"the tangents {others} must have the primals' shapes, {shapes}")


# --- one level of differentiation inside of another


def _as_leaves(trees: tuple[Tensors, ...]) -> tuple[Tensors, ...]:
    """The same numbers, each in a Tensor of its own of which gradients can be asked."""

    def fresh(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        # A tensor of an outer level stays connected with it: `view` of all is a node of its own.
        return x.view(x.shape) if x.requires_grad else x.detach().requires_grad_()

    return tuple(_map(fresh, tree) for tree in trees)


@contextmanager
def _inside(*primals: Tensors) -> Iterator[tuple[Tensors, ...]]:
    with enable_grad():
        yield _as_leaves(primals)


def _outside(found: Any, leaves: Tensors) -> Any:
    """Without a graph, unless it leads to tensors outside, by which it may be differentiated."""
    own = {id(x) for x in _flat(leaves)}
    roots = [x.node or x for x in _flat(found) if x.requires_grad]
    others = any(is_tensor(edge) and id(edge) not in own for edge in newest_first(roots))
    return found if others and is_grad_enabled() else _map(lambda x: x.detach(), found)


def _gradients(
    value: Tensors, leaf: Tensors, cotangents: Tensors, create_graph: bool = True
) -> Tensors:
    """Of the value for one argument; zeros where it does not depend on it."""
    outputs, seeds = _flat(value), [None] if cotangents is None else _flat(cotangents)
    if len(seeds) != len(outputs):
        raise GraphError("func.vjp", f"{len(seeds)} cotangents for {len(outputs)} outputs")
    used = [(y, v) for y, v in zip(outputs, seeds, strict=True) if y.requires_grad]
    targets = [x for x in _flat(leaf) if x.requires_grad]
    found: list[Any] = [None] * len(targets)
    if used and targets:
        found = list(
            autograd.grad([y for y, _ in used], targets, [v for _, v in used],
                          retain_graph=True, create_graph=create_graph, allow_unused=True)
        )  # fmt: skip
    gradients = dict(zip(map(id, targets), found, strict=True))

    def gradient(x: Tensor) -> Tensor:
        g = gradients.get(id(x))
        return zeros_like(x) if g is None else g

    return _map(gradient, leaf)
