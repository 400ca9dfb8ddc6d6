"""Integers and booleans, through every operation and function: PyTorch's numbers or a refusal."""

import inspect
import warnings
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pytest
from calls import Call

import tinyconv as tc
from tinyconv.autograd import OPS
from tinyconv.errors import DTypeError, TinyconvError
from tinyconv.samples import FUNCTIONS, Draw, Sample

torch = pytest.importorskip("torch")
from torch_twins import function_twin, to_torch, twin  # noqa: E402

INTEGERS = ["int64", "int32", "uint8", "int8", "bool"]
# called by no user, on what an operation before them made; their twins are made of others
INNER = {"relu_backward", "conv2d_input", "conv2d_weight", "affine", "affine_relu", "sum_to"}
INNER |= {"binary_cross_entropy", "binary_cross_entropy_slope", "band_product"}
TIES = {"topk"}  # whose first of equal entries is not PyTorch's
PEERS = {
    "maximum": lambda a, b: torch.maximum(torch.as_tensor(a), torch.as_tensor(b)),
    "minimum": lambda a, b: torch.minimum(torch.as_tensor(a), torch.as_tensor(b)),
}
CALLS = [
    pytest.param(function, sample, PEERS.get(name) or find(name), id=f"{name}-{i}")
    for table, find in ((OPS, twin), (FUNCTIONS, function_twin))
    for name, entry in sorted(table.items())
    for function, samples in [(entry, entry.samples) if table is OPS else entry]
    for i, sample in enumerate(samples)
    if name not in TIES and (name not in INNER or table is FUNCTIONS) and "dropout" not in name
]


def drawn(dtype: Any, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
    """Over the whole range of a small type, far beyond that of float16 and uint8 for a large."""
    if dtype == "bool":
        return np.asarray(rng.random(shape) < 0.5)
    if dtype == "float32":
        return rng.standard_normal(shape).astype(dtype)
    most = np.iinfo(dtype).max
    low = 0 if dtype == "uint8" else -min(most, 1000)
    numbers = rng.integers(low, min(most, 1000), shape, endpoint=True)
    return np.asarray(numbers).astype(dtype)


def as_integers(sample: Sample, dtypes: Sequence[Any], kind: Any = None) -> Sample:
    """The sample with integers where it draws floats; kind: those numbers in another dtype."""
    rng, turn = np.random.default_rng(3), cycle(dtypes)

    def one(value: Any) -> Any:
        if isinstance(value, Draw) and value.kind in ("float", "constant"):
            numbers = drawn(next(turn), value.shape, rng)
            return numbers if kind is None else numbers.astype(kind)
        return tuple(map(one, value)) if type(value) is tuple else value

    return Sample(tuple(map(one, sample.args)), {k: one(v) for k, v in sample.params.items()})


def tried(call: Any, *args: Any) -> Any:
    """What it returns, or the error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call(*args)
    except Exception as error:
        return error


def differences(function: Any, sample: Sample, dtypes: Sequence[Any], peer: Any) -> str:
    """What is wrong with tinyconv's answer, given PyTorch's; "" if nothing is."""
    call = Call(function, as_integers(sample, dtypes), np.float32)
    ours = tried(call.on, call.tensors())
    theirs = asked(call, peer)
    if isinstance(ours, Exception):
        refusal = DTypeError if not isinstance(theirs, Exception) else (TinyconvError, ValueError)
        numpys = type(ours).__module__.startswith("numpy")
        return "" if isinstance(ours, refusal) and not numpys else f"raises {ours!r}"
    if not isinstance(theirs, Exception):
        return compared(ours, theirs)
    exact = asked(Call(function, as_integers(sample, dtypes, np.float64), np.float32), peer)
    if isinstance(exact, Exception):
        return f"computes {ours} where PyTorch raises {theirs!r}"
    return compared(ours, exact, dtypes=False)  # then at least no number is another


def asked(call: Call, peer: Any) -> Any:
    return tried(call.on, [torch.tensor(a) for a in call.arrays], peer, to_torch)


OPERATORS = ["+", "-", "*", "/", "**", "//", "%", "&", "|", "^", "==", "!=", "<", "<=", ">", ">="]
LEFT = {
    "int64": [7, -7, 0], "uint8": [200, 3, 0], "int8": [-128, 100, 5], "bool": [True, False, True],
    "float32": [7.5, -3.0, 0.25],
}  # fmt: skip
RIGHT = [
    2, 0, -1, 300, 257, -300, 2.5, -0.5, True, False, float("nan"), 2**40, 2**70,
    np.float64(2.5), np.int64(3), np.int64(-1), np.float32(0.5),
    *[([3, 2, 1], kind) for kind in ("int64", "int32", "uint8", "int8", "float32")],
    ([2, 0, 1], "int64"), ([-1, 0, 2], "int8"), ([True, False, True], "bool"),
    *[(2, kind) for kind in ("int64", "uint8", "bool", "float32")],
]  # fmt: skip


def operand(m: Any, value: Any) -> Any:
    """A number, or a tensor of (numbers, dtype)."""
    return m.tensor(value[0], dtype=getattr(m, value[1])) if isinstance(value, tuple) else value


def agree(ours: Any, theirs: Any) -> None:
    """PyTorch's tensor, or a refusal of tinyconv's."""
    if isinstance(ours, Exception):
        assert isinstance(ours, TinyconvError), (ours, theirs)
    elif not isinstance(theirs, Exception):
        assert compared([ours], [theirs]) == ""
    else:  # beyond what PyTorch has: then as it is for floats
        assert ours.dtype.kind in "biuf"


# what PyTorch has and tinyconv refuses: bool ** True, and numbers that wrap before they are powers
REFUSED = {("bool", "**"), ("uint8", "**"), ("int8", "**")}


@pytest.mark.parametrize("left", LEFT)
@pytest.mark.parametrize("sign", OPERATORS)
def test_operators_promote_as_pytorch(sign: str, left: str) -> None:
    for right in RIGHT:
        for order in ("x {} y", "y {} x"):

            def value(m: Any, order: str = order, right: Any = right) -> Any:
                known = {"x": operand(m, (LEFT[left], left)), "y": operand(m, right)}
                return eval(order.format(sign), known)

            ours, theirs = tried(value, tc), tried(value, torch)
            agree(ours, theirs)
            refused = isinstance(ours, Exception) and not isinstance(theirs, Exception)
            assert not refused or (left, sign) in REFUSED or not_ours(right), (right, ours, theirs)


def not_ours(right: Any) -> bool:
    """Numbers whose meaning is PyTorch's own."""
    return isinstance(right, (int, tuple)) and (isinstance(right, tuple) or abs(right) > 2**63)


@pytest.mark.parametrize("left", LEFT)
@pytest.mark.parametrize("sign", [*OPERATORS[:10]])
def test_operators_in_place(sign: str, left: str) -> None:
    for right in RIGHT:

        def value(m: Any, right: Any = right) -> Any:
            x = operand(m, (LEFT[left], left))
            known = {"q": x, "y": operand(m, right)}
            exec(f"q {sign}= y", known)
            assert known["q"] is x
            return x

        agree(tried(value, tc), tried(value, torch))


def test_operators_in_place_pass_gradients_on() -> None:
    x = tc.tensor([2.0, 3.0], requires_grad=True)
    y = x * 1
    y **= 3
    y.sum().backward()
    assert x.grad.tolist() == [12, 27]
    z = tc.ones(2, 2)
    same = z
    z @= tc.ones(2, 2)
    assert same is z
    assert z.tolist() == [[2, 2], [2, 2]]


def compared(ours: list[Any], theirs: list[Any], dtypes: bool = True) -> str:
    for a, b in zip(ours, theirs, strict=True):
        x, y = np.asarray(getattr(a, "array", a)), b.numpy()
        if x.shape != y.shape or (dtypes and x.dtype != y.dtype):
            return f"{x.dtype} {x.shape}, PyTorch {y.dtype} {y.shape}"
        scale = 1e-5 * max(1, np.abs(y[np.isfinite(y)].astype(float)).max(initial=0))
        if not np.allclose(x, y, 1e-5, scale if y.dtype.kind == "f" else 0, equal_nan=True):
            return f"{x.tolist()}, PyTorch {y.tolist()}"
    return ""


ALONE = [[d] for d in INTEGERS]
MIXED = [["uint8", "int8"], ["int32", "bool"], ["uint8", "int64"], ["bool", "uint8"]]
MIXED += [["uint8", "float32"], ["float32", "int64"], ["bool", "float32"]]


@pytest.mark.parametrize(("function", "sample", "peer"), CALLS)
def test_integers_are_computed_as_pytorch_does_or_refused(
    function: Any, sample: Sample, peer: Any
) -> None:
    several = sum(isinstance(a, (Draw, tuple)) for a in sample.args) > 1
    for dtypes in [*ALONE, *MIXED] if several else ALONE:
        assert (dtypes, differences(function, sample, dtypes, peer)) == (dtypes, "")


# --- NumPy's scalars as parameters


def numpys(value: Any) -> Any:
    """Python's numbers as NumPy's; they are to mean the same."""
    if type(value) is tuple and any(type(v) is float for v in value):
        return tuple(map(numpys, value))
    kinds = {float: np.float64, int: np.int64}
    return kinds[type(value)](value) if type(value) in kinds else value


def defaults(function: Any, sample: Sample) -> dict[str, Any]:
    """The numbers that the sample leaves to the signature."""
    parameters = list(inspect.signature(function).parameters.values())[len(sample.args) :]
    numbers = [p for p in parameters if type(p.default) in (float, int)]
    return {p.name: p.default for p in numbers if p.kind is not p.VAR_POSITIONAL}


@pytest.mark.parametrize(("function", "sample", "peer"), CALLS)
def test_numpy_scalars_do_not_widen(function: Any, sample: Sample, peer: Any) -> None:
    params = {**defaults(function, sample), **sample.params}
    call = Call(function, Sample(sample.args, params), np.float32)
    scalars = Sample(
        tuple(map(numpys, sample.args)), {name: numpys(v) for name, v in params.items()}
    )
    expected = call.on(call.tensors())
    found = tried(call.on.__func__, Call(function, scalars, np.float32), call.tensors())
    assert not isinstance(found, Exception), repr(found)
    for a, b in zip(found, expected, strict=True):
        x, y = (np.asarray(getattr(t, "array", t)) for t in (a, b))
        assert x.dtype == y.dtype
        assert np.array_equal(x, y, equal_nan=True)


IMAGES = tc.arange(96.0).reshape(2, 3, 4, 4)
ROWS = IMAGES.reshape(2, 3, 16)
MADE: dict[str, Any] = {  # what a layer with numbers among its options needs besides
    "BatchNorm1d": ((3,), ROWS), "InstanceNorm1d": ((3,), ROWS), "LayerNorm": ((4,), IMAGES),
    "BatchNorm2d": ((3,), IMAGES), "InstanceNorm2d": ((3,), IMAGES), "GroupNorm": ((1, 3), IMAGES),
    "ConstantPad1d": ((1, 0.5), ROWS), "ConstantPad2d": ((1, 0.5), IMAGES),
    "LPPool2d": ((2.0, 2), IMAGES),
}  # fmt: skip


def with_floats(module: Any) -> list[str]:
    def has(c: Any) -> bool:
        ps = inspect.signature(c).parameters.values() if inspect.isclass(c) else ()
        return any(isinstance(p.default, float) or "float" in str(p.annotation) for p in ps)

    return [n for n in dir(module) if n[0].isupper() and has(getattr(module, n))]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", with_floats(tc.nn))
def test_numpy_scalars_as_options_of_layers(name: str, training: bool) -> None:
    kind = getattr(tc.nn, name)
    args, x = MADE.get(name, ((), IMAGES))
    if name.endswith("Loss"):
        x = (x[:, :, 0, 0], tc.tensor([0, 2]) if name == "CrossEntropyLoss" else x[:, :, 1, 1])
    options = {
        p.name: p.default
        for p in list(inspect.signature(kind).parameters.values())[len(args) :]
        if isinstance(p.default, float)
    }
    found = []
    for convert in (lambda v: v, numpys):
        tc.manual_seed(0)
        layer = kind(*map(convert, args), **{k: convert(v) for k, v in options.items()})
        layer.train(training)
        with tc.set_grad_enabled(training):  # evaluation has kernels of its own without a graph
            y = layer(*x) if isinstance(x, tuple) else layer(x)
        found.append((y, [v.dtype for v in layer.state_dict().values()]))
    (expected, dtypes), (y, state) = found
    assert y.dtype == tc.float32
    assert y.equal(expected)
    assert state == dtypes


@pytest.mark.parametrize("name", [n for n in with_floats(tc.optim) if not n.endswith("LR")])
def test_numpy_scalars_as_options_of_optimizers(name: str) -> None:
    kind, found = getattr(tc.optim, name), []
    numbers = {
        p.name: p.default or 0.1
        for p in inspect.signature(kind).parameters.values()
        if isinstance(p.default, (float, tuple)) or "float" in str(p.annotation)
    }
    for convert in (lambda v: v, numpys):
        p = tc.nn.Parameter(tc.ones(3))
        optimizer = kind([p], **{k: convert(v) for k, v in numbers.items()})
        for _ in range(3):
            p.grad = tc.tensor([1.0, 2.0, 3.0])
            tc.optim.clip_grad_norm_([p], convert(1.5), convert(3.0))
            tc.optim.clip_grad_value_([p], convert(0.5))
            assert p.grad.dtype == tc.float32
            optimizer.step()
        state = optimizer.state_dict()["state"][0]
        assert {v.dtype for v in state.values() if hasattr(v, "node") and v.ndim} <= {tc.float32}
        found.append(p.tolist())
    assert p.dtype == tc.float32
    assert found[0] == found[1]


# --- numbers beside float16, which count in float32

HALVES = {
    "x * c": lambda x, c: x * c, "c * x": lambda x, c: c * x, "x / c": lambda x, c: x / c,
    "c / x": lambda x, c: c / x, "x // c": lambda x, c: x // c,
    "trunc": lambda x, c: x.div(c, rounding_mode="trunc"),
}  # fmt: skip


@pytest.mark.parametrize("c", [65536, 1e5, 1e-8, 3e-6, np.float64(1e5), 2])
@pytest.mark.parametrize("name", HALVES)
def test_a_number_beside_float16_counts_in_float32(name: str, c: float) -> None:
    values = np.array([1e-3, 0.5, 3.0, 3e-5, 6e4], np.float16)
    found = [HALVES[name](m.tensor(values), c) for m in (tc, torch)]
    assert found[0].dtype == tc.float16
    rounded = 2e-3 if name == "c / x" else 1e-3  # PyTorch multiplies by a rounded 1 / x
    np.testing.assert_allclose(found[0].numpy(), found[1].numpy(), rtol=rounded)


def test_its_gradient_too_and_in_place() -> None:
    x = tc.tensor([1e-3, 0.5]).half().requires_grad_()
    (g,) = tc.grad(x * 65536, x, tc.tensor([1e-3, 2e-3]).half(), create_graph=True)
    assert g.dtype == tc.float16
    np.testing.assert_allclose(g.tolist(), [65.536, 131.07], rtol=2e-3)
    y = x.detach().clone()
    y *= 65536
    assert y.tolist() == (x * 65536).tolist()
    y /= 65536
    assert y.tolist() == x.tolist()


def test_a_comparison_with_float16_stays_one_in_float16() -> None:
    assert (tc.tensor([0.1]).half() == 0.1).item()


# --- integers


def test_a_quotient_of_integers_wraps_nothing() -> None:
    numbers: list[Any] = [
        m.tensor([0, 5], dtype=m.uint8) / m.tensor(-1, dtype=m.int8) for m in (tc, torch)
    ]
    assert numbers[0].tolist() == numbers[1].tolist() == [0, -5]


def test_alpha_times_booleans_keeps_the_integers_dtype() -> None:
    for dtype in ("int8", "uint8", "int32"):
        x, mask = tc.tensor([1, 2], dtype=dtype), tc.tensor([True, False])
        for y in (tc.add(x, mask, alpha=2), tc.sub(x, mask, alpha=-2)):
            assert (y.dtype, y.tolist()) == (np.dtype(dtype), [3, 2])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
@pytest.mark.parametrize("value", [300, -129, -1, 70000, 1.7])
def test_copy_wraps_a_number_as_pytorch_does(dtype: str, value: float) -> None:
    x = tc.zeros(2, dtype=dtype).copy_(value)
    assert x.tolist() == torch.zeros(2, dtype=getattr(torch, dtype)).copy_(value).tolist()


def test_fill_takes_one_number() -> None:
    assert tc.zeros(2).fill_(tc.tensor(3.0)).tolist() == [3, 3]
    with pytest.raises(tc.ShapeError, match="need a number"):
        tc.zeros(2).fill_(tc.tensor([3.0, 4.0]))


def test_plus_a_tensor_is_the_tensor() -> None:
    x = tc.tensor([1, 2])
    assert +x is x
    with pytest.raises(DTypeError, match="booleans"):
        +tc.tensor([True])


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_in_float16_keeps_its_tail(approximate: str) -> None:
    values = np.array([-50, -4.5, -4, -3, -1, 0.5, 3, 60], np.float16)
    found: list[list[Any]] = []
    for m, dtype in ((tc, np.float16), (torch, np.float64)):
        x: Any = m.from_numpy(values.astype(dtype)).requires_grad_()
        y = m.nn.functional.gelu(x, approximate=approximate)
        y.sum().backward()
        found.append([y.detach().numpy(), x.grad.numpy()])
    for ours, right in zip(*found, strict=True):
        assert ours.dtype == np.float16
        near = {"none": 2e-3, "tanh": 2e-2}[approximate]  # its tail cancels in float32, too
        np.testing.assert_allclose(ours, right, rtol=near, atol=1e-7)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_of_nothing_in_float16_is_float16(name: str) -> None:
    y = getattr(tc.nn.functional, name)(tc.zeros(5, 0).half(), 1)
    assert (y.dtype, y.shape) == (tc.float16, (5, 0))
