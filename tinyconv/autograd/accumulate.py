"""Adding gradients up: in a walk where two paths meet, and into ``.grad``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinyconv.autograd.graph import Edge, Variable, is_tensor
from tinyconv.autograd.ownership import kept, unshared
from tinyconv.backend import backend_of
from tinyconv.clock import date_write, owner
from tinyconv.context import context
from tinyconv.errors import ShapeError

if TYPE_CHECKING:
    from tinyconv.tensor import Tensor

WORTH = 2**15  # numbers from which on a sum is worth a kernel


def accumulate(leaf: Variable, g: Tensor) -> None:
    held = leaf._grad
    if held is None:
        leaf._grad = kept(g)
        return
    into, share = held.array, g.array
    if into.shape != share.shape:  # x.data was replaced since
        raise ShapeError(
            "backward", f"a leaf {leaf.shape} has a .grad {into.shape} from before; x.grad = None"
        )
    alike = type(into) is type(share) and into.dtype == share.dtype
    if context.grad_enabled or not alike or not getattr(into.flags, "writeable", True):
        leaf._grad = held + g
        return
    date_write(into)
    if share.size < WORTH:
        into += share
    else:
        backend_of(into).add_to(into, share)


def set_apart(found: dict[Edge, Any], gradient: Any) -> None:
    """Copies of the gradients if the walk started with memory of a ``.grad`` that they add to.

    They may be views of it, which the first addition would change.
    """
    memory = owner(gradient.array if is_tensor(gradient) else gradient)
    held = [leaf._grad for leaf in found if isinstance(leaf, Variable)]
    if any(grad is not None and owner(grad.array) is memory for grad in held):
        for leaf, g in found.items():
            found[leaf] = g if is_tensor(g) else g.copy()


def added(pending: dict[Edge, Any], edge: Edge, b: Any) -> Any:
    """What is pending plus b; large arrays on all threads, in place where nobody would see it."""
    a = [pending[edge]]
    if isinstance(b, Variable) or b.size < WORTH or (b.shape, b.dtype) != (a[0].shape, a[0].dtype):
        return a[0] + b
    return (backend_of(b).add_to if unshared(a) else backend_of(b).add)(a[0], b)
