"""Making tensors: dtypes, shapes and defaults are PyTorch's."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import tinyconv as tc

try:
    import torch
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed")

DATA: list[Any] = [
    1,
    1.5,
    True,
    [],
    [[]],
    [1, 2],
    [1.0, 2],
    [True, False],
    [True, 2],
    [[1, 2], [3, 4.5]],
    (1, (2)),
    np.float64(2.0),
    np.float32(2.0),
    np.int32(3),
    [np.float64(1.0)],
    [np.float32(1.0), np.float32(2.0)],
    np.zeros((2, 3)),
    np.zeros(2, np.float16),
    np.arange(3),
    np.arange(3, dtype=np.uint8),
    np.zeros(0),
    [np.zeros(2, np.float32), np.ones(2, np.float32)],
]


@needs_torch
@pytest.mark.filterwarnings("ignore:Creating a tensor from a list of numpy:UserWarning")
@pytest.mark.parametrize("data", DATA, ids=repr)
def test_tensor_against_torch(data: Any) -> None:
    found, expected = tc.tensor(data), torch.tensor(data)
    assert found.shape == tuple(expected.shape)
    assert str(found.dtype) == str(expected.dtype).removeprefix("torch.")
    assert found.tolist() == expected.tolist()


def test_nested_tensors_and_python_floats() -> None:
    assert tc.tensor([tc.tensor(1.0), 2.0]).dtype == tc.float32
    assert tc.tensor([2.0, tc.tensor(1.0, dtype=tc.float64)]).dtype == tc.float64
    assert tc.tensor([[tc.tensor(1)], [2]]).dtype == tc.int64


def test_dtype_argument() -> None:
    assert tc.tensor([1.9, -1.9], dtype=tc.int64).tolist() == [1, -1]
    assert tc.tensor([1, 0], dtype=tc.bool).tolist() == [True, False]
    assert tc.tensor([1], dtype=float).dtype == tc.float64
    assert tc.zeros(2, dtype=float).dtype == tc.float64  # as in PyTorch
    assert tc.tensor([1], dtype="float64").dtype == tc.float64
    assert tc.tensor(np.zeros(2), dtype=tc.float32).dtype == tc.float32


def test_tensor_copies_and_from_numpy_shares() -> None:
    a = np.zeros(3, np.float32)
    copied, shared = tc.tensor(a), tc.from_numpy(a)
    a[0] = 5
    assert copied.tolist() == [0, 0, 0]
    assert shared.tolist() == [5, 0, 0]
    shared.fill_(2.0)
    assert a.tolist() == [2, 2, 2]
    x = tc.ones(2, requires_grad=True)
    assert not tc.tensor(x).requires_grad
    assert tc.tensor(x, requires_grad=True).is_leaf


@pytest.mark.parametrize("data", [[1 + 2j], ["a"], [None], np.zeros(2, np.complex64)])
def test_element_types_that_are_not_there(data: Any) -> None:
    with pytest.raises(
        tc.DTypeError, match="not an element type of tinyconv; there are float16, float32"
    ):
        tc.tensor(data)


def test_empty() -> None:
    x = tc.empty(2, 3, requires_grad=True)
    assert (x.shape, x.dtype, x.requires_grad) == ((2, 3), tc.float32, True)
    assert tc.empty((2,), dtype=tc.int64).dtype == tc.int64


def test_other_errors() -> None:
    with pytest.raises(ValueError, match="differ in length, 2, 1"):
        tc.tensor([[1, 2], [3]])
    with pytest.raises(tc.DTypeError, match=r"got a list, not a NumPy array; use tc.tensor"):
        tc.from_numpy([1, 2])
    with pytest.raises(tc.DTypeError, match="only floats have gradients, this tensor is int64"):
        tc.tensor([1, 2], requires_grad=True)
    with pytest.raises(TypeError, match=r"given twice: \(2,\) and size=3"):
        tc.zeros(2, size=3)
    with pytest.raises(TypeError, match="arange needs an end"):
        tc.arange()
    with pytest.raises(tc.DeviceError, match=r"'abacus'.*'cpu'"):
        tc.zeros(2, device="abacus")


CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("zeros", (2, 3), {}),
    ("zeros", ((2, 3),), {}),
    ("zeros", ([2],), {}),
    ("zeros", (), {}),
    ("ones", (0, 2), {}),
    ("ones", (2,), {"dtype": "int64"}),
    ("full", ((2,), 3), {}),
    ("full", ((2, 1), 3.5), {}),
    ("full", ((), True), {}),
    ("full", ((2,), 3), {"dtype": "float32"}),
    ("arange", (5,), {}),
    ("arange", (2, 5), {}),
    ("arange", (1, 10, 3), {}),
    ("arange", (5, 0, -2), {}),
    ("arange", (5.0,), {}),
    ("arange", (0, 1, 0.25), {}),
    ("arange", (3,), {"dtype": "float64"}),
    ("arange", (0,), {}),
    ("arange", (), {"end": 5}),
    ("arange", (), {"start": 1, "end": 5}),
    ("arange", (0.0, 3), {}),
    ("zeros", (), {"size": (2, 3)}),
    ("ones", (), {"size": [2]}),
    ("ones", (), {"size": (), "dtype": "int32"}),
    ("linspace", (0, 1, 5), {}),
    ("linspace", (-3, 3, 1), {}),
    ("linspace", (0, 1, 3), {"dtype": "float64"}),
    ("eye", (3,), {}),
    ("eye", (2, 4), {}),
    ("eye", (2,), {"dtype": "bool"}),
]


@needs_torch
@pytest.mark.parametrize(("name", "args", "params"), CALLS)
def test_creation_against_torch(name: str, args: Any, params: dict[str, Any]) -> None:
    found = getattr(tc, name)(*args, **params)
    theirs = {k: getattr(torch, v) if k == "dtype" else v for k, v in params.items()}
    expected = getattr(torch, name)(*(args if args or params else ((),)), **theirs)
    assert found.shape == tuple(expected.shape)
    assert str(found.dtype) == str(expected.dtype).removeprefix("torch.")
    np.testing.assert_allclose(found.tolist(), expected.tolist(), rtol=1e-6)


@pytest.mark.parametrize("name", ["zeros", "ones", "randn", "rand"])
def test_requires_grad_argument(name: str) -> None:
    assert getattr(tc, name)(2, requires_grad=True).requires_grad
    assert not getattr(tc, name)(2).requires_grad


@pytest.mark.parametrize("dtype", [tc.float32, tc.float64, tc.int32])
def test_like(dtype: Any) -> None:
    x = tc.ones(2, 3, dtype=dtype)
    made = [tc.zeros_like(x), tc.ones_like(x), tc.full_like(x, 7), tc.randint_like(x, 5)]
    if dtype != tc.int32:
        made += [tc.randn_like(x), tc.rand_like(x)]
    for y in made:
        assert (y.shape, y.dtype) == (x.shape, dtype)
    assert tc.zeros_like(x, dtype=tc.bool).dtype == tc.bool
    assert tc.full_like(x, 7).tolist() == [[7] * 3] * 2
    assert not tc.zeros_like(tc.ones(1, requires_grad=True)).requires_grad


def test_random_numbers_are_what_they_say() -> None:
    normal, uniform, whole = tc.randn(50, 400), tc.rand(50, 400), tc.randint(3, 7, (50, 400))
    assert normal.dtype == uniform.dtype == tc.float32
    assert abs(normal.mean().item()) < 0.03
    assert abs(normal.std().item() - 1) < 0.03
    assert 0 <= uniform.min().item() < 0.01
    assert 0.99 < uniform.max().item() < 1
    assert sorted(set(whole.flatten().tolist())) == [3, 4, 5, 6]
    assert whole.dtype == tc.int64
    for few in (tc.randint(4, (3,)), tc.randint(4, size=(3,)), tc.randint(high=4, size=(3,))):
        assert few.shape == (3,)
        assert few.max().item() < 4
    assert tc.rand(size=(2, 3)).shape == tc.randn(size=[2, 3]).shape == (2, 3)
    assert sorted(tc.randperm(10).tolist()) == list(range(10))
    assert tc.rand(1000, dtype=tc.float16).max().item() <= 1


def test_manual_seed_repeats_and_state_continues() -> None:
    tc.manual_seed(3)
    first = [tc.randn(4).tolist(), tc.rand(2).tolist()]
    state = tc.get_rng_state()
    rest = tc.randint(0, 100, (5,)).tolist()
    tc.manual_seed(3)
    assert [tc.randn(4).tolist(), tc.rand(2).tolist()] == first
    tc.set_rng_state(state)
    assert tc.randint(0, 100, (5,)).tolist() == rest
    assert tc.randn(3, dtype=tc.float64).dtype == tc.float64


def test_from_numpy_of_a_memory_map(tmp_path):
    np.arange(6, dtype=np.float32).tofile(tmp_path / "numbers")
    mapped = np.memmap(tmp_path / "numbers", np.float32, "r+", shape=(2, 3))
    x = tc.from_numpy(mapped)
    assert type(x.array) is np.ndarray
    assert np.shares_memory(x.array, mapped)
    assert (x + tc.ones(3)).shape == (2, 3)


NUMBERS = st.integers(-9, 9) | st.floats(-9, 9).map(lambda v: round(v, 1))


@needs_torch
@settings(max_examples=300, deadline=None)
@given(NUMBERS, NUMBERS, NUMBERS, st.sampled_from([None, "int64", "int32", "int8", "float64"]))
def test_arange_is_pytorchs(start: Any, end: Any, step: Any, kind: str | None) -> None:
    def made(m: Any) -> Any:
        return m.arange(start, end, step, dtype=kind and getattr(m, kind))

    try:
        expected = made(torch)
    except (RuntimeError, ValueError):
        with pytest.raises(ValueError, match="step"):
            made(tc)
        return
    if str(expected.dtype) in ("torch.int32", "torch.int8") and int(step) == 0:
        return  # PyTorch repeats the start: refused
    np.testing.assert_allclose(made(tc).array, expected.numpy(), 1e-6, 1e-6)
    assert str(expected.dtype) == f"torch.{made(tc).dtype}"


SAME_AS_PYTORCH = [
    "linspace(5, -5, 20, dtype=m.int32)", "linspace(-3, 3, 6, dtype=m.int64)", "linspace(3, 3, 1)",
    "linspace(m.tensor(0.0), 10, np.int64(3))", "arange(m.tensor(3))", "arange(np.int64(3))",
    "arange(m.tensor(1), m.tensor(5), m.tensor(2))", "arange(np.float32(2.5))",
    "full((2,), np.int64(3))", "full((2,), np.float64(3))", "full((2,), m.tensor(3))",
    "full((2,), True)", "full((2,), -1, dtype=m.uint8)", "full((2,), 2.5, dtype=m.int64)",
    "full((2,), 2, dtype=m.bool)", "tensor([])", "tensor([1, 2.5])", "tensor([True, 2])",
    "tensor([1, True, 0.5])", "tensor([np.float32(3), 1])", "tensor([np.int8(3)])",
    "tensor([-1], dtype=m.uint8)", "eye(0)", "eye(2, 3)", "zeros(np.int64(2), 3)",
]  # fmt: skip
REFUSED = [
    "linspace(0, 10, -1)", "linspace(0, 1, 3, dtype=m.bool)", "linspace(m.tensor([0.0]), 1, 3)",
    "arange(m.tensor([3]))", "arange('a')", "arange(float('nan'))", "arange(5, 0)",
    "arange(0, 5, -1)", "arange(0, 3, 0)", "eye(-1)", "eye(2, -1)", "eye(2.5)", "full((2,), None)",
    "full((2,), [1, 2])", "full((-1,), 1)", "full((2,), 300, dtype=m.uint8)", "zeros(-1)",
    "full((2,), float('nan'), dtype=m.int64)", "ones(2, -1)", "empty(-2)", "zeros(2.5)", "rand(-1)",
    "randint(5, 5, (2,))", "randint(-1, (2,))", "randint(0, 10, (-2,))", "randint(1.5, 3, (2,))",
    "randint(0, 257, (2,), dtype=m.uint8)", "randint(-1, 2, (2,), dtype=m.uint8)", "randperm(-1)",
    "randint(0, 3, (2,), dtype=m.bool)", "randperm(2.5)", "tensor(None)", "tensor('a')",
    "tensor([None])", "tensor([300], dtype=m.uint8)", "tensor([float('nan')], dtype=m.int64)",
    "tensor([2**64])", "zeros('a')", "full_like(m.zeros(2, dtype=m.uint8), 300)",
]  # fmt: skip


@needs_torch
@pytest.mark.parametrize("call", SAME_AS_PYTORCH)
def test_numbers_of_every_kind(call: str) -> None:
    found, expected = (eval(f"m.{call}", {"m": m, "np": np}) for m in (tc, torch))
    assert found.tolist() == expected.tolist()
    assert f"torch.{found.dtype}" == str(expected.dtype)


@pytest.mark.parametrize("call", REFUSED)
def test_what_cannot_be_made_is_refused(call: str) -> None:
    with pytest.raises((tc.TinyconvError, ValueError)) as caught:
        eval(f"m.{call}", {"m": tc})
    assert not type(caught.value).__module__.startswith("numpy")
