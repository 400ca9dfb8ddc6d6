"""Keeping gradients within bounds, between backward() and step()."""

from collections.abc import Iterable

from tinyconv.autograd import no_grad
from tinyconv.backend import array_module
from tinyconv.creation import tensor
from tinyconv.dtypes import float16
from tinyconv.ops.shape import stack
from tinyconv.tensor import Tensor


def _grads(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    parameters = [parameters] if isinstance(parameters, Tensor) else parameters
    if not isinstance(parameters, Iterable):
        kind = type(parameters).__name__
        raise TypeError(f"clip_grad: parameters is a {kind}, not a list of Tensors; pass "
                        "model.parameters()")
    return [p.grad for p in parameters if p.grad is not None]


def _widened(g: Tensor) -> Tensor:
    """float16 ends at 65504: the square of 256 is inf already."""
    return g.float() if g.dtype == float16 else g


@no_grad()
def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale all gradients in place so that their norm, as one long vector, is at most ``max_norm``.

    Each is multiplied by min(1, max_norm / (norm + 1e-6)).  Returns the norm before, a 0-d tensor.
    norm_type: p of the p-norm, may be inf.
    error_if_nonfinite: RuntimeError if the norm is inf or nan (this reads it: a GPU has to wait).

    Reference: Pascanu et al., On the difficulty of training recurrent neural networks, ICML 2013.
    """
    grads = _grads(parameters)
    if not grads:
        return tensor(0.0)
    norms = [_widened(g).norm(float(norm_type)) for g in grads]
    total = stack([norm.to(norms[0].dtype) for norm in norms]).norm(float(norm_type))
    if error_if_nonfinite and not total.isfinite():
        bad = [i for i, norm in enumerate(norms) if not norm.isfinite()]
        which = f"gradients {bad} of {len(grads)} hold inf or nan" if bad else "their sum overflows"
        raise RuntimeError(
            f"clip_grad_norm_: the norm of the gradients is {total.item()}: {which}. Look at the "
            "loss (lr too high, log of 0?); error_if_nonfinite=False clips all the same"
        )
    scale = (max_norm / (total + 1e-6)).clamp(max=1.0)
    for g in grads:  # also by 1: to ask first would make a GPU wait
        g.mul_(scale)
    return total


@no_grad()
def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Clamp every entry of the gradients to -clip_value..clip_value, in place."""
    for g in _grads(parameters):
        data = g._write("clip_grad_value_")
        array_module(data).clip(data, -clip_value, clip_value, out=data)
