"""Operations with several outputs: each with a gradient, or declared a constant."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tinyconv as tc
from tinyconv.autograd import OPS


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    before = dict(OPS)
    yield
    OPS.clear()
    OPS.update(before)


def polar() -> Any:
    """(x, y) to radius and angle."""
    op = tc.op(name="polar", outputs=2)(lambda x, y: (np.hypot(x, y), np.arctan2(y, x)))
    op.defvjp(
        lambda g, r, _phi, x, y: g[0] * x / r - g[1] * y / (r * r),
        lambda g, r, _phi, x, y: g[0] * y / r + g[1] * x / (r * r),
    )
    return op


def leaf(*shape: int, seed: int = 0) -> tc.Tensor:
    return tc.tensor(np.random.default_rng(seed).uniform(0.5, 2, shape), requires_grad=True)


def test_gradients_to_second_order() -> None:
    op = polar()
    tc.gradcheck(op, [leaf(3), leaf(3, seed=1)], order=2)
    tc.gradcheck(lambda x, y: op(x, y)[0] * op(x, y)[1], [leaf(2, 3), leaf(2, 3, seed=1)], order=2)
    tc.gradcheck(lambda x: op(x, x * x)[1].exp(), leaf(3), order=2)


@pytest.mark.parametrize("used", [(0,), (1,), (0, 1), (1, 0, 0)])
@pytest.mark.parametrize("create_graph", [False, True])
def test_what_is_not_used_counts_as_zero(used: tuple[int, ...], create_graph: bool) -> None:
    op, x, y = polar(), leaf(3), leaf(3, seed=1)
    outs = op(x, y)
    total = sum((outs[i] * (k + 1) for k, i in enumerate(used)), tc.zeros(3, dtype=tc.float64))
    found = tc.grad(total.sum(), [x, y], create_graph=create_graph)
    g = [sum(k + 1.0 for k, i in enumerate(used) if i == output) for output in (0, 1)]
    a, b = x.detach().numpy(), y.detach().numpy()
    r = np.hypot(a, b)
    np.testing.assert_allclose(found[0].detach().numpy(), g[0] * a / r - g[1] * b / r**2)
    np.testing.assert_allclose(found[1].detach().numpy(), g[0] * b / r + g[1] * a / r**2)


def test_outputs_of_arrays_and_without_grad() -> None:
    op = polar()
    arrays = op(np.ones(2), np.ones(2))
    assert all(type(a) is np.ndarray for a in arrays)
    with tc.no_grad():
        r, phi = op(leaf(3), leaf(3))
    assert not r.requires_grad
    assert not phi.requires_grad
    r, phi = op(leaf(3).detach(), leaf(3).detach())
    assert r.node is None
    assert phi.node is None


def test_hooks_and_gradients_of_the_outputs_themselves() -> None:
    op, x, y = polar(), leaf(3), leaf(3, seed=1)
    r, phi = op(x, y)
    r.retain_grad()
    seen = []
    phi.register_hook(lambda g: seen.append(g) or g * 2)
    (r * 3 + phi).sum().backward()
    assert r.grad.tolist() == [3.0] * 3
    assert seen[0].tolist() == [1.0] * 3
    twice = x.grad
    x.grad = None
    r, phi = op(x, y)
    (r * 3 + phi * 2).sum().backward()
    np.testing.assert_allclose(x.grad.array, twice.array)
    r, phi = op(x, y)
    g_r, g_phi = tc.grad((r * phi).sum(), [r, phi])
    np.testing.assert_array_equal(g_r.array, phi.array)
    np.testing.assert_array_equal(g_phi.array, r.array)


def test_a_constant_output_has_no_gradient_and_is_kept_if_it_is_read() -> None:
    op = tc.op(name="largest", outputs=2, constants=(1,))(lambda x: (x.max(-1), x.argmax(-1)))
    op.defvjp(
        lambda g, _y, place, _x: (
            tc.zeros(_x.shape, dtype=tc.float64).scatter_add(-1, place[..., None], g[..., None])
            if tc.is_tensor(place)
            else _spread(g, place, _x.shape)
        )
    )
    x = leaf(2, 3)
    y, place = op(x)
    assert y.requires_grad
    assert not place.requires_grad
    assert place.dtype == tc.int64
    assert [a is None for a in y.node.output] == [True, False]
    y.sum().backward()
    assert (x.grad.array != 0).sum() == 2
    assert y.node.output is None  # freed


def _spread(g: Any, place: Any, shape: Any) -> Any:
    out = np.zeros(shape)
    np.put_along_axis(out, place[..., None], g[..., None], -1)
    return out


def test_an_output_that_is_written_in_place_is_noticed() -> None:
    op, x, y = polar(), leaf(3), leaf(3, seed=1)
    r, phi = op(x, y)
    with tc.no_grad():
        phi.zero_()
    r.sum().backward(retain_graph=True)  # does not read the angle
    with tc.no_grad():
        r.zero_()
    with pytest.raises(tc.GraphError, match=r"polar.*needs its output"):
        r.sum().backward()


def test_different_shapes_and_dtypes() -> None:
    op = tc.op(name="moments", outputs=2)(lambda x: (x.mean(-1), x.astype(np.float32)))
    op.defvjp(
        lambda g, _m, _c, _x: (
            (g[0][..., None] / _x.shape[-1]) + tc.OPS["to_dtype"](g[1], dtype=tc.float64)
        )
    )
    x = leaf(2, 3)
    mean, copy = op(x)
    assert mean.shape == (2,)
    assert copy.dtype == tc.float32
    (mean.sum() * 3).backward()
    np.testing.assert_allclose(x.grad.array, np.ones((2, 3)))
    x.grad = None
    op(x)[1].sum().backward()
    np.testing.assert_allclose(x.grad.array, np.ones((2, 3)))


def test_the_statistics_of_a_batch_are_constants() -> None:
    x = leaf(4, 3)
    y, mean, var = tc.ops.norm.batch_norm(x, None, None, eps=1e-5)
    assert y.requires_grad
    assert not mean.requires_grad
    assert not var.requires_grad
    np.testing.assert_allclose(mean.array, x.detach().numpy().mean(0))


def test_what_is_drawn_and_written_down() -> None:
    op, x, y = polar(), leaf(3), leaf(3, seed=1)
    r, phi = op(x, y)
    z = (r * 2 + phi).sum()
    lines = str(tc.trace(z, {"x": x, "y": y})).splitlines()
    assert "%2 polar several outputs  <- %0, %1" in lines
    assert sum(line.split()[1] == "output" for line in lines if line.startswith("%")) == 2
    with tc.record({"x": x, "y": y}) as tape:
        z.backward()
    assert "  polar %6: its gradient is complete, 2 contributions came" in str(tape).splitlines()
