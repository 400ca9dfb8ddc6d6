"""The checker itself: wrong gradients must not pass, at no order; right ones must."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinyconv as tc
from tinyconv.autograd import OPS, op
from tinyconv.gradcheck import GradcheckError, gradcheck
from tinyconv.ops.shape import unbroadcast


def leaf(*shape: int, seed: int = 0) -> tc.Tensor:
    values = np.random.default_rng(seed).uniform(0.5, 2.0, shape)
    return tc.tensor(values, requires_grad=True)


def made(forward: Callable[..., Any], *vjps: Any, name: str = "wrong") -> Any:
    made = op(forward, name=name)
    made.defvjp(*vjps)
    del OPS[name]  # not one of the table
    return made


def const(x: Any) -> Any:
    """The values of x without its graph: what no VJP may use."""
    return x.detach() if isinstance(x, tc.Tensor) else x


FIRST_ORDER = {
    "wrong sign": made(lambda x: x**3, lambda g, _y, x: -3 * g * x**2),
    "wrong factor": made(lambda x: x**3, lambda g, _y, x: 3.001 * g * x**2),
    "an offset": made(lambda x: x**3, lambda g, _y, x: g * (3 * x**2 + 0.001)),
    "zero": made(lambda x: x**3, lambda g, _y, x: g * 0 * x),
    "g is ignored": made(lambda x: x**3, lambda _g, _y, x: 3 * x**2),
    "the output for the input": made(lambda x: np.tanh(x), lambda g, _y, x: g * (1 - x * x)),
    "not a number": made(lambda x: x**3, lambda g, _y, x: g * x * float("nan")),
}


@pytest.mark.parametrize("case", FIRST_ORDER)
def test_rejects_at_first_order(case: str) -> None:
    with pytest.raises(GradcheckError, match=r"wrong: gradcheck, order 1, (input|gradient) 0"):
        gradcheck(FIRST_ORDER[case], leaf(3, 4))


SECOND_ORDER = {
    "x without its graph": made(lambda x: x**3, lambda g, _y, x: 3 * g * const(x) ** 2),
    "y without its graph": made(lambda x: np.exp(x), lambda g, y, _x: g * const(y)),
    "g without its graph": made(lambda x: x**3, lambda g, _y, x: 3 * const(g) * x**2),
    "half the graph": made(lambda x: x**3, lambda g, _y, x: 3 * g * x * const(x)),
}


@pytest.mark.parametrize("case", SECOND_ORDER)
def test_rejects_at_second_order_what_is_right_at_first(case: str) -> None:
    function = SECOND_ORDER[case]
    assert gradcheck(function, leaf(3, 4), order=1)
    with pytest.raises(GradcheckError, match=r"order 2, (input|grad_output) 0"):
        gradcheck(function, leaf(3, 4), order=2)


def test_rejects_at_third_order_what_is_right_at_second() -> None:
    cube = made(lambda x: 3 * x**2, lambda g, _y, x: 6 * g * const(x), name="slope")
    function = made(lambda x: x**3, lambda g, _y, x: g * cube(x))
    assert gradcheck(function, leaf(3), order=2)
    with pytest.raises(GradcheckError, match="order 3"):
        gradcheck(function, leaf(3), order=3)


def test_rejects_paths_that_differ() -> None:
    def vjp(g: Any, _y: Any, x: Any) -> Any:
        return 3 * g * x**2 if isinstance(g, tc.Tensor) else 3.00001 * g * x**2

    with pytest.raises(GradcheckError, match="between create_graph=False and True"):
        gradcheck(made(lambda x: x**3, vjp), leaf(3), atol=1.0)


def test_rejects_a_wrong_fused_backward() -> None:
    function = op(lambda x: x**3, name="wrong")
    function.defvjp(lambda g, _y, x: 3 * g * x**2, fused=lambda g, _y, x: (2 * g * x**2,))
    with pytest.raises(GradcheckError):
        gradcheck(function, leaf(3))


def test_rejects_a_missing_unbroadcast() -> None:
    add = made(lambda a, b: a + b, lambda g, _y, _a, _b: g, lambda g, _y, _a, _b: g)
    with pytest.raises(
        tc.ShapeError, match=r"wrong: its VJP 1 returned \(3, 4\) for an input of shape \(4,\)"
    ):
        gradcheck(add, [leaf(3, 4), leaf(4)])


def test_rejects_an_unbroadcast_that_averages() -> None:
    add = made(
        lambda a, b: a + b,
        lambda g, _y, _a, _b: unbroadcast(g, _a.shape),
        lambda g, _y, _a, _b: g[0] * 3,
    )
    with pytest.raises(GradcheckError, match=r"input 1 \(4,\)"):
        gradcheck(add, [leaf(3, 4), leaf(4)])


def test_rejects_what_is_not_deterministic() -> None:
    rng = np.random.default_rng(0)
    noisy = made(lambda x: x + 1e-3 * rng.standard_normal(x.shape), lambda g, _y, _x: g)
    with pytest.raises(GradcheckError, match="not deterministic"):
        gradcheck(noisy, leaf(3))


def test_rejects_a_random_gradient() -> None:
    rng = np.random.default_rng(0)
    noisy = made(lambda x: 2 * x, lambda g, _y, _x: g * (2 + 1e-3 * rng.standard_normal()))
    with pytest.raises(GradcheckError):
        gradcheck(noisy, leaf(3))


def test_rejects_a_detached_value() -> None:
    with pytest.raises(GradcheckError, match="order 1, input 0"):
        gradcheck(lambda x: x * x.detach(), leaf(3))
    with pytest.raises(GradcheckError, match="order 1, input 0"):
        gradcheck(lambda x: x.detach() * 2, leaf(3))


def join(*xs: Any) -> Any:
    return np.concatenate(xs)


VARIADIC = {
    "wrong piece": lambda i, g, _y, *_xs: g[:2] if i == 0 else g[:3],
    "wrong factor": lambda i, g, _y, *_xs: g[:2] * (i + 1) if i == 0 else g[2:] * (i + 1),
}


@pytest.mark.parametrize("case", VARIADIC)
def test_rejects_a_variadic_operation(case: str) -> None:
    wrong = made(join, VARIADIC[case])
    with pytest.raises(GradcheckError, match="order 1, input 1"):
        gradcheck(wrong, [leaf(2), leaf(3)])


def test_rejects_through_cat() -> None:
    wrong = FIRST_ORDER["wrong factor"]
    with pytest.raises(GradcheckError):
        gradcheck(lambda a, b: tc.cat([a * 1.0, wrong(b)]), [leaf(2), leaf(3)])
    with pytest.raises(GradcheckError, match="order 2"):
        gradcheck(
            lambda a, b: tc.cat([a, SECOND_ORDER["half the graph"](b)]), [leaf(2), leaf(3)], order=2
        )


def test_finds_one_wrong_entry_among_many() -> None:
    def vjp(g: Any, _y: Any, x: Any) -> Any:
        factor = np.ones(x.shape)
        factor[5, 7] = 1.01
        return 2 * g * x * (tc.tensor(factor) if isinstance(g, tc.Tensor) else factor)

    with pytest.raises(GradcheckError):
        gradcheck(made(lambda x: x * x, vjp), leaf(20, 20))


def test_names_the_wrong_input() -> None:
    wrong = made(lambda a, b: a * b, lambda g, _y, _a, b: g * b, lambda g, _y, a, _b: -g * a)
    with pytest.raises(
        GradcheckError, match=r"wrong: .*input 1 \(3,\).* gradient is .*, numerically "
    ):
        gradcheck(wrong, [leaf(3), leaf(3, seed=1)])


def test_rejects_one_wrong_output_of_several() -> None:
    wrong = FIRST_ORDER["wrong sign"]
    with pytest.raises(GradcheckError):
        gradcheck(lambda x: (x * 2, wrong(x)), leaf(3))


RIGHT: dict[str, Any] = {
    "product": (lambda a, b: a * b, [(3, 4), (4,)]),
    "polynomial": (lambda x: x**4 - 2 * x, [(5,)]),
    "scalar": (lambda x: x.exp() * x, [()]),
    "matmul": (lambda a, b: (a @ b).tanh(), [(2, 3), (3, 2)]),
    "cat": (lambda a, b: tc.cat([a, b * a.sum()]), [(2,), (3,)]),
    "linear": (lambda x: x * 3, [(3,)]),
    "constant": (lambda x: x * 0 + 1, [(3,)]),
    "several outputs": (lambda x: (x.sum(), x * x), [(3,)]),
    "batch norm": (lambda x: OPS["batch_norm"](x, None, None, eps=1e-3)[0], [(4, 3)]),
}


@pytest.mark.parametrize("case", RIGHT)
def test_accepts_right_gradients_to_third_order(case: str) -> None:
    function, shapes = RIGHT[case]
    assert gradcheck(function, [leaf(*shape, seed=i) for i, shape in enumerate(shapes)], order=3)


def test_checks_only_what_requires_grad_and_leaves_inputs_alone() -> None:
    x, fixed, index = leaf(4), tc.tensor([0.5]), tc.tensor([0, 2, 2])
    assert gradcheck(lambda x, f, i: (x * f.detach())[i], [x, fixed, index], order=2)
    assert x.grad is None
    assert fixed.dtype == tc.float32


def test_float32_inputs_are_checked_in_float64() -> None:
    assert gradcheck(lambda x: x.sin(), tc.tensor([0.5, 1.5], requires_grad=True), order=2)


def test_works_inside_no_grad_and_on_modules_without_a_name() -> None:
    class Square:
        def __call__(self, x: Any) -> Any:
            return x * x

    with tc.no_grad():
        assert gradcheck(Square(), leaf(3), order=2)


def test_nothing_to_check() -> None:
    with pytest.raises(tc.GraphError, match=r"no input requires grad; call x.requires_grad_\(\)"):
        gradcheck(lambda x: x, tc.tensor([1.0]))


# --- what a VJP and a forward promise


def overwriting(x: Any) -> Any:
    x *= 2
    return x


def overwriting_its_alias(x: Any) -> Any:
    y = x.reshape(x.shape)
    np.multiply(y, 2, out=y)
    return y


def overwriting_a_part(x: Any) -> Any:
    y = 2 * x
    x[0] = y[0]
    return y


def overwrites_g(g: Any, _y: Any, _x: Any) -> Any:
    g *= 2
    return g


def overwrites_x(g: Any, _y: Any, x: Any) -> Any:
    if isinstance(x, tc.Tensor):
        return 3 * g * x**2
    x *= x
    return 3 * g * x


def overwrites_y(g: Any, y: Any, _x: Any) -> Any:
    if isinstance(y, tc.Tensor):
        return g * y
    y *= g
    return y


def cube(x: Any) -> Any:
    return x**3


PROMISES: dict[str, tuple[Any, str]] = {
    "an input that is not read": (
        made(cube, lambda g, _y, _x: 3 * g * _x**2), "read the values of _x"
    ),
    "by a function of tc": (
        made(lambda x: np.sin(x), lambda g, _y, _x: g * tc.cos(_x)), "underscore"
    ),
    "an output that is not read": (
        made(lambda x: np.exp(x), lambda g, _y, _x: g * _y), "read the values of _y"
    ),
    "overwritten input": (made(overwriting, lambda g, _y, _x: g * 2), "overwrote its input 0"),
    "overwritten alias": (made(overwriting_its_alias, lambda g, _y, _x: g * 2), "overwrote"),
    "a part overwritten": (made(overwriting_a_part, lambda g, _y, _x: g * 2), "overwrote"),
    "overwritten g": (made(lambda x: 2 * x, overwrites_g), "overwrote what it was given"),
    "overwritten saved input": (made(cube, overwrites_x), "overwr"),
    "overwritten saved output": (made(lambda x: np.exp(x), overwrites_y), "two walks"),
    "float32 inside": (
        made(lambda x: x.astype(np.float32) ** 2, lambda g, _y, x: 2 * g * x),
        "output 0 is float32 where the inputs are float64",
    ),
    "float32 inside, returned as float64": (
        made(lambda x: (x.astype(np.float32) ** 2).astype(x.dtype), lambda g, _y, x: 2 * g * x),
        "along a random direction",
    ),
    "no float": (lambda x: x > 0, "no float Tensor"),
    "a random gradient": (
        made(lambda x: 2 * x, lambda g, _y, _x: g * (2 + 1e-3 * np.random.standard_normal())),
        "differs|direction",
    ),
}


@pytest.mark.parametrize("case", PROMISES)
def test_rejects_what_breaks_a_promise(case: str) -> None:
    function, said = PROMISES[case]
    with pytest.raises((GradcheckError, tc.DTypeError), match=said):
        gradcheck(function, leaf(3, 4), order=2)


TWO: dict[str, Any] = {
    "the other's value": (lambda g, _y, _a, b: g * b, lambda g, _y, _a, _b: g * _a),
    "its own value": (lambda g, _y, a, b: g * b * (a == a), lambda g, _y, _a, _b: g * _a),
    "the output": (lambda g, y, a, _b: g * y / a, lambda g, _y, _a, b: g * _y / b),
}


@pytest.mark.parametrize("case", TWO)
def test_rejects_a_lie_that_another_vjp_covers(case: str) -> None:
    product = made(lambda a, b: a * b, *TWO[case])
    with pytest.raises(GradcheckError, match=r"underscore|read the values of"):
        gradcheck(product, [leaf(3), leaf(3, seed=1)])


def test_rejects_a_constant_input_that_is_overwritten() -> None:
    def forward(a: Any, b: Any) -> Any:
        b += 1
        return a * b

    wrong = made(forward, lambda g, _y, _a, b: g * b, None)
    with pytest.raises(GradcheckError, match="overwrote its input 1"):
        gradcheck(wrong, [leaf(3), tc.ones(3, dtype=tc.float64)])


# --- wrong operations, drawn

FORWARDS: dict[str, tuple[Any, Any]] = {  # a forward and its right derivatives
    "product": (lambda a, b: a * b, (lambda g, y, a, b: g * b, lambda g, y, a, b: g * a)),
    "quotient": (lambda a, b: a / b, (lambda g, y, a, b: g / b, lambda g, y, a, b: -g * y / b)),
    "power": (
        lambda a, b: a**b,
        (lambda g, y, a, b: g * b * a ** (b - 1), lambda g, y, a, b: g * y * tc.log(a)),
    ),
}
WRONG: dict[str, Any] = {
    "factor": lambda f: lambda g, y, a, b: 1.001 * f(g, y, a, b),
    "sign": lambda f: lambda g, y, a, b: -f(g, y, a, b),
    "offset": lambda f: lambda g, y, a, b: f(g, y, a, b) + 0.01 * g,
    "missing g": lambda f: lambda g, y, a, b: f(g * 0 + 1, y, a, b),
    "g twice": lambda f: lambda g, y, a, b: g * f(g, y, a, b),
    "swapped inputs": lambda f: lambda g, y, a, b: f(g, y, b, a),
    "output for input": lambda f: lambda g, y, a, b: f(g, y, y, b) + f(g, y, a, y),
    "unbroadcast by the mean": lambda f: lambda g, y, a, b: f(g, y, a, b) * 0.5,
    "constant at second order": lambda f: lambda g, y, a, b: f(g, const(y), const(a), const(b)),
    "g constant at second order": lambda f: lambda g, y, a, b: f(const(g), y, a, b),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", FORWARDS)
@pytest.mark.parametrize("which", [0, 1])
def test_drawn_wrong_operations(name: str, kind: str, which: int) -> None:
    forward, right = FORWARDS[name]
    spread = [
        lambda g, y, a, b: unbroadcast(right[0](g, y, a, b), a.shape),
        lambda g, y, a, b: unbroadcast(right[1](g, y, a, b), b.shape),
    ]
    inputs = [leaf(3, 4), leaf(4, seed=1)]
    assert gradcheck(made(forward, *spread), inputs, order=2)
    wrong = WRONG[kind](right[which])
    shape = [(3, 4), (4,)][which]
    spread[which] = lambda g, y, a, b: unbroadcast(wrong(g, y, a, b), shape)
    with pytest.raises(tc.errors.TinyconvError):
        gradcheck(made(forward, *spread), inputs, order=2)
