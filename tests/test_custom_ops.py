"""Operations that people write: what is wrong with one, an error says, with where and a fix."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tinyconv as tc
from tinyconv.autograd import OPS
from tinyconv.errors import TinyconvError


@pytest.fixture(autouse=True)
def table_as_before() -> Iterator[None]:
    before = dict(OPS)
    yield
    OPS.clear()
    OPS.update(before)


def leaf(*shape: int) -> tc.Tensor:
    return tc.tensor(np.random.default_rng(0).uniform(0.5, 2, shape), requires_grad=True)


# --- no VJP


def test_an_operation_without_a_vjp_is_no_silent_constant() -> None:
    @tc.op
    def square(x: Any) -> Any:
        return x * x

    x = leaf(2)
    with pytest.raises(tc.GraphError, match=r"square.defvjp\(lambda g, y, x: ...\).*=False"):
        square(x)
    with tc.no_grad():
        assert not square(x).requires_grad
    assert square(x.detach()).tolist() == (x.array**2).tolist()
    assert isinstance(square(x.array), np.ndarray)


def test_integers_and_booleans_need_no_declaration() -> None:
    @tc.op
    def above(x: Any) -> Any:
        return x > 1

    assert above(leaf(3)).dtype == np.bool_


def test_a_declared_operation_is_a_constant() -> None:
    @tc.op(differentiable=False)
    def rounded(x: Any) -> Any:
        return np.round(x)

    x = leaf(3)
    (rounded(x) * x).sum().backward()
    assert x.grad.tolist() == np.round(x.array).tolist()
    with pytest.raises(TypeError, match="declared differentiable=False: it takes no VJP"):
        rounded.defvjp(lambda g, _y, _x: g)


@pytest.mark.parametrize("name", [name for name, op in OPS.items() if not op.vjps])
def test_what_has_no_vjps_gives_no_float_or_is_declared(name: str) -> None:
    op = OPS[name]
    for sample in op.samples:
        args, params = sample.make(np.random.default_rng(0))
        out = np.asarray(op.forward(*args, **params))
        assert not op.differentiable or out.dtype.kind != "f"


@pytest.mark.parametrize(
    ("ours", "wanted"), [(lambda x: x.sign(), 0.0), (lambda x: x // 2 * x, None)]
)
def test_pytorchs_derivative_of_steps(ours: Any, wanted: Any) -> None:
    x = leaf(3)
    ours(x).sum().backward()
    assert x.grad.tolist() == ([wanted] * 3 if wanted is not None else (x.array // 2).tolist())


# --- VJPs that do not fit

BAD_VJPS: dict[str, tuple[Any, tuple[Any, ...], str]] = {
    "one missing": (lambda a, b: a * b, (lambda g, y, a, b: g,), r"1 VJP given, need 2.*\(a, b\)"),
    "one too many": (lambda x: x, (lambda g, y, x: g,) * 2, "2 VJPs given, need 1"),
    "none at all": (lambda x: x, (), "0 VJPs given, need 1"),
    "None alone": (lambda x: x, (None,), "differentiable=False"),
    "without y": (lambda x: x, (lambda g, x: g,), r"its VJP 0 takes \(g, x\).* lambda g, y, x: "),
    "one input only": (
        lambda a, b: a, (None, lambda g, y, b: g), r"VJP 1 takes .*lambda g, y, a, b: "
    ),
    "without the keyword": (
        lambda x, *, k: x * k, (lambda g, y, x: g,), r"VJP 0 takes .*lambda g, y, x, \*, k: "
    ),
    "another keyword": (lambda x, *, k: x * k, (lambda g, y, x, *, j: g,), "VJP 0 takes"),
    "no function": (lambda x: x, (3,), "VJP 0 is a int; write it as lambda g, y, x: "),
    "variadic": (lambda *xs: xs[0], (lambda g, y, *xs: g, None), "2 VJPs given, need 1"),
}


@pytest.mark.parametrize("case", BAD_VJPS)
def test_vjps_that_cannot_be_called_are_refused_when_given(case: str) -> None:
    forward, vjps, said = BAD_VJPS[case]
    with pytest.raises(TypeError, match="mine: .*" + said):
        tc.op(name="mine")(forward).defvjp(*vjps)


def test_vjps_may_take_anything() -> None:
    tc.op(name="mine")(lambda a, b, *, k=2: a * b * k).defvjp(
        lambda g, y, *inputs, **params: g * inputs[1] * params["k"],
        lambda *args, k: args[0] * args[2] * k,
    )
    assert tc.gradcheck(OPS["mine"], [leaf(3), leaf(3)], order=2)


def reads_nothing(g: Any, _y: Any, _x: Any) -> Any:
    return g * _x


FAILING: dict[str, tuple[Any, str]] = {
    "None": (lambda g, y, x: None, r"VJP 0 returned None; does it lack a return\?"),
    "a tuple": (lambda g, y, x: (g, g), "VJP 0 returned a tuple, need the gradient of input 0"),
    "a list": (lambda g, y, x: [g], "VJP 0 returned a list"),
    "a number": (lambda g, y, x: 1.0, "VJP 0 returned a float"),
    "too few axes": (lambda g, y, x: g.sum(), r"VJP 0 returned \(\) for an input of shape \(3"),
    "too many axes": (lambda g, y, x: g[None], "unbroadcast"),
    "a method of Tensors": (
        lambda g, y, x: g * (x > 0).float(), r"no attribute 'float'. It is called on plain arrays"
    ),
    "another one": (lambda g, y, x: g.detach(), r"write it in what both have"),
    "shapes": (lambda g, y, x: g * np.ones(7), "VJP 0 raised ValueError"),
    "an index": (lambda g, y, x: g[9], "VJP 0 raised IndexError"),
    "a misspelt name": (lambda g, y, x: g * x.shappe, "no attribute 'shappe'"),
    "a lie": (reads_nothing, "Does it read the values of _x.* take the underscore away"),
}


@pytest.mark.parametrize("case", FAILING)
def test_vjps_that_fail_say_which_and_how_to_write_it(case: str) -> None:
    vjp, said = FAILING[case]
    op = tc.op(name="mine")(lambda x: 2 * x)
    op.defvjp(vjp)
    with pytest.raises(TinyconvError, match="mine: its " + ("" if said.startswith("VJP") else ".*")
                       + said):
        op(leaf(3, 4) * 1).sum().backward()


FAILING_ON_TENSORS: dict[str, tuple[Any, str]] = {
    "a method of arrays": (lambda g, y, x: g * (x > 0).astype(float), "no attribute 'astype'"),
    "a function of NumPy": (lambda g, y, x: g * np.square(x), "np.square does not take a Tensor"),
    "dtypes": (lambda g, y, x: g + 1e-4 * (x > 5), "VJP 0 failed: add: operand 0 is float64"),
}


@pytest.mark.parametrize("case", FAILING_ON_TENSORS)
def test_vjps_that_only_run_on_arrays_say_so_at_second_order(case: str) -> None:
    vjp, said = FAILING_ON_TENSORS[case]
    op = tc.op(name="mine")(lambda x: 2 * x)
    op.defvjp(vjp)
    x = leaf(3, 4)
    op(x).sum().backward()
    with pytest.raises(TinyconvError, match="mine: .*" + said):
        op(x).sum().backward(create_graph=True)


# --- forwards

FORWARDS: dict[str, tuple[Any, str]] = {
    "None": (lambda x: None, "its forward returned None, not an array; does it lack a return?"),
    "a list": (lambda x: x.tolist(), "its forward returned a list"),
    "a number": (lambda x: 3.0, "its forward returned a float"),
    "two arrays": (lambda x: (x, x), r"returned a tuple.*how many outputs.*@tc.op\(outputs=2\)"),
    "a Tensor": (lambda x: tc.tensor(x), "its forward returned a Tensor"),
}


@pytest.mark.parametrize("case", FORWARDS)
def test_forwards_that_return_no_array(case: str) -> None:
    forward, said = FORWARDS[case]
    op = tc.op(name="mine")(forward)
    op.defvjp(lambda g, _y, _x: g)
    with pytest.raises(tc.DTypeError, match="mine: .*" + said.replace("?", r"\?")):
        op(leaf(3))


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (lambda x: x, "a ndarray, not the tuple of 2 arrays"),
        (lambda x: (x, x, x), "3 of them, not the tuple of 2 arrays"),
        (lambda x: [x, x], "a list, not the tuple of 2 arrays"),
        (lambda x: (x, None), "None, not an array"),
        (lambda x: (x, 3.0), "a float, not an array"),
    ],
)
def test_forwards_that_do_not_return_their_outputs(returned: Any, said: str) -> None:
    op = tc.op(name="mine", outputs=2)(returned)
    op.defvjp(lambda g, _y, _z, _x: g[0] + g[1])
    for grad in (True, False):
        with pytest.raises(tc.DTypeError, match="mine: its forward returned " + said):
            op(leaf(3) if grad else leaf(3).detach())


def test_a_vjp_of_several_outputs_takes_each_of_them() -> None:
    op = tc.op(name="mine", outputs=2)(lambda x: (x, x))
    with pytest.raises(TypeError, match=r"write it as lambda g, y0, y1, x: \.\.\."):
        op.defvjp(lambda g, _y, _x: g[0])


# --- keywords and names


@pytest.mark.parametrize("grad", [False, True])
def test_a_tensor_as_a_keyword_is_refused(grad: bool) -> None:
    op = tc.op(name="mine")(lambda x, *, k: x * k)
    op.defvjp(lambda g, _y, _x, *, k: g * k)
    k = tc.tensor(2.0, dtype=tc.float64, requires_grad=grad)
    with pytest.raises(tc.DTypeError, match=r"its keyword k is a Tensor.*k=k.item\(\)"):
        op(leaf(3), k=k)
    with pytest.raises(tc.DTypeError, match="keyword beta is a Tensor"):
        tc.nn.functional.softplus(leaf(3), beta=k)
    assert op(leaf(3), k=k.item()).requires_grad


def test_a_name_of_the_library_is_taken() -> None:
    before = OPS["relu"]
    with pytest.raises(ValueError, match=r"relu is the name .*@tc.op\(name='my_relu'\)"):
        @tc.op
        def relu(x: Any) -> Any:
            return x

    assert OPS["relu"] is before


def test_a_function_may_be_defined_again() -> None:
    made = []
    for factor in (2, 3):
        def mine(x: Any, factor: int = factor) -> Any:
            return x * factor

        made.append(tc.op(lambda x: mine(x), name="mine"))
    assert OPS["mine"] is made[1]
