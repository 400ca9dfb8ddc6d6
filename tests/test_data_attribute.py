"""x.data = value, as in PyTorch: the tensor stays, its memory is the value's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import tinyconv as tc

Case = Callable[[Any], list[Any]]


def param(lib: Any, *values: float) -> Any:
    return lib.nn.Parameter(lib.tensor([float(v) for v in values]))


def shares_memory(lib: Any) -> list[Any]:
    p, t = param(lib, 1, 2), lib.tensor([3.0, 4.0])
    p.data = t
    t += 1
    with lib.no_grad():
        p *= 2
    return [p, t]


def of_another_shape(lib: Any) -> list[Any]:
    p = param(lib, 1, 2)
    p.data = lib.ones(2, 3)
    (p * p).sum().backward()
    return [p, p.grad]


def of_another_float(lib: Any) -> list[Any]:
    p = param(lib, 1, 2)
    p.data = lib.tensor([1.5, 2.5], dtype=lib.float64)
    (p * p).sum().backward()
    return [p, p.grad]


def of_its_own_data(lib: Any) -> list[Any]:
    p = param(lib, 1, 2)
    p.data = p.data * 3 + 1
    p.data *= 0.5
    p.data[0] = 7
    p.data -= 0.1 * lib.ones(2)
    p.data.add_(lib.ones(2), alpha=2)
    return [p]


def of_a_tensor_of_the_graph(lib: Any) -> list[Any]:
    p, q = param(lib, 1, 2), param(lib, 3, 4)
    p.data = q * 2
    (p * 5).sum().backward()
    return [p, p.grad, lib.tensor(float(q.grad is None)), lib.tensor(float(p.is_leaf))]


def under_no_grad(lib: Any) -> list[Any]:
    p = param(lib, 1, 2)
    with lib.no_grad():
        p.data = lib.tensor([5.0, 6.0])
    (p * p).sum().backward()
    return [p, p.grad]


def buffer(lib: Any) -> list[Any]:
    norm = lib.nn.BatchNorm1d(2)
    norm.running_mean.data = lib.tensor([1.0, 2.0])
    norm(lib.tensor([[1.0, 2.0], [3.0, 5.0]]))
    return [norm.running_mean, norm.state_dict()["running_mean"]]


def optimizers(lib: Any) -> list[Any]:
    found = []
    for make in (lib.optim.SGD, lib.optim.Adam):
        p = param(lib, 1, 2)
        optimizer = make([p], lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            (p * p).sum().backward()
            optimizer.step()
            p.data = p.data.clone() * 0.5
        found.append(p)
    return found


def layer(lib: Any) -> list[Any]:
    conv = lib.nn.ConvTranspose2d(1, 1, 2, bias=False)
    conv.weight.data = lib.ones(1, 1, 2, 2)
    y = conv(lib.ones(1, 1, 2, 2))
    y.sum().backward()
    return [y, conv.weight.grad, conv.state_dict()["weight"]]


CASES: list[Case] = [
    shares_memory, of_another_shape, of_another_float, of_its_own_data, of_a_tensor_of_the_graph,
    under_no_grad, buffer, optimizers, layer,
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_as_pytorch(case: Case) -> None:
    for ours, theirs in zip(case(tc), case(torch), strict=True):
        np.testing.assert_allclose(ours.tolist(), theirs.tolist(), rtol=1e-6)
        assert str(ours.dtype) == str(theirs.dtype).removeprefix("torch.")


@pytest.mark.parametrize("value", [tc.tensor([1, 2]), 3.0, None, [1.0, 2.0]])
def test_what_a_parameter_cannot_hold(value: Any) -> None:
    p = param(tc, 1, 2)
    with pytest.raises(tc.DTypeError, match=r"x.data = value"):
        p.data = value
    assert p.tolist() == [1, 2]


def test_a_forward_before_keeps_its_numbers() -> None:
    p = param(tc, 1, 2)
    y = (p * p).sum()
    p.data = tc.tensor([10.0, 20.0])
    y.backward()
    assert p.grad.tolist() == [2, 4]
    y = (p * p).sum()
    p.data = tc.ones(2)
    with pytest.raises(tc.GraphError, match="replaced"):
        tc.grad(y, p, create_graph=True)


def test_a_gradient_of_another_shape_is_not_broadcast() -> None:
    p = param(tc, 1, 2)
    p.sum().backward()
    p.data = tc.ones(1)
    with pytest.raises(tc.ShapeError, match=r"a leaf \(1,\) has a .grad \(2,\)"):
        p.sum().backward()
