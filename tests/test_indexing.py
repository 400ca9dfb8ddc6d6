"""x[index] and x[index] = value: PyTorch's axes, values, gradients and refusals, as drawn."""

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import tinyconv as tc
from tinyconv.errors import DimError, DTypeError, TinyconvError

torch = pytest.importorskip("torch")
quick = settings(max_examples=300, deadline=None)


@st.composite
def parts_of_axis(draw: Any, n: int, common: tuple[int, ...]) -> Any:
    """An index of one axis of n entries; arrays broadcast to ``common``."""
    positions = st.integers(-n, n - 1)
    kinds = ["int", "slice", "whole", "array", "list", "mask", "tensor", "row"]
    kind = draw(st.sampled_from(kinds))
    if kind == "int" and n:
        return draw(positions)
    if kind == "slice":
        ends = st.none() | st.integers(-n - 1, n + 1)
        return slice(draw(ends), draw(ends), draw(st.sampled_from([None, 1, 2])))
    if kind == "tensor" and n:
        return np.asarray(draw(positions))
    if kind in ("array", "list", "row") and n:
        shape = common if kind == "array" else common[-1:]
        count = int(np.prod(shape))
        row = draw(st.lists(positions, min_size=count, max_size=count))
        array = np.array(row, draw(st.sampled_from([np.int64, np.int32]))).reshape(shape)
        return array.tolist() if kind == "list" else array
    if kind == "mask":
        mask = np.zeros(n, draw(st.sampled_from([bool, np.uint8])))
        hits = draw(st.permutations(range(n)))[: common[-1]]
        mask[hits] = 1
        return mask if len(hits) == common[-1] else slice(None)
    return slice(None)


@st.composite
def indexed(draw: Any) -> tuple[tuple[int, ...], Any]:
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=0, max_size=4)))
    common = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=2)))
    axes = shape[: draw(st.integers(0, len(shape)))]
    parts = [draw(parts_of_axis(n, common)) for n in axes]
    if draw(st.booleans()):
        parts.insert(draw(st.integers(0, len(parts))), Ellipsis)
    for extra in draw(st.lists(st.sampled_from([None, None, True, False]), max_size=2)):
        parts.insert(draw(st.integers(0, len(parts))), extra)
    alone = len(parts) == 1 and draw(st.booleans())
    return shape, parts[0] if alone else tuple(parts)


def as_given(index: Any, make: Any) -> Any:
    """The arrays of an index as Tensors."""
    if isinstance(index, tuple):
        return tuple(as_given(part, make) for part in index)
    return make(index) if isinstance(index, np.ndarray) else index


def tried(call: Any) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call()
    except Exception as error:
        return error


def same(ours: Any, theirs: Any) -> None:
    """One array, or a refusal by both."""
    if isinstance(theirs, Exception):
        assert isinstance(ours, (TinyconvError, ValueError)), (ours, theirs)
        return
    assert not isinstance(ours, Exception), (ours, theirs)
    assert ours.shape == theirs.shape
    assert np.array_equal(ours.array, theirs.detach().numpy())
    assert str(ours.dtype) == str(theirs.dtype).removeprefix("torch.")


def numbered(shape: tuple[int, ...]) -> Any:
    return np.arange(1.0, 1 + np.prod(shape, dtype=int)).reshape(shape)


@quick
@given(indexed())
def test_reading_and_its_gradient(case: Any) -> None:
    shape, index = case
    x = tc.tensor(numbered(shape), requires_grad=True)
    peer = torch.tensor(numbered(shape), requires_grad=True)
    ours = tried(lambda: x[as_given(index, tc.tensor)])
    theirs = tried(lambda: peer[as_given(index, torch.tensor)])
    same(ours, theirs)
    if isinstance(theirs, Exception):
        return
    weights = numbered(theirs.shape)
    (g,) = tc.grad((ours * tc.tensor(weights)).sum(), [x])
    tried((theirs * torch.tensor(weights)).sum().backward)
    same(g, peer.grad)


KINDS = ["float32", "int64", "uint8", "bool"]


@quick
@given(indexed(), st.data())
def test_writing(case: Any, data: Any) -> None:
    shape, index = case
    kind, value_kind = data.draw(st.sampled_from(KINDS)), data.draw(st.sampled_from(KINDS))
    base = numbered(shape).astype(kind)
    x, peer = tc.tensor(base), torch.tensor(base)
    plain = as_given(index, lambda a: a.astype(bool) if a.dtype == np.uint8 else a)
    places = tried(lambda: torch.arange(base.size).reshape(shape)[as_given(plain, torch.tensor)])
    if isinstance(places, Exception):
        return  # a test of reading
    if len(set(places.flatten().tolist())) < places.numel():
        return  # who wins is not defined
    wanted = list(places.shape)
    changes = ["as it is", "ones", "shorter", "longer", "wrong", "number"]
    change = data.draw(st.sampled_from(changes))
    if change == "ones" and wanted:
        wanted[data.draw(st.integers(0, len(wanted) - 1))] = 1
    if change == "shorter":
        wanted = wanted[1:]
    if change == "longer":
        wanted = [1, *wanted]
    if change == "wrong" and wanted:
        wanted[-1] += 1
    value = (numbered(tuple(wanted)) % 2 + 40).astype(value_kind)
    ours, theirs = tc.tensor(value), torch.tensor(value).to(peer.dtype)  # arrays want it alike
    if change == "number":
        ours = theirs = data.draw(st.sampled_from([-1, 0, 2.5, True, 300, -300, float("nan")]))
    wrote = tried(lambda: x.__setitem__(as_given(index, tc.tensor), ours))
    peers = tried(lambda: peer.__setitem__(as_given(plain, torch.tensor), theirs))
    if isinstance(peers, Exception):
        assert isinstance(wrote, (TinyconvError, ValueError)), (wrote, peers)
    elif not places.numel() and isinstance(wrote, tc.errors.DimError):
        pass  # PyTorch does not look at the indices of nothing
    else:
        assert wrote is None, wrote
        assert np.array_equal(x.array, peer.numpy(), equal_nan=kind == "float32")


def both(call: Any) -> None:
    same(tried(lambda: call(tc)), tried(lambda: call(torch)))


@pytest.mark.parametrize(
    "index",
    [
        "0, :, [0, 1, 2], [2, 3, 4]", "1, ..., [0, 3, 3]", "[0, 1], :, 2", "0, None, [1, 2]",
        ":, 0, [1, 2]", "[[0, 1], [1, 2]]", "[[[0, 1]]]", "(0, (0, 1))", "range(2)",
        "0, range(2)", "[T(0), T(1)]", "[0, None]", "np.array([1, 0])", "np.int64(1)",
        "np.array([1, 0], np.uint8)",
        "T(1)", "T(1), :, [0, 1]", "T(True)", "T(False)", "True", "False", ":, True", "True, True",
        "T([1, 0], dtype=m.uint8)", "T(1, dtype=m.uint8)", "[]", "[True, False]", "0, 0, 0, 0, 0",
        "2", "-3", "[2]", "[-1]", "[-3]", "::-1", "T([0.5])", "1.0", "T([True, False, True])",
        "T([1, 0], dtype=m.int8)", "[[True, False], [0, 1]]", "slice(T(0), T(1))", "...", "()",
    ],
)  # fmt: skip
def test_the_forms_of_an_index(index: str) -> None:
    def read(m: Any) -> Any:
        known = {"x": m.arange(150).reshape(2, 3, 5, 5), "T": m.tensor, "np": np, "m": m}
        return eval(f"x[{index}]", known)

    both(read)


def test_the_axes_of_an_assignment_beside_an_integer() -> None:
    def written(m: Any) -> Any:
        y = m.arange(8).reshape(2, 2, 2)
        y[0, :, [0, 1]] = m.tensor([[10, 20], [30, 40]])
        return y

    both(written)


@pytest.mark.parametrize(
    "call",
    [
        "T(3.).gather(0, T(0))", "T(3.).gather(-1, T([0, 0]))", "T([3.]).gather(0, T(0))",
        "T(3.).index_select(0, T([0]))", "T(3.).index_select(0, T([0, 0]))",
        "x.index_select(0, T(1))", "x.index_select(0, T([[1]]))", "x.index_select(0, T([True]))",
        "x.index_select(0, T([-1]))", "x.index_select(1, T([3]))", "x.gather(0, T([[-1]]))",
        "x.gather(1, T([[3]]))", "x.gather(0, T([[0]], dtype=m.uint8))",
        "T(3.).scatter_add(0, T(0), T(1.))", "T(3.).scatter_add(0, T([0]), T([1.]))",
        "x.scatter_add(0, T([[2]]), T([[1.]]))", "x.scatter_add(0, T([[-1]]), T([[1.]]))",
        "x.scatter_add(0, T([[0, 1]]), T([[1.]]))",
        "T(3.).sort()[0]", "T(3.).sort(0)[1]", "T(3.).sort(1)[0]", "T(3.).argsort()",
        "T(3.).topk(1)[0]", "T(3.).topk(1)[1]", "T(3.).topk(2)[0]",
        "m.nn.functional.embedding(T([-1]), x)", "m.nn.functional.embedding(T([2]), x)",
        "m.nn.functional.embedding(T(1), x)", "m.nn.functional.one_hot(T([-1]))",
        "m.nn.functional.one_hot(T([3]), 3)", "m.nn.functional.one_hot(T([2, 0]))",
        "m.nn.functional.one_hot(T([], dtype=m.int64))",
    ],
)  # fmt: skip
def test_positions_along_an_axis(call: str) -> None:
    both(lambda m: eval(call, {"x": m.arange(6.0).reshape(2, 3), "T": m.tensor, "m": m}))


def test_bytes_as_classes_are_no_mask() -> None:
    rows = tc.nn.functional.embedding(tc.tensor([1, 0], dtype=tc.uint8), tc.eye(2))
    assert rows.tolist() == [[0, 1], [1, 0]]
    loss = tc.nn.functional.nll_loss(
        tc.tensor([[1.0, 2], [3, 4]]), tc.tensor([1, 0], dtype=tc.uint8), tc.tensor([1.0, 3])
    )
    assert loss.item() == pytest.approx(-(2 * 3 + 3 * 1) / 4)


def test_errors_say_what_an_index_must_be() -> None:
    x = tc.zeros(2, 3)
    with pytest.raises(DimError, match=r"int8.*index\.long"):
        x[tc.tensor([0], dtype=tc.int8)]
    with pytest.raises(ValueError, match=r"x\.flip"):
        x[::-1]
    with pytest.raises(DTypeError, match="300 does not fit into uint8"):
        tc.zeros(2, dtype=tc.uint8)[0] = 300
