"""Methods, operators, indexing, promotion and printing: what torch.Tensor does."""

import inspect
import math
import pickle
import typing
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

import tinyconv as tc

try:
    import torch
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed")
quick = settings(max_examples=60, deadline=None)


def draw(*shape: int, seed: int = 0, dtype: Any = np.float64) -> Any:
    return np.random.default_rng(seed).uniform(0.2, 2.0, shape).astype(dtype)


def both(f: Any, *arrays: Any) -> None:
    """f does the same to Tensors and to PyTorch's, values and gradients."""
    ours = [tc.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    theirs = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    found, expected = flat(f(*ours)), flat(f(*theirs))
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == tuple(b.shape)
        assert str(a.dtype) == str(b.dtype).removeprefix("torch.")
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-10, atol=1e-12)
    sums = [
        [(a.double() ** 2).sum() for a in outs if a.requires_grad] for outs in (found, expected)
    ]
    if sums[0] and sums[1]:
        sum(sums[0]).backward()
        sum(sums[1]).backward()
        for x, y in zip(ours, theirs, strict=True):
            if y.grad is not None:
                np.testing.assert_allclose(x.grad.numpy(), y.grad.numpy(), rtol=1e-10, atol=1e-12)


def flat(out: Any) -> list[Any]:
    return [t for part in out for t in flat(part)] if isinstance(out, (tuple, list)) else [out]


# --- methods

METHODS: list[tuple[str, Any]] = [
    ("abs", lambda x: x.abs()),
    ("exp", lambda x: x.exp()),
    ("log", lambda x: x.log()),
    ("log1p", lambda x: x.log1p()),
    ("sqrt", lambda x: x.sqrt()),
    ("rsqrt", lambda x: x.rsqrt()),
    ("sin", lambda x: x.sin()),
    ("cos", lambda x: x.cos()),
    ("tanh", lambda x: x.tanh()),
    ("sigmoid", lambda x: x.sigmoid()),
    ("relu", lambda x: x.relu()),
    ("erf", lambda x: x.erf()),
    ("neg", lambda x: x.neg()),
    ("sign", lambda x: x.sign()),
    ("isnan", lambda x: x.isnan()),
    ("isfinite", lambda x: x.isfinite()),
    ("clamp", lambda x: x.clamp(0.5, 1.0)),
    ("clamp max", lambda x: x.clamp(max=1.0)),
    ("pow", lambda x: x.pow(3)),
    ("add", lambda x: x.add(1)),
    ("sub", lambda x: x.sub(1)),
    ("mul", lambda x: x.mul(2)),
    ("div", lambda x: x.div(2)),
    ("compare", lambda x: [x.eq(1), x.ne(1), x.lt(1), x.le(1), x.gt(1), x.ge(1)]),
    ("compare operators", lambda x: [x == 1, x != 1, x < 1, x <= 1, x > 1, x >= 1, x > 1, x <= 1]),
    ("logic", lambda x: [(x > 0.5) & (x < 1), (x > 1) | (x < 0.5), ~(x > 1)]),
    (
        "sum",
        lambda x: [x.sum(), x.sum(1), x.sum(-1, keepdim=True), x.sum((0, 2)), x.sum(dim=(0, 1, 2))],
    ),
    ("mean", lambda x: [x.mean(), x.mean(1), x.mean((0, 2), keepdim=True), x.mean(dim=-1)]),
    (
        "var",
        lambda x: [
            x.var(),
            x.var(1),
            x.var(1, unbiased=False),
            x.var((0, 2), correction=0),
            x.var(0, keepdim=True),
        ],
    ),
    ("std", lambda x: [x.std(), x.std(1), x.std(dim=(0, 1), keepdim=True)]),
    ("max", lambda x: [x.max(), x.max(1), x.max(-1, keepdim=True), x.max(dim=0).values]),
    ("min", lambda x: [x.min(), x.min(1), x.min(-1, keepdim=True), x.min(dim=0).indices]),
    ("amax", lambda x: [x.amax(1), x.amax((0, 2)), x.amax(dim=-1, keepdim=True)]),
    ("amin", lambda x: [x.amin(1), x.amin((0, 2)), x.amin(dim=-1, keepdim=True)]),
    ("argmax", lambda x: [x.argmax(), x.argmax(1), x.argmax(-1, keepdim=True)]),
    ("argmin", lambda x: [x.argmin(), x.argmin(1), x.argmin(-1, keepdim=True)]),
    ("prod", lambda x: [x.prod(), x.prod(1), x.prod(-1, keepdim=True)]),
    ("logsumexp", lambda x: [x.logsumexp(1), x.logsumexp((0, 2)), x.logsumexp(-1, keepdim=True)]),
    (
        "norm",
        lambda x: [
            x.norm(),
            x.norm(1),
            x.norm(2, 1),
            x.norm(3, dim=0),
            x.norm(math.inf),
            x.norm(2, (0, 1), True),
        ],
    ),
    ("cumsum", lambda x: [x.cumsum(0), x.cumsum(-1)]),
    (
        "all any",
        lambda x: [(x > 1).all(), (x > 1).any(1), (x > 1).all(1, keepdim=True), (x > 9).any()],
    ),
    ("softmax", lambda x: [x.softmax(0), x.softmax(-1), x.log_softmax(1)]),
    (
        "reshape",
        lambda x: [x.reshape(6, 4), x.reshape((2, -1)), x.reshape(-1), x.view(24), x.view(4, 3, 2)],
    ),
    ("flatten", lambda x: [x.flatten(), x.flatten(1), x.flatten(0, 1), x.flatten(-2)]),
    (
        "squeeze",
        lambda x: [
            x[:1].squeeze(),
            x[:1].squeeze(0),
            x.squeeze(1),
            x.unsqueeze(0),
            x.unsqueeze(-1),
        ],
    ),
    (
        "transpose",
        lambda x: [
            x.transpose(0, 2),
            x.transpose(-1, 1),
            x.permute(2, 0, 1),
            x.permute((1, 0, 2)),
            x[0].T,
        ],
    ),
    (
        "expand",
        lambda x: [
            x[:, :1].expand(2, 5, 4),
            x.expand(7, -1, -1, -1),
            x[:, :1].broadcast_to((2, 5, 4)),
        ],
    ),
    (
        "flip roll",
        lambda x: [
            x.flip(0),
            x.flip(0, 1),
            x.flip((0, -1)),
            x.roll(1),
            x.roll(2, 1),
            x.roll((1, -1), (0, 2)),
        ],
    ),
    (
        "split",
        lambda x: [
            x.split(3, 1),
            x.split([1, 2], 1),
            x.chunk(2, 2),
            x.chunk(3, -1),
            x.chunk(9),
            x.unbind(1),
            x.unbind(),
        ],
    ),
    ("index_select", lambda x: x.transpose(0, 1).contiguous()),
    ("clone", lambda x: [x.clone(), x.contiguous(), x.double(), x.float().double()]),
    ("casts", lambda x: [x.long(), x.bool(), x.float(), x.half(), x.double()]),
    ("iteration", lambda x: [row * 2 for row in x]),
    (
        "operators",
        lambda x: [x + 1, 1 + x, x - 1, 1 - x, x * 2, 2 * x, x / 2, 2 / x, x**2, 2**x, -x, abs(x)],
    ),
    ("int", lambda x: [x.int(), x.bool().int()]),
    ("view_as", lambda x: [x.view_as(x.flatten()), x.reshape_as(x.permute(2, 0, 1))]),
    ("t", lambda x: [x[0].t(), x[0, 0].t(), x[0, 0, 0].t()]),
    (
        "masked_fill",
        lambda x: [x.masked_fill(x > 1, 0.5), x[0].masked_fill(x > 1, x[0, 0, 0] * 2)],
    ),
    ("repeat", lambda x: [x.repeat(2, 1, 3), x.repeat((2, 1, 1, 2)), x.tile(2), x.repeat(0, 1, 1)]),
    ("sort", lambda x: [x.sort(), x.sort(0, descending=True), x.sort(dim=1).values]),
    ("argsort", lambda x: [x.argsort(), x.argsort(0, True), x.argsort(dim=1, descending=True)]),
    ("topk", lambda x: [x.topk(2), x.topk(1, 0, largest=False), x.topk(k=3, dim=1).indices]),
    ("triangles", lambda x: [x.tril(), x.triu(1), x.tril(diagonal=-1), (x > 1).triu()]),
    ("counts", lambda x: x * (x.nelement() + x.size()[0])),
    ("modulo", lambda x: [x % 0.7, x.detach() // 0.7, 5 // x.detach()]),
    (
        "sizes",
        lambda x: x * (x.size(0) + x.shape[1] + x.dim() + x.numel() + len(x) + x.ndim + x.size(-1)),
    ),
]


@needs_torch
@pytest.mark.parametrize("f", [f for _, f in METHODS], ids=[name for name, _ in METHODS])
def test_method_against_torch(f: Any) -> None:
    both(f, draw(2, 3, 4))


@needs_torch
@pytest.mark.parametrize(
    "f",
    [
        lambda a, b: [a + b, a - b, a * b, a / b, a**b, a.maximum(b), a.minimum(b)],
        lambda a, b: [a < b, a == b, a >= b],
        lambda a, b: a.where(a > b, b),
        lambda a, b: [a.mm(b.t()), a[None].bmm(b.t()[None])],
        lambda a, b: [a @ b.transpose(0, 1), a.matmul(b.T), a[0].outer(b[1]), a[0] @ b[0]],
    ],
)
def test_two_tensors_against_torch(f: Any) -> None:
    both(f, draw(3, 4), draw(3, 4, seed=1))


@needs_torch
def test_functions_of_lists_against_torch() -> None:
    a, b = draw(2, 3), draw(2, 3, seed=1)
    x, y, tx, ty = tc.tensor(a), tc.tensor(b), torch.tensor(a), torch.tensor(b)
    for dim in (0, 1, -1):
        assert tc.cat([x, y], dim).tolist() == torch.cat([tx, ty], dim).tolist()
        assert tc.stack((x, y), dim=dim).tolist() == torch.stack((tx, ty), dim=dim).tolist()


@needs_torch
def test_order_of_ties_and_nan_against_torch() -> None:
    values = np.array([2.0, np.nan, 1.0, 2.0, 1.0, np.nan])
    x, y = tc.tensor(values), torch.tensor(values)
    for descending in (False, True):
        found = x.argsort(descending=descending, stable=True)
        assert found.tolist() == y.argsort(descending=descending, stable=True).tolist()


def test_functions_that_are_no_methods() -> None:
    x = tc.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert tc.equal(x, x.clone())
    assert not tc.equal(x, x + 1)
    assert not x.equal(x[0])
    assert tc.numel(x) == 4
    assert tc.tile(x, (1, 2)).shape == (2, 4)
    assert tc.sort(x, 1, True).values.tolist() == [[2, 1], [4, 3]]
    assert tc.bitwise_not(tc.bitwise_xor(x > 1, x > 2)).tolist() == [[True, False], [True, True]]


def test_numpys_operators_take_tensors() -> None:
    """An array on the left records what a Tensor there would; in place it explains itself."""
    x, a = tc.tensor([1.0, 2.0], requires_grad=True), np.array([2, 3], np.float32)
    for y, expected in [
        (a * x, [2, 6]), (a - x, [1, 1]), (a / x, [2, 1.5]), (a @ x, 8),
        (np.float64(2) ** x, [2, 4]),
    ]:  # fmt: skip
        assert y.requires_grad
        assert y.dtype == tc.float32
        assert y.tolist() == expected
    assert (a > x).tolist() == [True, True]
    assert np.stack([x.detach(), x.detach()]).shape == (2, 2)
    with pytest.raises(TypeError, match=r"x.array is the raw array: .*tc.no_grad\(\)"):
        x.array -= 0.1 * x
    x.array = a - x.detach()  # not noticed here, for speed
    with pytest.raises(tc.DTypeError, match=r"has a Tensor as its .array, .*x.array = y.array"):
        x * 2.0


@needs_torch
def test_gather_scatter_against_torch() -> None:
    index = np.array([[0, 1, 1], [2, 0, 1]])
    both(lambda x, i: x.gather(0, i), draw(3, 3), index)
    both(lambda x, i: x.gather(-1, i), draw(3, 3), index)
    both(lambda x, i, s: x.scatter_add(0, i, s), draw(3, 3), index, draw(2, 3, seed=1))
    both(lambda x, i: x.index_select(1, i), draw(2, 3), np.array([2, 0, 2]))


@needs_torch
@pytest.mark.parametrize("value", [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-30, 80.0])
@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh", "abs", "erf", "sqrt", "exp", "log1p"])
def test_special_values_against_torch(name: str, value: float) -> None:
    found = getattr(tc.tensor([value], dtype=tc.float64), name)().tolist()
    np.testing.assert_allclose(
        found, getattr(torch.tensor([value], dtype=torch.float64), name)().tolist(), rtol=1e-12
    )


@needs_torch
def test_ties_and_kinks_share_gradients_as_torch_does() -> None:
    x = np.array([[1.0, 2.0, 2.0], [0.0, 0.0, -1.0]])
    for f in (
        lambda t: t.amax(1),
        lambda t: t.max(),
        lambda t: t.max(1).values,
        lambda t: t.amin(0),
        lambda t: t.relu(),
        lambda t: t.abs(),
        lambda t: t.clamp(0.0, 2.0),
        lambda t: t.maximum(t.flip(1)),
        lambda t: t.prod(1),
        lambda t: t.prod(),
        lambda t: t[1].norm(),
        lambda t: t**2,
        lambda t: t**0,
        lambda t: t**1.0,
    ):
        both(f, x)
    both(lambda t, p: t**p, np.array([0.0, 0.0, 0.0, 2.0]), np.array([0.0, 1.0, 2.0, 0.0]))


@needs_torch
def test_bits_against_torch() -> None:
    def f(a: Any, b: Any) -> list[Any]:
        return [a & b, a | b, a ^ b, ~a]

    ints = [np.array([6, 3, -1], kind) for kind in (np.int8, np.int64)]
    bools = np.array([True, False, True]), np.array([[True], [False]])
    for a, b in [ints, bools, (ints[0], bools[0]), (bools[0], ints[1])]:
        both(f, a, b)
    both(lambda a: [a & 5, 5 | a, 3 ^ a, a ^ 3, 6 & a, ~a], ints[1])
    both(lambda a: [a & 1, True & a, a | 1, a ^ True], bools[0])


@needs_torch
def test_clamp_against_torch() -> None:
    for limits in [{"min": 0.5}, {"max": 2.5}, {"min": 0.5, "max": 3}, {"min": 2, "max": 3}]:
        both(lambda x, limits=limits: x.clamp(**limits), np.array([1, 5, -2]))
    low, high = np.array([1.0, 2, 1, 1.5, np.nan]), np.array([[2.0], [1.0]])
    x = np.array([[0.0, 2.0, 3.0, 1.5, 1.0], [-1.0, 1.0, 0.5, 9.0, 1.0]])
    both(lambda x, low: x.clamp(low), x, low)
    both(lambda x, high: x.clamp(max=high), x, high)
    both(lambda x, low, high: x.clamp(low, high), x, np.array([1.5]), high)
    both(lambda x, low, high: x.clamp(low, high), x, low, high + 0.2)
    found = tc.tensor([1, 5]).clamp(tc.tensor(2.5), 3)
    assert (found.dtype, found.tolist()) == (tc.float32, [2.5, 3.0])


@needs_torch
def test_constant_data_has_no_slope_of_std() -> None:
    x = np.array([[2.0, 2.0, 2.0], [1.0, 2.0, 4.0]])
    both(lambda x: [x.std(1), x.std(1, correction=0), x[0].std()], x)


@needs_torch
def test_no_axis_named_means_all() -> None:
    def f(x: Any) -> list[Any]:
        names = ["sum", "mean", "amax", "amin", "norm", "all", "any"]
        outs = [getattr(x, name)(dim=(), keepdim=k) for name in names for k in (False, True)]
        # PyTorch 2.13 divides the gradients of these two by the wrong count
        return [*outs, x.detach().var(dim=()), x.detach().std(dim=(), keepdim=True)]

    both(f, draw(2, 3))
    assert tc.ones(2, 3).sum([]).item() == 6
    assert tc.ones(2, 3).all([]).shape == (2, 3)
    assert tc.ones(2, 3).logsumexp(()).shape == ()


FORMS: list[tuple[str, Any]] = [
    ("max of two", lambda x, y, l: [x.max(y), x.max(other=y), x.min(y), x.min(other=y)]),
    ("positional unbiased", lambda x, y, l: [x.var(False), x.std(True), x.std(False)]),
    ("dim, unbiased", lambda x, y, l: [x.var(1, False), x.std(0, True, True)]),
    ("fro", lambda x, y, l: [x.norm("fro"), x.norm("fro", dim=(0, 1)), x.norm(p="fro", dim=1)]),
    ("alpha", lambda x, y, l: [x.add(y, alpha=2), x.sub(y, alpha=0.5), x.add(1, alpha=3)]),
    ("sum's dtype", lambda x, y, l: [x.float().sum(dtype=x.dtype), l.sum(dtype=x.dtype), l.sum(1)]),
    ("mean's dtype", lambda x, y, l: [x.float().mean(1, dtype=x.dtype), l.mean(dtype=x.dtype)]),
    ("softmax's dtype", lambda x, y, l: [x.float().softmax(1, x.dtype), l.softmax(0, x.dtype)]),
    ("log_softmax's dtype", lambda x, y, l: [l.log_softmax(0, dtype=x.dtype)]),
    ("view", lambda x, y, l: [x.view(4, 3), x[:, :2].view(3, 1, 2), x.T.view(2, 2, 3)]),
]  # fmt: skip


@needs_torch
@pytest.mark.parametrize("f", [f for _, f in FORMS], ids=[name for name, _ in FORMS])
def test_form_against_torch(f: Any) -> None:
    both(f, draw(3, 4), draw(3, 4, seed=1), np.arange(6).reshape(2, 3))


@needs_torch
def test_forms_of_functions_against_torch() -> None:
    a, b = draw(3, 4), draw(4, seed=1)
    for library in (tc, torch):
        x, y = library.tensor(a), library.tensor(b)
        outs = [
            library.max(x, y), library.min(x, y), library.add(x, y, alpha=2),
            library.sub(x, y, alpha=2), library.clamp(x, 0.5, 1.0), library.clamp(x, max=y),
            library.einsum("ij,j->i", [x, y]), library.einsum("...i,i", (x, y)),
        ]  # fmt: skip
        if library is tc:
            found = outs
    for ours, theirs in zip(found, outs, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-12)


def test_nothing_equals_none() -> None:
    x = tc.ones(2)
    assert (x == None) is False  # noqa: E711
    assert (x != None) is True  # noqa: E711
    assert None not in [x]


def test_an_operation_says_how_it_is_called() -> None:
    assert str(inspect.signature(tc.sum)) == "(x, dim=None, keepdim=False, dtype=None)"
    assert str(inspect.signature(tc.OPS["einsum"])) == "(*xs, subscripts)"
    assert inspect.getdoc(tc.relu) == "max(x, 0); the derivative at 0 is 0."
    for op in tc.OPS.values():
        assert inspect.signature(op)
        assert op.__doc__
    x = tc.tensor([[1.0, -2.0]])
    assert tc.sum(x, 1).tolist() == tc.sum(x=x, dim=1).tolist() == [-1.0]
    assert tc.maximum(x, b=x).tolist() == x.tolist()


# --- dtypes

KINDS = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]


@needs_torch
@pytest.mark.parametrize("dtype", KINDS)
def test_result_dtypes_against_torch(dtype: str) -> None:
    ones = np.ones(3, dtype)
    x, t = tc.tensor(ones), torch.tensor(ones)
    functions: list[Any] = [
        lambda v: v + 1,
        lambda v: v * 2.5,
        lambda v: v / 2,
        lambda v: 1 / v,
        lambda v: v / v,
        lambda v: v > 0,
        lambda v: v + v,
        lambda v: v.sum(),
        lambda v: v.prod(),
        lambda v: v.cumsum(0),
        lambda v: v.exp(),
        lambda v: v.log(),
        lambda v: v.sqrt(),
        lambda v: v.sin(),
        lambda v: v.cos(),
        lambda v: v.tanh(),
        lambda v: v.sigmoid(),
        lambda v: v.rsqrt(),
        lambda v: v.erf(),
        lambda v: v.log1p(),
        lambda v: v.argmax(),
        lambda v: v.max(),
        lambda v: v.isnan(),
        lambda v: v == 1,
        lambda v: v + True,
        lambda v: v.float(),
        lambda v: v.logsumexp(0),
    ]
    for f in functions:
        try:
            expected = f(t)
        except RuntimeError:  # PyTorch has no such kernel
            continue
        found = f(x)
        assert str(found.dtype) == str(expected.dtype).removeprefix("torch.")
        np.testing.assert_allclose(found.tolist(), expected.tolist(), rtol=2e-3)


@needs_torch
@pytest.mark.parametrize("other", KINDS)
@pytest.mark.parametrize("dtype", KINDS)
def test_promotion_against_torch(dtype: str, other: str) -> None:
    a, b = np.ones(2, dtype), np.ones(2, other)
    if a.dtype.kind == b.dtype.kind == "f" and a.dtype != b.dtype:
        with pytest.raises(tc.DTypeError, match="convert one"):
            tc.tensor(a) * tc.tensor(b)
        return
    expected = (torch.tensor(a) * torch.tensor(b)).dtype
    assert str((tc.tensor(a) * tc.tensor(b)).dtype) == str(expected).removeprefix("torch.")


def test_where_of_two_numbers_is_float32() -> None:
    assert tc.where(tc.tensor([True, False]), 1.0, 0.0).dtype == tc.float32
    assert tc.where(tc.tensor([True, False]), 1, 0).dtype == tc.int64


def test_to() -> None:
    x = tc.ones(2)
    assert x.to(tc.float32) is x
    assert x.to("cpu") is x
    assert x.cpu() is x
    assert (
        x.to(tc.float64).dtype
        == x.to(dtype=tc.float64).dtype
        == x.to("cpu", tc.float64).dtype
        == tc.float64
    )
    assert x.to(tc.ones(1, dtype=tc.float16)).dtype == tc.float16
    assert x.device == "cpu"
    with pytest.raises(tc.DeviceError, match="no backend for 'abacus'; there is 'cpu'"):
        x.to("abacus")


# --- indexing

INDEXES: list[Any] = [
    0,
    -1,
    slice(None),
    slice(1, 3),
    slice(None, None, 2),
    Ellipsis,
    None,
    (0, 1),
    (0, 1, 2),
    (slice(None), 0),
    (Ellipsis, -1),
    (None, 0),
    (0, None, Ellipsis),
    (slice(1, None), slice(None, 2), slice(0, 1)),
    (slice(None), None, 1),
    [0, 2],
    ([[0, 1], [1, 0]],),
    ([0, 1], [1, 2]),
    (slice(None), [2, 0, 0]),
    ([0, 1], slice(None), [1, 1]),
    (Ellipsis, [0, 3]),
    [True, False, True],
    (slice(None), [True, False, True]),
    [],
]


@needs_torch
@pytest.mark.parametrize("index", INDEXES, ids=repr)
def test_index_against_torch(index: Any) -> None:
    both(lambda x: x[index], draw(3, 3, 4))


@needs_torch
def test_tensor_index_against_torch() -> None:
    x = draw(3, 3, 4)
    both(lambda x, i: [x[i], x[:, i], x[0, i], x[i, i], x[i[0]]], x, np.array([2, 0, 2]))
    both(lambda x: [x[x > 1.0], x[x.sum((1, 2)) > 12]], x)
    both(lambda x, m: [x[m], x[:, m[0, :3, 0]]], x, x > 1.0)


@needs_torch
@pytest.mark.parametrize("index", INDEXES, ids=repr)
def test_assignment_against_torch(index: Any) -> None:
    x, t = tc.tensor(draw(3, 3, 4)), torch.tensor(draw(3, 3, 4))
    x[index] = 7.0
    t[index] = 7.0
    assert x.tolist() == t.tolist()


def test_basic_indexing_is_a_view_down_to_one_element() -> None:
    x = tc.zeros(2, 3)
    x[0].fill_(1.0)
    x[1, 2].fill_(5.0)
    next(iter(x[1])).fill_(3.0)
    assert x.tolist() == [[1, 1, 1], [3, 0, 5]]


def test_index_errors() -> None:
    x = tc.zeros(2, 3)
    with pytest.raises(IndexError, match=r"\(2, 3\): index 5 .* for dim 0 with size 2; .* -2..1"):
        x[5]
    with pytest.raises(IndexError, match=r"index -4 .* dim 1 with size 3; there are -3..2"):
        x[0, -4] = 1
    with pytest.raises(IndexError, match=r"index 7 .* dim 1"):
        x[:, [0, 7]]
    with pytest.raises(IndexError, match="too many indices for tensor that is 2-dimensional"):
        x[0, 0, 0]
    with pytest.raises(IndexError, match=r"a float is no index: 1\.5"):
        x[1.5]
    with pytest.raises(tc.ShapeError, match=r"value: \(2, 3\): could not broadcast"):
        x[0] = tc.ones(4)


def is_forward(index: Any) -> bool:
    """No slice runs backwards, as in PyTorch."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(not isinstance(part, slice) or (part.step or 1) > 0 for part in parts)


@quick
@given(st.data())
def test_basic_indexing_is_numpys(data: st.DataObject) -> None:
    a = np.arange(24.0).reshape(2, 3, 4)
    index = data.draw(hnp.basic_indices(a.shape, allow_newaxis=True).filter(is_forward))
    x = tc.tensor(a, requires_grad=True)
    y = x[index]
    assert np.array_equal(y.detach().numpy(), a[index])
    y.sum().backward()
    counted = np.zeros_like(a)
    counted[index] += 1
    assert np.array_equal(x.grad.numpy(), counted)


@quick
@given(st.data())
def test_advanced_indexing_is_numpys(data: st.DataObject) -> None:
    a = np.arange(24.0).reshape(2, 3, 4)
    index = data.draw(
        hnp.integer_array_indices(a.shape, result_shape=hnp.array_shapes(max_dims=2, max_side=3))
    )
    x = tc.tensor(a, requires_grad=True)
    y = x[index]
    assert np.array_equal(y.detach().numpy(), a[index])
    y.sum().backward()
    counted = np.zeros_like(a)
    np.add.at(counted, index, 1)
    assert np.array_equal(x.grad.numpy(), counted)


# --- drawn shapes


@quick
@given(
    hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=3),
    st.sampled_from("+-*/<m"),
)
def test_broadcasting_is_numpys(shapes: Any, operator: str) -> None:
    a, b = (draw(*shape, seed=i) for i, shape in enumerate(shapes.input_shapes))
    x, y = tc.tensor(a, requires_grad=True), tc.tensor(b, requires_grad=True)
    f = {
        "+": lambda p, q: p + q,
        "-": lambda p, q: p - q,
        "*": lambda p, q: p * q,
        "/": lambda p, q: p / q,
        "<": lambda p, q: p < q,
        "m": lambda p, q: tc.maximum(p, q),
    }[operator]
    z = f(x, y)
    assert z.shape == shapes.result_shape
    expected = np.maximum(a, b) if operator == "m" else f(a, b)
    np.testing.assert_allclose(z.detach().numpy(), expected, rtol=1e-12)
    if operator == "*":
        z.sum().backward()
        assert x.grad.shape == a.shape
        np.testing.assert_allclose(
            x.grad.numpy(),
            np.broadcast_to(b, z.shape).sum()
            if a.shape == ()
            else tc.ops.shape.sum_to(np.broadcast_to(b, z.shape), shape=a.shape),
            rtol=1e-10,
        )


@quick
@given(st.data())
def test_permute_reshape_and_back(data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(max_dims=4, max_side=4))
    dims = tuple(data.draw(st.permutations(range(len(shape)))))
    a = draw(*shape)
    x = tc.tensor(a, requires_grad=True)
    y = x.permute(dims).reshape(-1)
    assert np.array_equal(y.detach().numpy(), a.transpose(dims).reshape(-1))
    weights = np.arange(a.size, dtype=np.float64)
    (y * tc.tensor(weights)).sum().backward()
    assert np.array_equal(
        x.grad.numpy(), weights.reshape(a.transpose(dims).shape).transpose(np.argsort(dims))
    )


@quick
@given(st.data())
def test_reductions_are_numpys(data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=4))
    axes = data.draw(hnp.valid_tuple_axes(len(shape), min_size=1))
    dim = axes[0] if len(axes) == 1 and data.draw(st.booleans()) else axes
    keepdim = data.draw(st.booleans())
    name = data.draw(st.sampled_from(["sum", "mean", "amax", "amin", "logsumexp", "norm"]))
    numpys = {
        "sum": np.sum,
        "mean": np.mean,
        "amax": np.max,
        "amin": np.min,
        "logsumexp": lambda a, axis, keepdims: np.log(np.exp(a).sum(axis=axis, keepdims=keepdims)),
        "norm": lambda a, axis, keepdims: np.sqrt((a * a).sum(axis=axis, keepdims=keepdims)),
    }
    a = draw(*shape)
    x = tc.tensor(a, requires_grad=True)
    y = getattr(x, name)(dim=dim, keepdim=keepdim)
    np.testing.assert_allclose(
        y.detach().numpy(), numpys[name](a, axis=dim, keepdims=keepdim), rtol=1e-12
    )
    y.sum().backward()
    step = 1e-6
    u = draw(*shape, seed=5)
    change = [numpys[name](a + s * step * u, axis=dim, keepdims=keepdim).sum() for s in (1, -1)]
    assert (x.grad.numpy() * u).sum() == pytest.approx(
        (change[0] - change[1]) / (2 * step), rel=1e-5
    )


# --- products

EQUATIONS = [
    ("ij,jk->ik", (2, 3), (3, 4)),
    ("ij,jk", (2, 3), (3, 4)),
    ("ij,kj->ki", (2, 3), (4, 3)),
    ("i,i", (3,), (3,)),
    ("i,j->ij", (3,), (4,)),
    ("bij,bjk->bik", (2, 3, 4), (2, 4, 2)),
    ("ii", (3, 3)),
    ("ii->i", (3, 3)),
    ("ij->ji", (2, 3)),
    ("ij->", (2, 3)),
    ("ij", (2, 3)),
    ("ba", (2, 3)),
    ("iij->j", (3, 3, 2)),
    ("iji->j", (3, 2, 3)),
    ("iii->i", (2, 2, 2)),
    ("...ij,...jk->...ik", (2, 3, 4), (4, 2)),
    ("...ij,jk", (2, 5, 3, 4), (4, 2)),
    ("...i->...", (2, 3)),
    ("...i,...i->i", (2, 3), (3,)),
    ("b...,b...->b...", (2, 3, 4), (2, 3, 4)),
    ("i...->...", (2, 3, 4)),
    ("...", (2, 3)),
    ("ij, jk -> ik", (2, 3), (3, 4)),
    ("bhwc,khkc->bw", (2, 3, 2, 4), (3, 3, 3, 4)),
    ("ab,bc,cd->ad", (2, 3), (3, 4), (4, 2)),
    ("ab,ab,ab->a", (2, 3), (2, 3), (2, 3)),
    ("aB,Bc->ac", (2, 3), (3, 4)),
    ("ij,j->i", (1, 3), (3,)),
    ("ij,ij->ij", (1, 3), (2, 1)),
    (",->", (), ()),
    (",i->i", (), (3,)),
    ("nchw,oc->nohw", (2, 3, 2, 2), (4, 3)),
    ("ij,kl->ijkl", (2, 3), (2, 2)),
    ("ij,kl->", (2, 3), (2, 2)),
    ("...ii->...i", (2, 3, 3)),
    ("i,ij,j->", (2,), (2, 3), (3,)),
    ("ijk->kji", (2, 3, 4)),
    ("ij,jk->k", (2, 3), (3, 4)),
]


@needs_torch
@pytest.mark.parametrize("case", EQUATIONS, ids=lambda c: c[0] + str(c[1:]))
def test_einsum_against_torch(case: Any) -> None:
    equation, *shapes = case
    both(
        lambda *xs: (tc if isinstance(xs[0], tc.Tensor) else torch).einsum(equation, *xs),
        *(draw(*shape, seed=i) for i, shape in enumerate(shapes)),
    )


@needs_torch
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3,), (3,)),
        ((2, 3), (3,)),
        ((3,), (3, 2)),
        ((2, 3), (3, 4)),
        ((5, 2, 3), (3, 4)),
        ((2, 3), (5, 3, 4)),
        ((5, 1, 2, 3), (4, 3, 2)),
        ((3,), (5, 3, 2)),
        ((5, 2, 3), (3,)),
        ((0, 3), (3, 2)),
        ((2, 0), (0, 3)),
    ],
)
def test_matmul_against_torch(a: Any, b: Any) -> None:
    both(lambda x, y: x @ y, draw(*a), draw(*b, seed=1))


# --- to Python and printing


def test_numbers_out() -> None:
    x = tc.tensor(2.5)
    assert (x.item(), float(x), int(x), bool(x), f"{x:.2f}") == (2.5, 2.5, 2, True, "2.50")
    assert tc.tensor([[3]]).item() == 3
    assert [10, 20, 30][tc.tensor(1)] == 20
    assert list(range(tc.tensor(3))) == [0, 1, 2]
    assert tc.tensor([[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]
    assert len(tc.zeros(3, 2)) == 3
    assert 2 in tc.tensor([1, 2])


def test_numpy_out() -> None:
    x = tc.ones(2)
    assert np.shares_memory(x.numpy(), x.array)
    assert np.asarray(x).dtype == np.float32
    assert np.array(x, dtype=np.float64).dtype == np.float64
    with pytest.raises(tc.GraphError, match=r"requires grad.*x.detach\(\).numpy\(\)"):
        tc.ones(2, requires_grad=True).numpy()


def test_errors_of_conversions() -> None:
    with pytest.raises(tc.ShapeError, match=r"item: the tensor has shape \(2,\)"):
        tc.ones(2).item()
    with pytest.raises(tc.ShapeError, match=r"2 elements is ambiguous; .any\(\) or .all\(\)"):
        bool(tc.ones(2))
    with pytest.raises(tc.DTypeError, match="a float32 tensor cannot be an index"):
        [1, 2][tc.tensor(1.0)]
    with pytest.raises(TypeError, match="0-d"):
        len(tc.tensor(1.0))
    with pytest.raises(TypeError, match="0-d"):
        iter(tc.tensor(1.0))


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (tc.tensor([1.0, 2.5]), "tensor([1. , 2.5])"),
        (tc.tensor(3), "tensor(3)"),
        (tc.tensor([True]), "tensor([ True])"),
        (tc.tensor([1.0], dtype=tc.float64), "tensor([1.], dtype=float64)"),
        (tc.tensor([1], dtype=tc.int32), "tensor([1], dtype=int32)"),
        (tc.tensor([1.0], requires_grad=True), "tensor([1.], requires_grad=True)"),
        (tc.tensor([1.0], requires_grad=True) * 2, "tensor([2.], op=mul)"),
        (tc.tensor([[1, 2], [3, 4]]), "tensor([[1, 2],\n        [3, 4]])"),
        (tc.zeros(0), "tensor([])"),
    ],
)
def test_repr(x: Any, text: str) -> None:
    assert repr(x) == text
    assert f"{x}" == text


def test_long_repr_is_shortened() -> None:
    assert len(repr(tc.zeros(10_000))) < 200


def test_what_a_tensor_says_of_itself() -> None:
    x = tc.ones(2, 3, requires_grad=True)
    y = x.sum(1)
    assert (y.op.name, y.params["dim"], x.op, x.params, y.scope) == ("sum", 1, None, {}, "")
    assert repr(y.grad_fn) == "<sum -> (2,) float32>"
    assert x.nbytes == 24
    assert x.size() == (2, 3)
    assert x.is_floating_point()
    assert {x: 1}[x] == 1


def test_axes_may_be_a_list() -> None:
    x = tc.tensor(draw(2, 3, 4), requires_grad=True)
    for name in ("sum", "mean", "amax", "amin", "var", "std", "logsumexp", "norm"):
        found, expected = (getattr(x, name)(dim=dim) for dim in ([0, -1], (0, 2)))
        assert found.tolist() == expected.tolist()
        found.sum().backward()


def test_empty_tensors() -> None:
    x = tc.zeros(0, 3, requires_grad=True)
    assert x.sum().item() == 0
    assert x.sum(0).tolist() == [0, 0, 0]
    assert tc.cat([x, tc.ones(1, 3)]).shape == (1, 3)
    (x * 2).relu().sum().backward()
    assert x.grad.shape == (0, 3)
    with pytest.raises(tc.ShapeError, match="amax"):
        x.amax(0)


def test_contiguous() -> None:
    for a in (
        tc.zeros(4, 6).T,
        tc.zeros(4, 6)[:, ::2],
        tc.zeros(8)[::2],
        tc.from_numpy(np.zeros(3)[::-1]),
        tc.zeros(1).expand(4),
    ):
        assert not a.array.flags.c_contiguous
        b = a.contiguous()
        assert b.array.flags.c_contiguous
        assert b.tolist() == a.tolist()
    x = tc.zeros(2)
    assert x.contiguous() is x


def test_pickle_is_not_how_tensors_are_saved() -> None:
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError, tc.TinyconvError)):
        pickle.dumps(tc.ones(2, requires_grad=True) * 2)


# --- errors that teach

X = tc.zeros(2, 3)
MISTAKES: list[tuple[Any, type[Exception], str]] = [
    (
        lambda: X @ tc.zeros(2, 4),
        tc.ShapeError,
        r"matmul: \(2, 3\) @ \(2, 4\): 3 columns .* meet 2 rows.*a.transpose\(-1, -2\) @ b",
    ),
    (
        lambda: X @ tc.zeros(4, 3),
        tc.ShapeError,
        r"3 columns on the left meet 4 rows.*a @ b.transpose\(-1, -2\)",
    ),
    (
        lambda: X @ tc.tensor(1.0),
        tc.ShapeError,
        r"\(2, 3\) and \(\): both need at least one axis; use a \* b",
    ),
    (
        lambda: X.reshape(4, 2),
        tc.ShapeError,
        r"reshape: \(2, 3\) holds 2\*3 = 6, \(4, 2\) wants 4\*2 = 8; x.reshape\(-1, 2\) fits$",
    ),
    (lambda: X.reshape(4), tc.ShapeError, r"\(4,\) wants 4; x.reshape\(-1\) fits$"),
    (lambda: X.reshape(5, 5), tc.ShapeError, r"holds 2\*3 = 6, \(5, 5\) wants 5\*5 = 25$"),
    (lambda: X.reshape(-1, 4), tc.ShapeError, r"multiple of 4: 6 elements do not divide by 4$"),
    (lambda: X.reshape(4, -1), tc.ShapeError, "6 elements do not divide by 4$"),
    (lambda: X.reshape(-2, 3), tc.ShapeError, r"reshape: \(-2, 3\): -2 is no size"),
    (lambda: X + tc.zeros(2, 4), tc.ShapeError, r"add: .*: axis 1 has sizes 3 and 4; only 1"),
    (lambda: tc.zeros(5, 2, 3) * tc.zeros(4), tc.ShapeError, "mul: .*: axis -1 has sizes 3 and 4"),
    (lambda: X.permute(0, 1, 2), tc.ShapeError, r"3 axes given, the tensor \(2, 3\) has 2$"),
    (lambda: X @ [1.0, 2.0, 3.0], tc.DTypeError, r"matmul: operand 1 is a list; use tc.tensor"),
    (lambda: (1.0, 2.0) @ X, tc.DTypeError, "matmul: operand 0 is a tuple; use tc.tensor"),
    (lambda: tc.exp([1.0]), tc.DTypeError, r"exp: operand 0 is a list; use tc.tensor\(...\)"),
    (lambda: tc.sum([1.0]), tc.DTypeError, "sum: operand 0 is a list"),
    (lambda: tc.cat([[1.0], [2.0]]), tc.DTypeError, "cat: operand 0 is a list"),
    (lambda: tc.stack([X, [2.0]]), tc.DTypeError, "stack: operand 1 is a list"),
    (lambda: X.copy_([1.0]), tc.DTypeError, "copy_: operand 1 is a list"),
    (lambda: X.clone().repeat(2), tc.ShapeError, "repeat: 1 counts given, the tensor has 2 axes"),
    (lambda: tc.zeros(1, 2, 3).t(), tc.ShapeError, r"t\(\) wants 2; x.transpose\(-1, -2\)"),
    (lambda: tc.mm(X, tc.zeros(1, 3, 2)), tc.ShapeError, "mm: .* both need 2 axes; a @ b"),
    (lambda: tc.bmm(X[None], tc.zeros(2, 3, 2)), tc.ShapeError, "bmm: .*batches of one size"),
    (lambda: X.topk(4), tc.ShapeError, r"topk: k is 4, dim -1 of \(2, 3\) has 3 entries"),
    (lambda: X[0].tril(), tc.ShapeError, r"tril: \(3,\) has 1 axes, a triangle needs two"),
    (lambda: X.masked_fill(X.long(), 1), tc.DTypeError, r"the mask is int64; use mask.bool\(\)"),
    (lambda: tc.zeros(2, dtype=tc.int64).normal_(), tc.DTypeError, "normal_: a int64 tensor"),
    (lambda: tc.tensor([1]).add_(0.5), tc.DTypeError, "add_: .*float is no int64"),
    (lambda: tc.zeros(1).expand(3).add_(1), tc.GraphError, r"add_: .*read-only.*x.clone\(\)"),
    (lambda: np.mean(X), TypeError, r"np.mean does not take a Tensor; use x.mean\(\)"),
    (lambda: np.exp(X), TypeError, r"np.exp does not take a Tensor; .*tc.exp\(x\)"),
    (lambda: X.reshape(-1, -1), tc.ShapeError, r"\(-1, -1\) has more than one -1"),
    (lambda: X.T.view(6), tc.ShapeError, r"view: \(3, 2\) with .* without a copy; x.reshape"),
    (
        lambda: tc.sum(X, 0, True, None, 1),
        TypeError,
        r"sum: too many .*; it is sum\(x, dim=None, keepdim=False, dtype=None\)",
    ),
    (lambda: tc.maximum(X), TypeError, r"maximum: missing .* 'b'; it is maximum\(a, b\)"),
    (lambda: tc.sum(X, 0, dim=1), TypeError, "sum: multiple values for argument 'dim'"),
    (lambda: X & 1, tc.DTypeError, r"bitwise_and: floats have no bits; .*x.long\(\)"),
    (lambda: tc.tensor([1]) | 1.5, tc.DTypeError, "bitwise_or: floats have no bits"),
    (lambda: X ^ X, tc.DTypeError, "bitwise_xor: floats have no bits"),
    (lambda: ~X, tc.DTypeError, "bitwise_not: floats have no bits"),
    (lambda: X.norm("nuc"), ValueError, "norm: p is 'nuc'; it is a number or 'fro'"),
    (lambda: X.permute(0, 0), tc.ShapeError, "permute"),
    (lambda: X.permute(0), tc.ShapeError, "permute"),
    (
        lambda: X.transpose(0, 2),
        tc.ShapeError,
        r"transpose: dim 2 is not an axis of \(2, 3\); the axes are -2..1",
    ),
    (lambda: X.flatten(5), tc.ShapeError, r"flatten: dim 5 is not an axis of \(2, 3\)"),
    (lambda: X.flatten(1, 0), tc.ShapeError, r"start_dim 1 comes after end_dim 0 for \(2, 3\)"),
    (lambda: X.squeeze(2), tc.ShapeError, "squeeze: dim 2 is not an axis"),
    (lambda: X.unsqueeze(4), tc.ShapeError, r"unsqueeze: dim 4 is outside -3..2 for \(2, 3\)"),
    (lambda: X.unbind(2), tc.ShapeError, "unbind: dim 2"),
    (
        lambda: X.expand(4),
        tc.ShapeError,
        r"expand: \(2, 3\) has 2 axes and cannot be expanded to the 1 of \(4,\)",
    ),
    (
        lambda: X.expand(2, 4),
        tc.ShapeError,
        r"expand: axis 1 of \(2, 3\) has 3 entries and cannot be expanded to 4",
    ),
    (
        lambda: X.split([1, 1], 1),
        tc.ShapeError,
        r"split: sizes \[1, 1\] add up to 2, axis 1 of \(2, 3\) has 3",
    ),
    (lambda: X.split(0), tc.ShapeError, "split: pieces of 0 entries"),
    (lambda: X.chunk(0), tc.ShapeError, "chunk: 0 pieces"),
    (lambda: tc.cat([]), tc.ShapeError, "cat: no tensors to join"),
    (
        lambda: tc.cat([X, tc.zeros(2, 4)]),
        tc.ShapeError,
        r"tensor 0 is \(2, 3\) and tensor 1 is \(2, 4\): they must agree on every axis but dim 0",
    ),
    (lambda: tc.cat([X, X], 2), tc.ShapeError, "cat: dim 2 is not an axis"),
    (
        lambda: tc.stack([X, tc.zeros(3)]),
        tc.ShapeError,
        r"stack: tensor 0 is \(2, 3\) and tensor 1 is \(3,\)",
    ),
    (
        lambda: tc.tensor([1, 2]).mean(),
        tc.DTypeError,
        r"mean: the input is int64.*x.float\(\).mean\(\)",
    ),
    (
        lambda: X.gather(0, tc.tensor([[0, 1, 2]])),
        tc.ShapeError,
        r"gather: index holds 0..2, the axis has positions 0..1",
    ),
    (
        lambda: X.gather(0, tc.tensor([0, 1])),
        tc.ShapeError,
        r"gather: index \(2,\) does not fit \(2, 3\)",
    ),
    (
        lambda: X.gather(0, tc.zeros(1, 4, dtype=tc.int64)),
        tc.ShapeError,
        r"index \(1, 4\) does not fit \(2, 3\).*but dim 0",
    ),
    (
        lambda: X.gather(0, tc.zeros(1, 3)),
        tc.DTypeError,
        r"gather: index is float32; .*index.long\(\)",
    ),
    (lambda: X.gather(2, tc.zeros(1, 3, dtype=tc.int64)), tc.ShapeError, "gather: dim 2"),
    (
        lambda: X.index_select(1, tc.tensor([3])),
        tc.ShapeError,
        r"index_select: index holds 3..3, the axis has positions 0..2",
    ),
    (lambda: X.clamp(), ValueError, "clamp: .*min and max are both None"),
    (lambda: tc.einsum("ij,jk", X), tc.ShapeError, r"'ij,jk' names 2 operands, 1 were given"),
    (
        lambda: tc.einsum("ij,jk", X, X),
        tc.ShapeError,
        r"label 'j' of 'ij,jk' is 3 in one operand and 2 in another",
    ),
    (
        lambda: tc.einsum("i", X),
        tc.ShapeError,
        r"'i' in 'i' does not fit an operand of shape \(2, 3\)",
    ),
    (
        lambda: tc.einsum("ii", X),
        tc.ShapeError,
        r"label 'i' stands for 2 and 3 entries of \(2, 3\)",
    ),
    (lambda: X + "a", tc.DTypeError, "add: operand 1 is a str"),
    (lambda: X * [1.0, 2.0, 3.0], tc.DTypeError, r"mul: operand 1 is a list; use tc.tensor"),
    (
        lambda: tc.zeros(2).add_(tc.zeros(3)),
        tc.ShapeError,
        r"add_: \(3,\) does not fit into \(2,\)",
    ),
    (lambda: tc.kernels("slow"), ValueError, "'slow' is none of fast, numpy, reference, naive"),
]


@pytest.mark.parametrize(
    ("mistake", "error", "text"), MISTAKES, ids=[text[:40] for _, _, text in MISTAKES]
)
def test_mistake(mistake: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mistake()


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.sum(2), lambda x: x.mean((0, 2)), lambda x: x.amax(2), lambda x: x.max(2),
        lambda x: x.min(2), lambda x: x.argmax(2), lambda x: x.prod(2), lambda x: x.cumsum(2),
        lambda x: x.any(2), lambda x: x.var(2), lambda x: x.std((0, 2)), lambda x: x.norm(2, 2),
        lambda x: x.norm(1, 2), lambda x: x.logsumexp(2), lambda x: x.softmax(2),
        lambda x: x.log_softmax(2), lambda x: x.flip(2), lambda x: x.roll(1, 2),
        lambda x: x.permute(0, 2), lambda x: x.transpose(0, 2), lambda x: x.squeeze(2),
    ],
)  # fmt: skip
def test_no_such_dim(f: Any) -> None:
    with pytest.raises(IndexError) as error:
        f(X)
    name = f.__code__.co_names[-1]
    text = f"{name}: dim 2 is not an axis of (2, 3); the axes are -2..1"
    assert str(error.value) == text
    assert isinstance(error.value, tc.ShapeError)


def test_suggested_fixes_work() -> None:
    a, b = tc.zeros(2, 3), tc.zeros(2, 4)
    assert a.reshape(-1, 2).shape == (3, 2)
    assert a.T.reshape(6).shape == (6,)
    assert (tc.tensor([1.0, 0.0]).long() & 1).tolist() == [1, 0]
    assert (a.transpose(-1, -2) @ b).shape == (3, 4)
    assert (a @ tc.zeros(4, 3).transpose(-1, -2)).shape == (2, 4)
    assert (a * tc.tensor(1.0)).shape == (2, 3)
    assert tc.tensor([1, 2]).float().mean().item() == 1.5
    assert tc.zeros(1).var(correction=0).item() == 0


def test_a_type_checker_knows_what_comes_out() -> None:
    def results(function: Any) -> list[str]:
        return [f.__annotations__["return"] for f in typing.get_overloads(function)]

    assert results(tc.autograd.Op.__call__) == ["Tensor", "Any"]
    assert results(tc.Tensor.size) == ["tuple[int, ...]", "int"]
    assert tc.Tensor.item.__annotations__["return"] == "float | int | bool"
