"""Parameters as one vector, for optimizers and landscapes that want one."""

from collections.abc import Iterable

from tinyconv.errors import DTypeError, ShapeError
from tinyconv.ops.shape import cat
from tinyconv.tensor import Tensor


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All numbers in a row, (sum of sizes,); it stays in the graph."""
    flat = [parameter.reshape(-1) for parameter in parameters]
    if not flat:
        raise ShapeError("parameters_to_vector", "there are no parameters")
    return cat(flat)


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Let each parameter's data be its part of the vector, which is not copied.

    ShapeError unless the vector has as many numbers as all parameters together.
    """
    if not isinstance(vec, Tensor):
        raise DTypeError("vector_to_parameters", f"vec is a {type(vec).__name__}, need a Tensor")
    listed = list(parameters)
    total = sum(parameter.numel() for parameter in listed)
    if vec.shape != (total,):
        said = f"the vector has shape {vec.shape}, the parameters have {total} numbers together"
        raise ShapeError("vector_to_parameters", said)
    start = 0
    for parameter in listed:
        stop = start + parameter.numel()
        parameter.data = vec.detach()[start:stop].view(parameter.shape)
        start = stop
