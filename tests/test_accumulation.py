"""What backward() leaves in .grad, and where: PyTorch is asked to do the same."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import tinyconv as tc

Case = Callable[[Any], list[Any]]


def leaf(lib: Any, *values: float) -> Any:
    return lib.tensor([float(v) for v in values], requires_grad=True)


def flat_buffer(lib: Any) -> list[Any]:
    flat = lib.zeros(7)
    a, b = leaf(lib, 1, 2), lib.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    a.grad, b.grad = flat[1:3], flat[3:7].view(2, 2)
    for _ in range(2):
        ((b * b).sum() + (a * 3).sum()).backward()
    return [flat, a.grad, b.grad]


def large_buffer(lib: Any) -> list[Any]:
    flat = lib.zeros(2 * 70_000)
    a = lib.ones(70_000, requires_grad=True)
    a.grad = flat[::2]
    (a * 3).sum().backward()
    b = lib.ones(200, 350, requires_grad=True)
    b.grad = flat[70_000:].view(350, 200).transpose(0, 1)
    (b * 2).sum().backward()
    return [flat.sum(), flat[:3], flat[-3:]]


def kept(lib: Any) -> list[Any]:
    x = leaf(lib, 1, 2)
    x.sum().backward()
    before = x.grad
    (x * x).sum().backward()
    return [before, x.grad, before is x.grad]


def kept_with_create_graph(lib: Any) -> list[Any]:
    x = leaf(lib, 1, 2)
    x.sum().backward()
    before = x.grad
    (x**3).sum().backward(create_graph=True)
    after = x.grad
    g = x.grad.sum()
    x.grad = None
    g.backward()
    return [before, after.detach(), before is after, x.grad]


def graph_then_plain(lib: Any) -> list[Any]:
    x = leaf(lib, 1, 2)
    (x**3).sum().backward(create_graph=True)
    before = x.grad
    x.sum().backward()
    return [before.detach(), x.grad.detach(), before is x.grad]


def zeroed(lib: Any) -> list[Any]:
    x = leaf(lib, 1, 2)
    optimizer = lib.optim.SGD([x], lr=0.1)
    x.sum().backward()
    before = x.grad
    optimizer.zero_grad(set_to_none=False)
    same = before is x.grad
    (x * 2).sum().backward()
    return [before, x.grad, same]


def zeroed_after_create_graph(lib: Any) -> list[Any]:
    layer = lib.nn.Linear(2, 1)
    (layer.weight**3).sum().backward(create_graph=True)
    before = layer.weight.grad
    layer.zero_grad(set_to_none=False)
    return [before, before is layer.weight.grad, before.requires_grad]


def shared_by_two(lib: Any) -> list[Any]:
    a, b = leaf(lib, 1, 2), leaf(lib, 3, 4)
    a.grad = b.grad = lib.zeros(2)
    (a * b).sum().backward()
    return [a.grad]


def retain_then_hook(lib: Any) -> list[Any]:
    x = leaf(lib, 1, 2)
    y = x * 2
    y.retain_grad()
    y.register_hook(lambda g: g * 10)
    y.register_hook(lambda g: g + 1)
    y.retain_grad()
    (y * 3).sum().backward()
    return [y.grad, x.grad]


def leaf_hooks(lib: Any) -> list[Any]:
    x = leaf(lib, 1, 2)
    seen = []
    x.register_hook(lambda g: seen.append(g.clone()))
    x.register_hook(lambda g: g * 2)
    for _ in range(2):
        (x * x).sum().backward()
    return [*seen, x.grad]


def retained_twice(lib: Any) -> list[Any]:
    x = leaf(lib, 1, 2)
    y = x * 2
    y.retain_grad()
    y.sum().backward(retain_graph=True)
    first = y.grad
    y.sum().backward()
    return [y.grad, first]


def two_losses_of_what_saves_nothing(lib: Any) -> list[Any]:
    x = leaf(lib, 1, 2)
    h = (x + 1).reshape(2, 1)
    total = h.sum()
    total.backward()
    total.backward()
    (h * 3).sum().backward()
    return [x.grad]


CASES: list[Case] = [
    flat_buffer, large_buffer, kept, kept_with_create_graph, graph_then_plain, zeroed,
    zeroed_after_create_graph, shared_by_two, retain_then_hook, leaf_hooks, retained_twice,
    two_losses_of_what_saves_nothing,
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch on layouts and create_graph
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_as_pytorch(case: Case) -> None:
    for ours, theirs in zip(case(tc), case(torch), strict=True):
        if isinstance(theirs, bool):
            assert ours is theirs
        else:
            np.testing.assert_allclose(ours.tolist(), theirs.tolist(), rtol=1e-6)


def test_a_gradient_that_starts_the_walk_may_be_the_one_that_is_added_to() -> None:
    a, b = leaf(tc, 1, 2), leaf(tc, 3, 4)
    a.grad, b.grad = tc.ones(2), tc.ones(2)
    (a + b).backward(a.grad)
    assert a.grad.tolist() == b.grad.tolist() == [2, 2]
    flipped = leaf(tc, 1, 2, 3)
    flipped.grad = tc.tensor([1.0, 2.0, 3.0])
    flipped.flip(0).backward(flipped.grad)
    assert flipped.grad.tolist() == [4, 4, 4]


def test_the_addition_is_a_write_that_a_graph_notices() -> None:
    x = leaf(tc, 1, 2)
    x.sum().backward()
    y = x * x.grad
    x.sum().backward()
    with pytest.raises(tc.GraphError, match=r"mul: .*overwritten in place"):
        y.sum().backward()


def test_read_only_memory_is_not_written() -> None:
    x = leaf(tc, 1, 2)
    x.grad = tc.ones(()).expand(2)
    x.sum().backward()
    assert x.grad.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        (lambda x: tc.zeros(3), tc.ShapeError, r"the value has shape \(3,\), x \(2,\)"),
        (lambda x: tc.zeros(1), tc.ShapeError, "a gradient has the shape of x"),
        (lambda x: tc.zeros(2).double(), tc.DTypeError, r"convert it: value.to\(tc.float32\)"),
        (lambda x: np.zeros(2), tc.DTypeError, "is a ndarray, need a Tensor or None"),
        (lambda x: 0.0, tc.DTypeError, "is a float, need a Tensor or None"),
        (lambda x: x, tc.GraphError, "not its own gradient"),
    ],
)
def test_what_cannot_be_a_gradient_is_refused(value: Any, error: Any, said: str) -> None:
    x = leaf(tc, 1, 2)
    with pytest.raises(error, match=said):
        x.grad = value(x)
    assert x.grad is None


def test_a_vjp_that_widens_its_gradient_leaves_that_of_the_leaf_alone() -> None:
    @tc.op(name="widening")
    def widening(x: Any) -> Any:
        return x * 2

    widening.defvjp(lambda g, _y, _x: g * np.full(_x.shape, 2.0))
    del tc.OPS["widening"]
    x = leaf(tc, 1, 2)
    (widening(x) * 3).sum().backward()
    assert x.grad.dtype == tc.float32
    assert tc.grad(widening(x).sum(), x)[0].dtype == tc.float32
