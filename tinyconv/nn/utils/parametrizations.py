"""Parametrizations that papers use: weight norm and spectral norm."""

from __future__ import annotations

import math
from typing import Any

from tinyconv.autograd import no_grad
from tinyconv.creation import randn
from tinyconv.errors import ShapeError
from tinyconv.nn.functional import normalize
from tinyconv.nn.module import Module
from tinyconv.nn.utils.parametrize import register_parametrization
from tinyconv.ops.reduce import norm
from tinyconv.tensor import Tensor


class _WeightNorm(Module):
    """w = g v / |v|, over all axes but `dim`: a length and a direction."""

    def __init__(self, dim: int | None) -> None:
        super().__init__()
        self.dim = dim

    def _length(self, v: Tensor) -> Tensor:
        if self.dim is None:
            return norm(v)
        axes = tuple(a for a in range(v.ndim) if a != self.dim % v.ndim)
        return norm(v, 2.0, axes, keepdim=True) if axes else v.abs()

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        return v * (g / self._length(v))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return self._length(weight), weight


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """The tensor as a length times a direction, one for each index of `dim` (None: for all of it).

    Salimans and Kingma, Weight normalization, 2016.  The parameters are
    ``parametrizations.weight.original0`` (the lengths) and ``original1`` (the directions).
    """
    return register_parametrization(module, name, _WeightNorm(dim), unsafe=True)


class _SpectralNorm(Module):
    """w / sigma, with sigma the largest singular value, found by power iteration."""

    _u: Any
    _v: Any

    def __init__(self, weight: Tensor, iterations: int, dim: int, eps: float) -> None:
        super().__init__()
        if iterations <= 0:
            raise ValueError(f"spectral_norm: n_power_iterations is {iterations}, must be positive")
        self.dim = dim if dim >= 0 else dim + weight.ndim
        self.n_power_iterations, self.eps = iterations, eps
        if weight.ndim > 1:
            rows = self._matrix(weight)
            for name, n in (("_u", rows.shape[0]), ("_v", rows.shape[1])):
                drawn = randn(n, dtype=weight.dtype, device=weight.device)
                self.register_buffer(name, normalize(drawn, dim=0, eps=eps))
            with no_grad():
                self._iterate(rows, 15)

    def _matrix(self, weight: Tensor) -> Tensor:
        order = [self.dim, *(a for a in range(weight.ndim) if a != self.dim)]
        moved = weight.permute(*order)
        return moved.reshape(moved.shape[0], math.prod(moved.shape[1:]))

    def _iterate(self, rows: Tensor, times: int) -> None:
        for _ in range(times):
            self._u.copy_(normalize(rows @ self._v, dim=0, eps=self.eps))
            self._v.copy_(normalize(rows.T @ self._u, dim=0, eps=self.eps))

    def forward(self, weight: Tensor) -> Tensor:
        if weight.ndim == 1:
            return normalize(weight, dim=0, eps=self.eps)
        rows = self._matrix(weight)
        if self.training:
            with no_grad():
                self._iterate(rows.detach(), self.n_power_iterations)
        # copies, for the next call writes the vectors while a graph may still need these
        u, v = self._u.clone(), self._v.clone()
        return weight / (u * (rows @ v)).sum()

    def right_inverse(self, value: Tensor) -> Tensor:
        return value  # as it is: whatever has this spectral direction will do


def spectral_norm(
    module: Module,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
) -> Module:
    """The tensor divided by its largest singular value, as a matrix with the rows of `dim`.

    Miyato et al., Spectral normalization for generative adversarial networks, 2018.  One power
    iteration in each training call.  dim: 0, but 1 for transposed convolutions.
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise AttributeError(f"spectral_norm: {type(module).__name__} has no tensor {name!r}")
    if weight.ndim == 0:
        raise ShapeError("spectral_norm", f"{name} is a number; it has no singular values")
    if dim is None:
        dim = 1 if type(module).__name__.startswith("ConvTranspose") else 0
    made = _SpectralNorm(weight.detach(), n_power_iterations, dim, eps)
    return register_parametrization(module, name, made)
