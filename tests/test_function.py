"""`tc.autograd.Function` beside PyTorch's: the same classes, in both libraries."""

from typing import Any

import numpy as np
import pytest

import tinyconv as tc

torch = pytest.importorskip("torch")

LIBRARIES = {"tinyconv": tc, "torch": torch}


def classes(lib: Any) -> dict[str, Any]:
    """Functions as people write them, of (x, y)."""

    class Exp(lib.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, y: Any) -> Any:
            z = (x * y).exp()
            ctx.save_for_backward(x, y, z)
            return z

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            x, y, z = ctx.saved_tensors
            return g * z * y, g * z * x

    class SetUp(lib.autograd.Function):
        @staticmethod
        def forward(x: Any, y: Any, k: float) -> Any:
            return x * x * y * k

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            x, y, ctx.k = inputs
            ctx.save_for_backward(x, y)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            x, y = ctx.saved_tensors
            wants = ctx.needs_input_grad
            return (2 * g * x * y * ctx.k if wants[0] else None,
                    g * x * x * ctx.k if wants[1] else None, None)  # fmt: skip

    class Two(lib.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, y: Any) -> Any:
            ctx.save_for_backward(x, y)
            places = x.argmax(-1)
            largest = x.amax(-1)
            ctx.mark_non_differentiable(places)
            return x * y, places, largest * 0 + 2, x + y

        @staticmethod
        def backward(ctx: Any, g: Any, gp: Any, _gl: Any, h: Any) -> Any:
            assert gp.shape == (2,)
            x, y = ctx.saved_tensors
            return g * y + h, g * x + h

    class Clipped(lib.autograd.Function):  # not the derivative: straight through
        @staticmethod
        def forward(ctx: Any, x: Any, y: Any) -> Any:
            ctx.mask = (x > 1).to(x.dtype)
            return x.sign() * y

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * (1 - ctx.mask), None

    return {
        "Exp": Exp.apply,
        "SetUp": lambda x, y: SetUp.apply(x, y, 3.0),
        "Two": lambda x, y: (lambda o: o[0] * o[2][:, None] + o[3].exp())(Two.apply(x, y)),
        "one of two": lambda x, y: Two.apply(x, y)[3],
        "Clipped": Clipped.apply,
    }


def results(lib: Any, name: str, order: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    x, y = (lib.tensor(rng.uniform(0.5, 1.5, (2, 3)), requires_grad=True) for _ in range(2))
    grad = lib.autograd.grad if lib is torch else tc.grad
    z = classes(lib)[name](x, y)
    found = [z]
    total = (z * z).sum()
    for _ in range(order):
        grads = grad(total, [x, y], create_graph=True, allow_unused=True)
        grads = [g for g in grads if g is not None]
        found += grads
        total = sum((g * g).sum() for g in grads)
        if not total.requires_grad:
            break
    return [t.detach().numpy() for t in found]


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("name", classes(tc))
def test_as_in_pytorch(name: str, order: int) -> None:
    mine, theirs = (results(lib, name, order) for lib in (tc, torch))
    assert len(mine) == len(theirs)
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


def test_a_first_order_backward_is_the_same() -> None:
    for name in classes(tc):
        rng = np.random.default_rng(0)
        x, y = (tc.tensor(rng.uniform(0.5, 1.5, (2, 3)), requires_grad=True) for _ in range(2))
        z = classes(tc)[name](x, y)
        (z * z).sum().backward()
        expected = results(torch, name, 1)[1:]
        for g, e in zip([t.grad for t in (x, y) if t.grad is not None], expected, strict=True):
            np.testing.assert_allclose(g.numpy(), e, rtol=1e-10)


def made(backward: Any, forward: Any = None, save: bool = True) -> Any:
    class Mine(tc.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, *others: Any) -> Any:
            y = x * x if forward is None else forward(x)
            if save:
                ctx.save_for_backward(x)
            return y

    Mine.backward = staticmethod(backward)
    return Mine


def leaf() -> tc.Tensor:
    return tc.tensor([1.0, 2.0, 3.0], requires_grad=True)


@pytest.mark.parametrize(
    ("backward", "error", "said"),
    [
        (lambda ctx, g: (g, g), tc.GraphError, "returned 2 gradients, forward has 1 arguments"),
        (lambda ctx, g: g.sum(), tc.ShapeError, r"returned \(\) in place 0, .* shape \(3,\)"),
        (lambda ctx, g: g.array, tc.DTypeError, "returned a ndarray in place 0"),
        (lambda ctx, g: 2.0, tc.DTypeError, "returned a float in place 0"),
    ],
)
def test_wrong_backwards_say_what_is_wrong(backward: Any, error: Any, said: str) -> None:
    y = made(backward).apply(leaf())
    with pytest.raises(error, match="Mine: .*" + said):
        y.sum().backward()


def test_a_wrong_gradient_is_caught() -> None:
    right = made(lambda ctx, g: 2 * g * ctx.saved_tensors[0])
    tc.gradcheck(right.apply, tc.tensor([1.0, 2.0], dtype=tc.float64, requires_grad=True), order=2)
    wrong = made(lambda ctx, g: 3 * g * ctx.saved_tensors[0])
    with pytest.raises(tc.gradcheck.GradcheckError if hasattr(tc.gradcheck, "GradcheckError")
                       else AssertionError):  # fmt: skip
        tc.gradcheck(wrong.apply, tc.tensor([1.0, 2.0], dtype=tc.float64, requires_grad=True))


def test_what_is_no_tensor_gets_no_gradient() -> None:
    y = made(lambda ctx, g: (g, g)).apply(leaf(), 3.0)
    with pytest.raises(tc.DTypeError, match="a gradient for what is no Tensor in place 1"):
        y.sum().backward()
    y = made(lambda ctx, g: (g, None)).apply(leaf(), "a word")
    y.sum().backward()


def test_none_is_no_gradient() -> None:
    x = leaf()
    made(lambda ctx, g: None).apply(x).sum().backward()
    assert x.grad is None


def test_an_intermediate_has_no_second_derivative() -> None:
    class Mine(tc.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x.cos())
            return x.sin()

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * ctx.saved_tensors[0]

    x = leaf()
    (g,) = tc.grad(Mine.apply(x).sum(), x)
    np.testing.assert_allclose(g.numpy(), np.cos(x.detach().numpy()), rtol=1e-6)
    with pytest.raises(tc.GraphError, match=r"Mine: .*neither an input nor an output"):
        tc.grad(Mine.apply(x).sum(), x, create_graph=True)


def test_what_was_saved_must_not_be_written() -> None:
    x = leaf()
    y = x * 1.0
    z = made(lambda ctx, g: g * ctx.saved_tensors[0]).apply(y)
    with tc.no_grad():
        y.zero_()
    with pytest.raises(tc.GraphError, match="overwritten in place"):
        z.sum().backward()


def test_nothing_is_recorded_inside_and_without_grad() -> None:
    seen = []
    function = made(lambda ctx, g: g, lambda x: seen.append((x * 2).requires_grad) or x * 2)
    assert function.apply(leaf()).requires_grad
    assert not function.apply(leaf().detach()).requires_grad
    with tc.no_grad():
        assert not function.apply(leaf()).requires_grad
    assert seen == [False] * 3
    assert function.apply(leaf()).grad_fn.op.name == "Mine"


def test_two_walks_and_a_freed_graph() -> None:
    x = leaf()
    y = made(lambda ctx, g: 2 * g * ctx.saved_tensors[0]).apply(x).sum()
    y.backward(retain_graph=True)
    y.backward()
    np.testing.assert_allclose(x.grad.numpy(), 4 * x.detach().numpy())
    with pytest.raises(tc.GraphError, match="already walked"):
        y.backward()
