"""What PyTorch calls each operation.  An operation that is not here is torch.<name> or F.<name>."""

import operator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F


def twin(name: str) -> Any:
    """The PyTorch function, or None."""
    return TWINS.get(name) or getattr(torch, name, None) or getattr(F, name, None)


def function_twin(name: str) -> Any:
    """The PyTorch function behind a function made of operations, or None."""
    return FUNCTION_TWINS.get(name) or getattr(F, name, None) or getattr(torch, name, None)


def to_torch(value: Any, requires_grad: bool = False) -> Any:
    """Arrays, dtypes and what holds them, in PyTorch's terms."""
    if isinstance(value, tuple):
        return tuple(to_torch(v, requires_grad) for v in value)
    if isinstance(value, np.ndarray):
        made = torch.tensor(value)
        return made.requires_grad_(requires_grad and made.is_floating_point())
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return getattr(torch, np.dtype(value).name)
    return value


def vjp(function: Any, x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """The adjoint of a linear function, by PyTorch's own derivative; differentiable in g."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(function(x), x, g, create_graph=True)[0]


def _pair(f: Any) -> Any:
    """PyTorch's function of two tensors, for a number in the place of one."""

    def call(a: Any, b: Any) -> Any:
        like = a if isinstance(a, torch.Tensor) else b
        return f(*(torch.as_tensor(v, dtype=like.dtype) for v in (a, b)))

    return call


def _pad(x: torch.Tensor, padding: Any, value: float = 0.0) -> torch.Tensor:
    return F.pad(x, [n for pair in reversed(padding) for n in pair], value=value)


def _conv2d(x: Any, w: Any, *, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    return F.conv2d(_pad(x, padding), w, None, stride, 0, dilation, groups)


def _conv2d_input(g: Any, w: Any, *, input_size: Any, groups: int, **geometry: Any) -> Any:
    x = torch.zeros(len(g), w.shape[1] * groups, *input_size, dtype=g.dtype)
    return vjp(lambda x: _conv2d(x, w, groups=groups, **geometry), x, g)


def _conv2d_weight(x: Any, g: Any, *, kernel_size: Any, groups: int, **geometry: Any) -> Any:
    w = torch.zeros(g.shape[1], x.shape[1] // groups, *kernel_size, dtype=x.dtype)
    return vjp(lambda w: _conv2d(x, w, groups=groups, **geometry), w, g)


def _max_pool2d_indices(
    x: Any, *, kernel_size: Any, stride: Any, padding: Any, dilation: Any
) -> Any:
    padded = _pad(x, padding, -torch.inf)
    found = F.max_pool2d(padded, kernel_size, stride, 0, dilation, return_indices=True)[1]
    row, column = found // padded.shape[3] - padding[0][0], found % padded.shape[3] - padding[1][0]
    return row * x.shape[3] + column


def _window_sum(x: Any, *, kernel_size: Any, stride: Any, padding: Any) -> Any:
    return F.avg_pool2d(_pad(x, padding), kernel_size, stride, divisor_override=1)


def _window_sum_input(g: Any, *, input_size: Any, **window: Any) -> Any:
    x = torch.zeros(*g.shape[:2], *input_size, dtype=g.dtype)
    return vjp(lambda x: _window_sum(x, **window), x, g)


def _unfold(x: Any, *, kernel_size: Any, stride: Any, padding: Any, dilation: Any) -> Any:
    return F.unfold(_pad(x, padding), kernel_size, dilation, 0, stride)


def _channels(g: Any, *, kernel_size: Any, **_window: Any) -> int:
    return g.shape[1] // (kernel_size[0] * kernel_size[1])


def _band_product(x: Any, *, band: Any, dim: int) -> Any:
    """The table that the band stands for."""
    table = torch.zeros(len(band.starts), band.columns, dtype=x.dtype)
    for i, (start, count) in enumerate(zip(band.starts, band.counts, strict=True)):
        table[i, start : start + count] = torch.tensor(band.weights[i, :count], dtype=x.dtype)
    return torch.movedim(torch.movedim(x, dim, -1) @ table.T, -1, dim)


def _put_add(g: Any, *, index: Any, shape: Any) -> Any:
    at = np.arange(np.prod(shape)).reshape(shape)[_numpy_index(index)]
    return (
        torch.zeros(int(np.prod(shape)), dtype=g.dtype)
        .index_add(0, torch.tensor(at.ravel()), g.reshape(-1))
        .reshape(shape)
    )


def _numpy_index(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(_numpy_index(part) for part in index)
    return index.numpy() if isinstance(index, torch.Tensor) else index


def _over_all(f: Any) -> Any:
    """Reductions whose ``dim`` may not be None in PyTorch."""

    def call(x: Any, *, dim: Any = None, keepdim: bool = False) -> Any:
        if dim is None:
            return f(x.reshape(-1), dim=0)
        return f(x, dim=dim, keepdim=keepdim)

    return call


def _affine(x: Any, scale: Any, shift: Any) -> Any:
    column = (1, -1) + (1,) * (x.ndim - 2)
    return x * scale.reshape(column) + shift.reshape(column)


def _add_relu(y: Any, residual: Any) -> Any:
    return torch.relu(y if residual is None else y + residual)



def _slope(p: Any, t: Any) -> Any:
    """The derivative of binary_cross_entropy in p, differentiable in both."""
    if not p.requires_grad:
        p = p.detach().requires_grad_()
    loss = F.binary_cross_entropy(p, t, reduction="sum")
    return torch.autograd.grad(loss, p, create_graph=True)[0]


TWINS: dict[str, Any] = {
    "binary_cross_entropy_slope": _slope,
    "binary_cross_entropy": lambda p, t: F.binary_cross_entropy(p, t, reduction="none"),
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "floor_divide": lambda a, b: torch.div(a, b, rounding_mode="floor"),
    "div_trunc": lambda a, b: torch.div(a, b, rounding_mode="trunc"),
    "pow": operator.pow,
    "maximum": _pair(torch.maximum),
    "minimum": _pair(torch.minimum),
    "relu_backward": lambda g, y: g * (y > 0),
    "to_dtype": lambda x, *, dtype: x.to(dtype),
    "to_device": lambda x, *, device, source: x.to(x.device),
    "clone": lambda x, *, order="K": x.clone(),
    "softplus": F.softplus,
    "amax": _over_all(torch.amax),
    "amin": _over_all(torch.amin),
    "prod": _over_all(torch.prod),
    "all": _over_all(torch.all),
    "any": _over_all(torch.any),
    "logsumexp": _over_all(torch.logsumexp),
    "norm2": lambda x, *, dim=None, keepdim=False, constant_at_0=False: torch.linalg.vector_norm(
        x, 2, dim, keepdim
    ),
    "direction": lambda x, length: x / length,
    "norm_p": lambda x, *, p, dim=None, keepdim=False: torch.linalg.vector_norm(
        x, p, dim, keepdim
    ),
    "sum_to": lambda x, *, shape: x.sum_to_size(shape),
    "broadcast_to": lambda x, *, shape: torch.broadcast_to(x, shape),
    "cat": lambda *xs, dim: torch.cat(xs, dim),
    "pad_zeros": lambda x, *, padding, value=None: _pad(x, padding, value or 0.0),
    "getitem": lambda x, *, index: x[index],
    "put_add": _put_add,
    "gather": lambda x, index, *, dim: torch.gather(x, dim, index),
    "scatter_add": lambda x, index, src, *, dim: (
        # PyTorch's derivative wants src of index's shape
        x.scatter_add(dim, index, src[tuple(slice(n) for n in index.shape)])
    ),
    "scatter_into": lambda g, index, *, shape, dim: torch.zeros(shape, dtype=g.dtype).scatter_add(
        dim, index, g
    ),
    "einsum": lambda *xs, subscripts: torch.einsum(subscripts, *xs),
    "conv2d": _conv2d,
    "conv2d_input": _conv2d_input,
    "conv2d_weight": _conv2d_weight,
    "max_pool2d_indices": _max_pool2d_indices,
    "pool_gather": lambda x, i: torch.gather(x.flatten(2), 2, i.flatten(2)).reshape(i.shape),
    "pool_scatter": lambda g, i, *, input_size, window=None: (
        torch.zeros(*g.shape[:2], input_size[0] * input_size[1], dtype=g.dtype)
        .scatter_add(2, i.flatten(2), g.flatten(2))
        .reshape(*g.shape[:2], *input_size)
    ),
    "unfold": _unfold,
    "fold": lambda g, *, input_size, **window: vjp(
        lambda x: _unfold(x, **window), torch.zeros(len(g), _channels(g, **window), *input_size,
                                                    dtype=g.dtype), g
    ),
    "band_product": _band_product,
    "window_sum": _window_sum,
    "window_sum_input": _window_sum_input,
    "batch_norm": lambda x, w, b, *, eps: F.batch_norm(x, None, None, w, b, training=True, eps=eps),
    "batch_norm_relu": lambda x, w, b, r, *, eps: _add_relu(
        F.batch_norm(x, None, None, w, b, training=True, eps=eps), r
    ),
    "sync_batch_norm": lambda x, w, b, *, eps: (  # of a process alone
        F.batch_norm(x, None, None, w, b, training=True, eps=eps)
    ),
    "sync_batch_norm_relu": lambda x, w, b, r, *, eps: _add_relu(
        F.batch_norm(x, None, None, w, b, training=True, eps=eps), r
    ),
    "all_reduce": lambda x: x.clone(),
    "affine": _affine,
    "affine_relu": lambda x, scale, shift, r: _add_relu(_affine(x, scale, shift), r),
}

FUNCTION_TWINS: dict[str, Any] = {  # functions that PyTorch calls otherwise
    "batch_norm_relu": lambda x, mean, var, w, b, residual, training=False: _add_relu(
        F.batch_norm(x, mean, var, w, b, training), residual
    ),
}
