"""`tc.func` beside torch.func: the same code in both."""

from typing import Any

import numpy as np
import pytest

import tinyconv as tc
from tinyconv import nn

torch = pytest.importorskip("torch")
# PyTorch's own, on its way to forward derivatives
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def drawn(lib: Any, *shape: int, seed: int = 0, grad: bool = False) -> Any:
    values = np.random.default_rng(seed).uniform(0.5, 1.5, shape)
    return lib.tensor(values, requires_grad=grad)


def numbers(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {k: numbers(v) for k, v in tree.items()}
    if isinstance(tree, (tuple, list)):
        return [numbers(v) for v in tree]
    return np.asarray(tree.detach().numpy()) if hasattr(tree, "detach") else tree


def agree(mine: Any, theirs: Any) -> None:
    assert type(mine) is type(theirs)
    if isinstance(mine, dict):
        assert mine.keys() == theirs.keys()
        for key in mine:
            agree(mine[key], theirs[key])
    elif isinstance(mine, list):
        assert len(mine) == len(theirs)
        for a, b in zip(mine, theirs, strict=True):
            agree(a, b)
    else:
        np.testing.assert_allclose(mine, theirs, rtol=1e-10)


def cubed(x: Any) -> Any:
    return (x**3).sum()


def mixed(x: Any, y: Any) -> Any:
    return (x.exp() * y.sin()).sum()


def rows(x: Any) -> Any:
    return x.sin() * x.sum()


def tree(p: Any, x: Any) -> Any:
    return ((x @ p["w"]).tanh() @ p["deep"][0]).sum() + p["deep"][1].sum()


def params(lib: Any) -> Any:
    return {"w": drawn(lib, 3, 4), "deep": [drawn(lib, 4, seed=1), drawn(lib, 2, seed=2)]}


CALLS = {
    "grad": lambda lib: lib.func.grad(cubed)(drawn(lib, 3)),
    "grad of grad": lambda lib: lib.func.grad(lambda x: lib.func.grad(cubed)(x).sum())(
        drawn(lib, 3)
    ),
    "third": lambda lib: lib.func.grad(
        lib.func.grad(lib.func.grad(lambda x: x**4 * x.sin()))
    )(drawn(lib)),
    "argnums": lambda lib: lib.func.grad(mixed, argnums=1)(drawn(lib, 3), drawn(lib, 3, seed=1)),
    "two argnums": lambda lib: lib.func.grad(mixed, (0, 1))(drawn(lib, 3), drawn(lib, 3, seed=1)),
    "aux": lambda lib: lib.func.grad(lambda x: (cubed(x), x * 2), has_aux=True)(drawn(lib, 3)),
    "value": lambda lib: lib.func.grad_and_value(cubed)(drawn(lib, 3)),
    "value and aux": lambda lib: lib.func.grad_and_value(
        lambda x: (cubed(x), x * 2), has_aux=True
    )(drawn(lib, 3)),
    "tree": lambda lib: lib.func.grad(tree)(params(lib), drawn(lib, 5, 3)),
    "unused": lambda lib: lib.func.grad(mixed, (0, 1))(drawn(lib, 3), drawn(lib, 3, seed=1) * 0),
    "vjp": lambda lib: (lambda out, pull: (out, pull(drawn(lib, 3, seed=3)), pull(out)))(
        *lib.func.vjp(rows, drawn(lib, 3))
    ),
    "vjp of two": lambda lib: lib.func.vjp(mixed, drawn(lib, 3), drawn(lib, 3))[1](drawn(lib)),
    "jvp": lambda lib: lib.func.jvp(rows, (drawn(lib, 3),), (drawn(lib, 3, seed=4),)),
    "jvp of two": lambda lib: lib.func.jvp(
        lambda x, y: (x * y, x.sum()), (drawn(lib, 3), drawn(lib, 3, seed=1)),
        (drawn(lib, 3, seed=2), drawn(lib, 3, seed=3)),
    ),
    "jvp of grad": lambda lib: lib.func.jvp(
        lib.func.grad(cubed), (drawn(lib, 3),), (drawn(lib, 3, seed=4),)
    ),
    "grad of jvp": lambda lib: lib.func.grad(
        lambda x: lib.func.jvp(rows, (x,), (drawn(lib, 3, seed=4),))[1].sum()
    )(drawn(lib, 3)),
    "jvp of linear": lambda lib: lib.func.jvp(
        lambda x: x * 2.0, (drawn(lib, 3),), (drawn(lib, 3, seed=4),)
    ),
    "jvp of tree": lambda lib: lib.func.jvp(
        lambda p: tree(p, drawn(lib, 5, 3)), (params(lib),), (params(lib),)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_as_in_pytorch(name: str) -> None:
    agree(numbers(CALLS[name](tc)), numbers(CALLS[name](torch)))


@pytest.mark.parametrize("name", CALLS)
def test_nothing_leaks(name: str) -> None:
    found: list[Any] = []
    tc.func._map(found.append, CALLS[name](tc))
    assert found
    assert not any(x.requires_grad for x in found)


def test_hvp_is_the_hessian_times_v() -> None:
    x, v = drawn(tc, 4), drawn(tc, 4, seed=5)
    f = lambda x: (x.exp() * x.sum()).sum()  # noqa: E731
    value, found = tc.func.hvp(f, (x,), (v,))
    hessian = torch.autograd.functional.hessian(f, torch.tensor(x.numpy()))
    np.testing.assert_allclose(found[0].numpy(), hessian.numpy() @ v.numpy(), rtol=1e-10)
    assert value.item() == pytest.approx(f(x).item())
    zero = tc.func.hvp(lambda x: x.sum(), (x,), (v,))[1][0]
    np.testing.assert_array_equal(zero.numpy(), np.zeros(4))
    tree_value, (h,) = tc.func.hvp(lambda p: tree(p, drawn(tc, 5, 3)), (params(tc),), (params(tc),))
    expected = tc.func.jvp(
        tc.func.grad(lambda p: tree(p, drawn(tc, 5, 3))), (params(tc),), (params(tc),)
    )[1]
    agree(numbers(h), numbers(expected))
    assert not tree_value.requires_grad


def test_what_is_outside_stays_connected() -> None:
    for lib in (tc, torch):
        a, x = drawn(lib, 3, grad=True), drawn(lib, 3, seed=1)
        g = lib.func.grad(lambda x, a=a: (a * a * x * x).sum())(x)
        assert g.requires_grad
        g.sum().backward()
        np.testing.assert_allclose(
            a.grad.numpy(), 4 * a.detach().numpy() * x.numpy(), rtol=1e-10
        )
        y = drawn(lib, 3, grad=True)
        lib.func.grad(cubed)(y).sum().backward()
        np.testing.assert_allclose(y.grad.numpy(), 6 * y.detach().numpy(), rtol=1e-10)
    with tc.no_grad():
        assert not tc.func.grad(cubed)(drawn(tc, 3, grad=True)).requires_grad


def networks() -> list[tuple[Any, Any]]:
    """(library, model) pairs with the same numbers."""
    made = []
    for lib, n in ((tc, nn), (torch, torch.nn)):
        model = n.Sequential(n.Conv2d(1, 2, 3), n.BatchNorm2d(2), n.ReLU(), n.Flatten(),
                             n.Linear(8, 3))  # fmt: skip
        state = {
            k: np.random.default_rng(len(k)).uniform(0.5, 1, v.shape).astype(np.float32)
            for k, v in model.state_dict().items() if "num" not in k
        }
        model.load_state_dict({k: lib.tensor(v) for k, v in state.items()}, strict=False)
        made.append((lib, model))
    return made


def test_functional_call() -> None:
    found = []
    for lib, model in networks():
        x = lib.tensor(np.random.default_rng(9).normal(size=(4, 1, 4, 4)).astype(np.float32))
        own = {k: v.detach().clone() for k, v in model.named_parameters()}
        buffers = {k: v.clone() for k, v in model.named_buffers()}
        other = {k: v * 2 for k, v in own.items()}
        before = {k: v.clone() for k, v in model.state_dict().items()}
        y = lib.func.functional_call(model, {**other, **buffers}, (x,))
        for k, v in model.state_dict().items():
            np.testing.assert_array_equal(v.numpy(), before[k].numpy())
        assert abs(buffers["1.running_mean"].numpy() - before["1.running_mean"].numpy()).max() > 0
        model.eval()  # PyTorch refuses to move running statistics inside of grad
        loss = lambda p: (lib.func.functional_call(model, p, (x,)) ** 2).mean()  # noqa: B023, E731
        found.append((y, lib.func.grad(loss)(own)))
    (y, g), (y2, g2) = found
    np.testing.assert_allclose(y.numpy(), y2.numpy(), rtol=1e-4)
    for k in g:
        np.testing.assert_allclose(g[k].numpy(), g2[k].numpy(), rtol=1e-3, atol=1e-4)


def test_functional_call_puts_back_after_an_error() -> None:
    model = nn.Linear(2, 2)
    weight = model.weight
    with pytest.raises(tc.ShapeError):
        tc.func.functional_call(model, {"weight": tc.zeros(3, 3)}, (tc.zeros(1, 2),))
    assert model.weight is weight
    with pytest.raises(KeyError, match="Linear has no 'wait'"):
        tc.func.functional_call(model, {"wait": tc.zeros(3, 3)}, (tc.zeros(1, 2),))


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda x: tc.func.grad(lambda x: x * 2)(x), tc.ShapeError, "must return one number"),
        (lambda x: tc.func.jvp(rows, x, x), tc.DTypeError, "are tuples"),
        (lambda x: tc.func.jvp(rows, (x,), (x[:2],)), tc.ShapeError, "must have the primals' shap"),
        (lambda x: tc.func.vjp(rows, x)[1](()), tc.GraphError, "0 cotangents for 1 outputs"),
    ],
)
def test_errors(call: Any, error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        call(drawn(tc, 3))
