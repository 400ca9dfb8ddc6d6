"""The engine: the walk, what it keeps, what it frees, and what it refuses."""

import copy
import gc
import operator
import threading
import tracemalloc
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tinyconv as tc
from tinyconv import autograd, clock
from tinyconv.autograd import OPS, Node, accumulate, op, ownership
from tinyconv.backend import memory


def leaf(*values: float, dtype: Any = None) -> tc.Tensor:
    return tc.tensor(list(values), dtype=dtype, requires_grad=True)


def chain(x: tc.Tensor, n: int) -> tc.Tensor:
    for _ in range(n):
        x = x + x.detach()
    return x


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Reference counting alone must free everything."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def nodes_alive() -> int:
    return sum(type(o) is Node for o in gc.get_objects())


# --- the walk


def test_chain_of_100_000_additions() -> None:
    x = leaf(1.0)
    y = x
    for _ in range(100_000):
        y = y + 1.0
    y.backward()
    assert x.grad.item() == 1.0
    grown = tc.grad((x * 1.0).sum(), x, create_graph=True)[0]
    for _ in range(20_000):
        grown = grown + x
    assert tc.grad(grown, x, create_graph=True)[0].item() == 20_000
    del y, grown  # the destructors must not recurse either


def test_doubling_30_times_is_linear() -> None:
    x = leaf(1.0)
    calls = []
    counted = op(lambda a, b: a + b, name="counted")
    counted.defvjp(lambda g, _y, _a, _b: calls.append(0) or g, lambda g, _y, _a, _b: g)
    y = x
    for _ in range(30):
        y = counted(y, y)
    del OPS["counted"]
    y.backward()
    assert x.grad.item() == 2.0**30
    assert len(calls) == 30


def test_residual_sums() -> None:
    x = leaf(1.0)
    y = x
    for _ in range(40):
        y = y + y * 0.5
    y.backward()
    assert x.grad.item() == pytest.approx(1.5**40, rel=1e-5)


def test_consumers_come_before_producers_whatever_the_order_of_use() -> None:
    x = leaf(2.0)
    a = x * 3.0
    early = a * a
    b = a + 1.0
    y = b * early + a  # a has consumers of all ages
    y.backward()
    assert x.grad.item() == pytest.approx(3 * (36.0 + 7 * 12 + 1))


def test_diamond_with_a_leaf_used_at_both_ends() -> None:
    x = leaf(2.0)
    (x * (x + x * x) + x).backward()
    assert x.grad.item() == 2 * 2.0 + 3 * 4.0 + 1


# --- freed without the collector


def test_graph_is_freed_by_reference_counting(no_collector: None) -> None:
    before = nodes_alive()
    x = tc.ones(3, requires_grad=True)
    y = (x.exp() * x).sum()
    node, saved = weakref.ref(y.node), weakref.ref(y.node.inputs[0].saved[1])
    y.backward()
    assert saved() is None  # freed by the walk
    del y
    assert node() is None
    assert nodes_alive() == before


def test_abandoned_graph_is_freed_without_a_backward(no_collector: None) -> None:
    before = nodes_alive()
    x = tc.ones(3, requires_grad=True)
    y = x.exp().log().sum()
    array = weakref.ref(y.node.inputs[0].saved[1])
    del y
    assert array() is None
    assert nodes_alive() == before


def test_double_backward_graph_is_freed(no_collector: None) -> None:
    before = nodes_alive()
    x = tc.ones(3, requires_grad=True)
    y = (x.exp() * x**3).sum()
    (g,) = tc.grad(y, x, create_graph=True)
    (h,) = tc.grad((g * g).sum(), x, create_graph=True)
    h.sum().backward()
    del y, g, h
    assert nodes_alive() == before
    x.grad = None
    tensor = weakref.ref(x)
    del x
    assert tensor() is None


def test_create_graph_gradient_in_grad_does_not_keep_the_leaf(no_collector: None) -> None:
    x = tc.ones(3, requires_grad=True)
    (x * x).sum().backward(create_graph=True)
    x.grad = None  # the one cycle: a leaf, its .grad, that gradient's graph, the leaf
    tensor = weakref.ref(x)
    del x
    assert tensor() is None


def test_memory_falls_during_the_walk() -> None:
    n, steps = 100_000, 20
    x = tc.ones(n, dtype=tc.float64, requires_grad=True)
    y = x
    for _ in range(steps):
        y = y.exp().log1p()
    y = y.sum()
    tracemalloc.start()
    y.backward()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * n * 8  # a few gradients at a time, not one for each of 40 steps


def alive_after(function: Any, *shape: int) -> bool:
    """Does the graph of function(t) keep the array of t alive?"""
    x = tc.ones(*shape, requires_grad=True)
    t = x * 2.0
    array = weakref.ref(t.array)
    y = function(t)
    del t
    kept = array() is not None
    assert y.requires_grad
    return kept


@pytest.mark.parametrize(
    "function",
    [
        lambda t: t.relu(),
        lambda t: t + 1.0,
        lambda t: t + t,
        lambda t: -t,
        lambda t: t - 1.0,
        lambda t: t * 3.0,
        lambda t: t.sum(),
        lambda t: t.mean(0),
        lambda t: t.exp(),
        lambda t: t.softmax(0),
        lambda t: t.tanh(),
        lambda t: tc.cat([t, t]),
        lambda t: t[np.array([0, 1])],
        lambda t: t / 2.0,
        lambda t: t.roll(1),
    ],
)
def test_values_that_no_vjp_reads_are_not_kept(function: Any) -> None:
    assert not alive_after(function, 3, 4)


@pytest.mark.parametrize(
    "function", [lambda t: t * t, lambda t: t.log(), lambda t: t.sin(), lambda t: t @ t.T]
)
def test_values_that_are_read_are_kept(function: Any) -> None:
    assert alive_after(function, 3, 4)


def test_only_what_the_wanted_vjps_read_is_kept() -> None:
    x, w = tc.ones(3), tc.ones(3, requires_grad=True)
    y = x * w
    assert any(array is x.array for array in y.node.saved)
    assert not any(array is w.array for array in y.node.saved)  # nobody wants d/dx


def test_reshape_of_an_intermediate_is_a_view_and_saves_nothing() -> None:
    x = tc.ones(3, 4, requires_grad=True)
    y = (x * 2.0).reshape(12)
    assert not any(isinstance(s, np.ndarray) for s in y.node.saved)


# --- errors


def test_second_backward() -> None:
    x = leaf(1.0, 2.0)
    y = (x * x).sum()
    y.backward()
    with pytest.raises(tc.GraphError, match=r"already walked and freed.*retain_graph=True"):
        y.backward()


def test_second_backward_through_a_shared_part() -> None:
    x = leaf(1.0, 2.0)
    shared = x.exp()
    shared.sum().backward()
    with pytest.raises(tc.GraphError, match="exp: this graph was already walked"):
        (shared * 2.0).sum().backward()


def test_retain_graph() -> None:
    x = leaf(1.0, 2.0)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.tolist() == [4.0, 8.0]


def test_create_graph_retains() -> None:
    x = leaf(3.0)
    y = (x * x * x).sum()
    y.backward(create_graph=True)
    first = x.grad
    assert first.requires_grad
    x.grad = None
    first.sum().backward()
    assert x.grad.item() == 18.0


@pytest.mark.parametrize("write", ["add_", "mul_", "copy_"])
def test_overwritten_saved_value(write: str) -> None:
    x = leaf(1.0, 2.0)
    with tc.no_grad():
        w = x + 0.0
    y = (x * w).sum()
    getattr(w, write)(2.0)
    with pytest.raises(
        tc.GraphError, match=r"mul: the backward pass needs its input 1, which was overwritten"
    ):
        y.backward()


@pytest.mark.parametrize(
    "view",
    [
        lambda w: w.reshape(4),
        lambda w: w.detach(),
        lambda w: w[0],
        lambda w: w[0, 1],
        lambda w: w[:, ::2],
        lambda w: w.T,
        lambda w: w.permute(1, 0),
        lambda w: w.unsqueeze(0).squeeze(0),
        lambda w: w.detach().reshape(4)[1:],
        lambda w: tc.einsum("ij->ji", w),
        lambda w: w.unbind(0)[1],
        lambda w: w.split(1)[0],
        lambda w: w.expand(3, 2, 2)[0],
    ],
)
def test_overwritten_through_a_view(view: Any) -> None:
    x = tc.ones(2, 2, requires_grad=True)
    w = tc.ones(2, 2)
    before = w.array.copy()
    y = (x * w).sum()
    part = view(w)
    assert np.shares_memory(part.array, w.array)
    if not part.array.flags.writeable:
        part = w
    part.fill_(7.0)
    assert not np.array_equal(before, w.array)
    with pytest.raises(tc.GraphError, match="overwritten in place"):
        y.backward()


def test_overwritten_through_a_view_that_numpy_made() -> None:
    """NumPy's own views may have an object between them and the memory's array."""
    x = tc.ones(3, 3, requires_grad=True)
    array = np.ones(5, np.float32)
    w = autograd.wrap(np.lib.stride_tricks.sliding_window_view(array, 3))
    y = (x * w).sum()
    autograd.wrap(array).fill_(7.0)
    with pytest.raises(tc.GraphError, match="overwritten in place"):
        y.backward()


def test_overwritten_through_a_view_of_an_operation_of_ones_own() -> None:
    @op
    def every_other(x: Any) -> Any:
        """Every other number, in the same memory."""
        return x[::2]

    del OPS["every_other"]
    w, x = tc.ones(4), tc.ones(4, requires_grad=True)
    y = (x * w).sum()
    every_other(w).fill_(7.0)
    with pytest.raises(tc.GraphError, match="overwritten in place"):
        y.backward()


def test_large_arrays_side_by_side_in_recycled_memory() -> None:
    """They are parts of one piece from the system; writing one is not writing the other."""
    x = tc.ones(1 << 16, requires_grad=True)
    v, w = (autograd.wrap(memory.empty(x.shape, tc.float32)).fill_(1.0) for _ in range(2))
    assert memory.is_lent(v.array.base)
    assert memory.is_lent(w.array.base)
    y = (x * w).sum()
    v.reshape(256, 256)[0].fill_(2.0)
    y.backward()
    y = (x * w).sum()
    w.reshape(256, 256)[0].fill_(2.0)
    with pytest.raises(tc.GraphError, match="overwritten in place"):
        y.backward()


def test_a_write_is_dated_before_another_thread_can_see_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whenever that thread's backward asks, here while this one looks at the clock."""
    w, tick = tc.ones(2), clock.tick

    def look_at_the_clock() -> int:
        assert clock.written(w.array) == 0
        return tick()

    monkeypatch.setattr(clock, "tick", look_at_the_clock)
    w.fill_(2.0)
    assert clock.written(w.array) == clock.last_write[0]


def test_replaced_data_is_noticed_with_create_graph() -> None:
    """The derivative of the gradient would be taken at another place than the gradient."""
    x = leaf(1.0, 2.0)
    y = (x**3).sum()
    x.array = np.full(2, 10, np.float32)
    with pytest.raises(tc.GraphError, match=r"pow: .* input 0, whose \.array was replaced"):
        tc.grad(y, x, create_graph=True)
    assert tc.grad(y, x)[0].tolist() == [3.0, 12.0]


def test_a_derivative_that_walks_the_same_graph() -> None:
    @op
    def walks(x: Any) -> Any:
        """x"""
        return x * 1

    del OPS["walks"]
    others: list[tc.Tensor] = []

    def derivative(g: Any, _y: Any, x: Any) -> Any:  # reads x: what reads nothing is not freed
        while others:
            others.pop().backward()
        return g * (x == x)

    walks.defvjp(derivative)
    x = leaf(1.0, 1.0)
    h = walks(x)
    total = h.sum()
    others.append((h * 2).sum())
    total.backward()
    assert x.grad.tolist() == [3.0, 3.0]
    with pytest.raises(tc.GraphError, match="freed"):
        h.sum().backward()


def test_dates_of_writes_go_with_the_memory() -> None:
    before = len(clock._writes)
    w = tc.ones(8)
    w[2:].fill_(3.0)
    w.reshape(2, 4).add_(1.0)
    assert len(clock._writes) == before + 1
    kept = w[1:]
    del w
    assert clock.written(kept.array) > 0
    del kept
    assert len(clock._writes) == before


def test_a_copy_has_no_part_in_a_write() -> None:
    x = tc.ones(2, 3, requires_grad=True)
    w = tc.ones(2, 3)
    y = (x * w).sum()
    for copied in (w.T.reshape(6), w[[0, 1]], w.clone(), w + 0.0, w.to(tc.float64)):
        assert not np.shares_memory(copied.array, w.array)
        copied.fill_(5.0)
    y.backward()
    assert x.grad.tolist() == [[1.0] * 3] * 2


def test_overwritten_leaf_and_overwritten_output() -> None:
    x = leaf(1.0, 2.0)
    y = (x * x).sum()
    with tc.no_grad():
        x.add_(1.0)
    with pytest.raises(tc.GraphError, match=r"mul.*overwritten"):
        y.backward()
    z = x.exp()
    total = z.sum()
    z.detach().mul_(2.0)
    with pytest.raises(tc.GraphError, match="exp: the backward pass needs its output"):
        total.backward()


def test_no_alarm_when_the_overwritten_value_is_not_needed() -> None:
    x = leaf(1.0, 2.0)
    y = (x * 3.0 + x).sum()
    with tc.no_grad():
        x.zero_()
    y.backward()
    assert x.grad.tolist() == [4.0, 4.0]


def test_no_alarm_for_values_written_before_the_forward_pass() -> None:
    x, w = leaf(1.0, 2.0), tc.zeros(2)
    w.fill_(3.0)
    (x * w).sum().backward()
    assert x.grad.tolist() == [3.0, 3.0]


def test_overwritten_value_is_noticed_with_create_graph() -> None:
    x, w = leaf(1.0, 2.0), tc.ones(2)
    y = (x * w).sum()
    w.fill_(3.0)
    with pytest.raises(tc.GraphError, match="overwritten"):
        tc.grad(y, x, create_graph=True)


def test_written_index_does_not_change_the_gradient() -> None:
    x, index = leaf(1.0, 2.0, 3.0), tc.tensor([0, 0])
    y = x[index].sum()
    index.fill_(2)
    y.backward()
    assert x.grad.tolist() == [2.0, 0.0, 0.0]
    z = x.gather(0, index).sum()
    index.fill_(1)
    with pytest.raises(tc.GraphError, match=r"gather: .*input 1"):
        z.backward()


def test_non_scalar_backward() -> None:
    x = leaf(1.0, 2.0)
    with pytest.raises(tc.ShapeError, match=r"shape \(2,\); only a scalar.*y.sum\(\).backward\(\)"):
        (x * 2).backward()
    (x * 2).backward(tc.tensor([1.0, 10.0]))
    assert x.grad.tolist() == [2.0, 20.0]
    tc.ones(1, 1, requires_grad=True).exp().backward()  # one element is enough


def test_wrong_gradient_argument() -> None:
    y = leaf(1.0, 2.0) * 2
    with pytest.raises(tc.ShapeError, match=r"gradient has shape \(3,\), the output \(2,\)"):
        y.backward(tc.ones(3))
    with pytest.raises(
        tc.DTypeError, match=r"float64, the output float32.*gradient.to\(tc.float32\)"
    ):
        y.backward(tc.ones(2, dtype=tc.float64))


def test_gradient_that_is_no_tensor() -> None:
    with pytest.raises(tc.DTypeError, match=r"gradient is a float, need a tensor of shape \(2,\)"):
        (leaf(1.0, 2.0) * 2).backward(1.0)


def test_backward_of_a_leaf() -> None:
    x = tc.tensor(3.0, requires_grad=True)
    x.backward()
    assert x.grad.item() == 1.0


def test_output_without_graph() -> None:
    with pytest.raises(tc.GraphError, match="does not require grad"):
        tc.ones(1).backward()
    with tc.no_grad():
        y = leaf(1.0) * 2
    with pytest.raises(tc.GraphError, match="no_grad"):
        y.backward()


def test_mixed_float_dtypes() -> None:
    x, y = tc.ones(2), tc.ones(2, dtype=tc.float64)
    with pytest.raises(
        tc.DTypeError,
        match=r"add: operand 0 is float32 and operand 1 is float64; .*: x.to\(tc.float32\)",
    ):
        x + y
    with pytest.raises(tc.DTypeError, match="mul"):
        np.ones(2) * x


def test_shapes_that_do_not_broadcast() -> None:
    with pytest.raises(tc.ShapeError, match=r"add: operands \(2,\) and \(3,\)"):
        tc.ones(2) + tc.ones(3)


# --- numbers and dtypes


@pytest.mark.parametrize("dtype", [tc.float16, tc.float32, tc.float64])
@pytest.mark.parametrize(
    "number",
    [2, 2.0, True, np.float64(2), np.float32(2), np.int64(2), np.float16(2)],
    ids=lambda n: type(n).__name__,
)
def test_numbers_do_not_widen(dtype: Any, number: Any) -> None:
    x = tc.ones(3, dtype=dtype, requires_grad=True)
    for y in (
        x + number,
        number + x,
        x * number,
        number * x,
        x - number,
        number - x,
        x / number,
        number / x,
        x**number,
        x.maximum(number),
        tc.where(x > 0, x, number),
    ):
        assert isinstance(y, tc.Tensor)
        assert y.dtype == dtype
        x.grad = None
        y.sum().backward()
        assert x.grad.dtype == dtype
    assert (x > number).dtype == tc.bool


def test_zero_dimensional_tensors_stay_float32_arrays() -> None:
    x = tc.tensor(2.0, requires_grad=True)
    y = (x * x + 1).exp().relu() / 3
    y.backward()
    assert (y.dtype, x.grad.dtype) == (tc.float32, tc.float32)
    assert type(x.grad.array) is np.ndarray
    x.grad.mul_(0.0)
    assert x.grad.item() == 0
    (g,) = tc.grad(x * x, x)
    assert type(g.array) is np.ndarray


def test_integers_meet_floats() -> None:
    x, i = leaf(1.0, 2.0), tc.tensor([3, 4])
    y = x * i
    assert y.dtype == tc.float32
    y.sum().backward()
    assert x.grad.tolist() == [3.0, 4.0]
    assert (i * 2.5).dtype == tc.float32
    assert (i + 1).dtype == tc.int64
    assert (i / 2).dtype == (i / i).dtype == (1 / i).dtype == tc.float32
    assert (tc.tensor([True]) + 1).dtype == tc.int64


def test_numpy_array_times_tensor() -> None:
    x = leaf(1.0, 2.0)
    y = np.array([3.0, 4.0], np.float32) * x
    assert isinstance(y, tc.Tensor)
    y.sum().backward()
    assert x.grad.tolist() == [3.0, 4.0]
    assert isinstance(np.eye(2, dtype=np.float32) @ x, tc.Tensor)


def test_conversion_carries_the_gradient_back() -> None:
    x = leaf(1.0, 2.0)
    y = x.double() * 2
    y.sum().backward()
    assert x.grad.dtype == tc.float32
    x.grad = None
    x.sum(dtype=tc.float64).backward()
    assert x.grad.dtype == tc.float32


def test_integer_results_have_no_gradient() -> None:
    x = leaf(1.0, 2.0)
    assert not any(t.requires_grad for t in (x.long(), x > 1, x.argmax(), x.bool(), x.isnan()))


# --- hooks


def test_leaf_hook_sees_and_replaces() -> None:
    x = leaf(1.0, 2.0)
    seen: list[Any] = []
    x.register_hook(lambda g: seen.append(g.tolist()))
    handle = x.register_hook(lambda g: g * 10)
    (x * 3).sum().backward()
    assert seen == [[3.0, 3.0]]
    assert x.grad.tolist() == [30.0, 30.0]
    handle.remove()
    handle.remove()  # a second time does nothing
    x.grad = None
    (x * 3).sum().backward()
    assert x.grad.tolist() == [3.0, 3.0]


def test_inner_hook_sees_the_whole_gradient_once() -> None:
    x = leaf(1.0, 2.0)
    h = x * 2
    seen: list[Any] = []
    h.register_hook(lambda g: seen.append(g.tolist()) or g * 5)
    (h + h * h).sum().backward()
    assert seen == [[5.0, 9.0]]
    assert x.grad.tolist() == [50.0, 90.0]


def test_hooks_run_in_order_and_may_remove_themselves() -> None:
    x = leaf(1.0)
    order: list[int] = []
    x.register_hook(lambda _g: order.append(1))
    handle = x.register_hook(lambda _g: (order.append(2), handle.remove())[0])
    x.register_hook(lambda _g: order.append(3))
    (x * 1).backward()
    (x * 1).backward()
    assert order == [1, 2, 3, 1, 3]


def test_hook_sees_grad_too_and_a_differentiable_gradient() -> None:
    x = leaf(2.0)
    x.register_hook(lambda g: g * x)
    (g,) = tc.grad((x * x).sum(), x, create_graph=True)
    assert g.item() == 8.0  # 2 x * x
    assert tc.grad(g.sum(), x)[0].item() == pytest.approx(
        4 * 2.0 * 2.0
    )  # (2 x^2)' and its own hook


def test_hooks_record_only_with_create_graph() -> None:
    x = leaf(1.0)
    recording: list[bool] = []
    x.register_hook(lambda _g: recording.append(tc.is_grad_enabled()))
    (x * x).backward()
    (x * x).backward(create_graph=True)
    assert recording == [False, True]


@pytest.mark.parametrize("wrong", [lambda g: g.sum(), lambda g: g.double(), lambda _g: 1.0])
def test_hook_must_return_a_gradient_of_the_same_kind(wrong: Any) -> None:
    x = leaf(1.0, 2.0)
    x.register_hook(wrong)
    with pytest.raises(tc.ShapeError, match=r"hook: it returned a .*, need \(2,\) float32"):
        (x * 2).sum().backward()


def test_hook_needs_a_gradient() -> None:
    with pytest.raises(tc.GraphError, match="its hook would never run"):
        tc.ones(1).register_hook(lambda g: g)


# --- grad()


def test_grad_writes_nothing() -> None:
    x = leaf(1.0, 2.0)
    (g,) = tc.grad((x * x).sum(), x)
    assert g.tolist() == [2.0, 4.0]
    assert x.grad is None
    assert not g.requires_grad


def test_grad_of_unused_input() -> None:
    x, z = leaf(1.0), leaf(1.0)
    with pytest.raises(
        tc.GraphError, match=r"do not depend on input 1 \(1,\); pass allow_unused=True"
    ):
        tc.grad(x * 2, [x, z])
    g, none = tc.grad(x * 2, [x, z], allow_unused=True)
    assert g.item() == 2
    assert none is None


def test_grad_of_an_input_without_requires_grad() -> None:
    with pytest.raises(tc.GraphError, match=r"input 0 \(1,\) does not require grad"):
        tc.grad(leaf(1.0) * 2, tc.ones(1))


def test_grad_of_intermediates_duplicates_and_the_output_itself() -> None:
    x = leaf(3.0)
    h = x * x
    y = h * 2
    gx, gh, again, gy = tc.grad(y, [x, h, h, y])
    assert [g.item() for g in (gx, gh, again, gy)] == [12.0, 2.0, 2.0, 1.0]


def test_grad_of_several_outputs() -> None:
    x = leaf(1.0, 2.0)
    a, b = x * 2, (x * x).sum()
    (g,) = tc.grad([a, b], x, grad_outputs=[tc.tensor([1.0, 10.0]), None])
    assert g.tolist() == [4.0, 24.0]
    y = x.exp().sum()
    (twice,) = tc.grad([y, y], x)
    np.testing.assert_allclose(twice.tolist(), 2 * np.exp([1.0, 2.0]), rtol=1e-6)
    with pytest.raises(ValueError, match="2 outputs but 1 grad_outputs"):
        tc.grad([a, b], x, grad_outputs=[tc.ones(2)])


def test_one_output_a_part_of_another() -> None:
    x = leaf(2.0)
    h = x * x
    (g,) = tc.grad([h * 3, h], x)
    assert g.item() == 16.0


def test_grad_outputs_may_be_differentiated() -> None:
    x, v = leaf(1.0, 2.0), leaf(1.0, 1.0)
    (g,) = tc.grad(x * x, x, grad_outputs=v, create_graph=True)
    assert tc.grad(g.sum(), v)[0].tolist() == [2.0, 4.0]


def test_a_target_is_neither_read_nor_freed() -> None:
    x = leaf(1.0, 2.0)
    h = x.exp()
    tc.grad(h.sum(), h)  # stops at h
    tc.grad(h.sum(), x)  # so the graph below h is still there


def test_grad_leaves_the_rest_of_the_graph_alone() -> None:
    x, z = leaf(2.0), leaf(3.0)
    branch = z.exp()
    y = x.sin() * branch
    tc.grad(y, x)
    branch.backward()
    assert z.grad is not None


def test_nth_derivative() -> None:
    x = leaf(2.0, dtype=tc.float64)
    y = x**5
    for expected in (80.0, 160.0, 240.0, 240.0, 120.0):
        (y,) = tc.grad(y, x, create_graph=True)
        assert y.item() == pytest.approx(expected)


# --- nobody's array is changed behind their back


def test_leaves_that_receive_one_array_do_not_share_it() -> None:
    for create_graph in (False, True):
        a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
        (a + b).sum().backward(create_graph=create_graph)
        assert not np.shares_memory(a.grad.array, b.grad.array)
        with tc.no_grad():
            a.grad.mul_(5.0)
        assert b.grad.tolist() == [1.0, 1.0]


def test_backward_does_not_keep_the_callers_gradient() -> None:
    x, v = leaf(1.0, 2.0), tc.tensor([1.0, 2.0])
    (x + 0).backward(v)
    x.grad.add_(1.0)
    assert v.tolist() == [1.0, 2.0]


def test_accumulation_makes_a_new_tensor_or_keeps_the_sum_right() -> None:
    x = leaf(1.0, 2.0)
    (x * x).sum().backward()
    (x * x).sum().backward()
    assert x.grad.tolist() == [4.0, 8.0]
    x.grad.zero_()
    (x * x).sum().backward()
    assert x.grad.tolist() == [2.0, 4.0]


def test_gradient_of_a_reduction_can_be_written() -> None:
    x = leaf(1.0, 2.0)
    x.sum().backward()
    x.grad.mul_(3.0)
    assert x.grad.tolist() == [3.0, 3.0]


# --- modes


def test_no_grad_nests_and_is_restored() -> None:
    x = leaf(1.0)
    with tc.no_grad():
        assert not (x * 2).requires_grad
        with tc.enable_grad():
            assert (x * 2).requires_grad
        assert not tc.is_grad_enabled()
    assert tc.is_grad_enabled()
    with pytest.raises(ZeroDivisionError), tc.no_grad():
        1 / 0  # noqa: B018
    assert tc.is_grad_enabled()


def test_modes_as_decorators_recursive_too() -> None:
    @tc.no_grad()
    def frozen(n: int) -> bool:
        return tc.is_grad_enabled() or (n > 0 and frozen(n - 1))

    @tc.enable_grad()
    def thawed() -> bool:
        return tc.is_grad_enabled()

    assert not frozen(3)
    assert tc.is_grad_enabled()
    with tc.no_grad():
        assert thawed()


def test_a_failing_backward_restores_the_mode() -> None:
    x = leaf(1.0)
    x.register_hook(lambda _g: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        (x * 2).backward()
    assert tc.is_grad_enabled()


def test_first_order_gradients_are_not_recorded() -> None:
    x = leaf(1.0)
    (x * x).backward()
    assert not x.grad.requires_grad
    assert x.grad.is_leaf


# --- leaves


def test_requires_grad_rules() -> None:
    x = tc.ones(2)
    assert x.is_leaf
    assert not x.requires_grad
    assert x.requires_grad_() is x
    y = x * 2
    assert y.requires_grad
    assert not y.is_leaf
    assert (tc.ones(2) * 2).is_leaf
    with pytest.raises(tc.GraphError, match=r"use x.detach\(\)"):
        y.requires_grad_(False)
    with pytest.raises(tc.DTypeError, match=r"this tensor is int64; use x.float\(\)"):
        tc.tensor([1]).requires_grad_()
    x.requires_grad_(False)
    assert not (x * 2).requires_grad


def test_intermediates_get_no_grad() -> None:
    x = leaf(1.0)
    h = x * 2
    (h * 3).backward()
    assert h.grad is None


def test_detach_shares_memory_and_cuts() -> None:
    x = leaf(1.0, 2.0)
    d = x.detach()
    assert np.shares_memory(d.array, x.array)
    assert not d.requires_grad
    assert (x * d).node.inputs[1] is None


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x.add_(1),
        lambda x: x.mul_(2),
        lambda x: x.zero_(),
        lambda x: x.fill_(1.0),
        lambda x: x.copy_(tc.zeros(2)),
        lambda x: x.__setitem__(0, 1.0),
    ],
)
def test_in_place_guard(write: Any) -> None:
    x = leaf(1.0, 2.0)
    with pytest.raises(
        tc.GraphError, match=r"a leaf that requires grad takes part.*tc.no_grad\(\)"
    ):
        write(x)
    with pytest.raises(tc.GraphError, match="a tensor of the graph takes part"):
        write(x * 2)
    with tc.no_grad():
        write(x)
    assert x.requires_grad


def test_in_place_with_a_recorded_value_is_refused() -> None:
    with pytest.raises(tc.GraphError, match="not recorded"):
        tc.zeros(2).add_(leaf(1.0, 2.0))


def test_in_place_keeps_dtype_and_checks_shapes() -> None:
    x = tc.ones(2)
    x.add_(tc.tensor([1, 2]), alpha=2)
    assert x.tolist() == [3.0, 5.0]
    x.mul_(np.float64(2))
    assert x.dtype == tc.float32
    x.copy_(tc.tensor(1.0, dtype=tc.float64))
    assert x.tolist() == [1.0, 1.0]
    for write in (x.add_, x.mul_, x.copy_):
        with pytest.raises(tc.ShapeError, match=r"\(3, 2\) does not fit into \(2,\)"):
            write(tc.ones(3, 2))


def test_deepcopy_of_leaves_only() -> None:
    x = leaf(1.0, 2.0)
    (x * x).sum().backward()
    twin = copy.deepcopy(x)
    assert twin.requires_grad
    assert twin.grad.tolist() == x.grad.tolist()
    assert not np.shares_memory(twin.array, x.array)
    with pytest.raises(tc.GraphError, match=r"x.detach\(\).clone\(\)"):
        copy.deepcopy(x * 2)


# --- making operations


def test_operation_on_plain_arrays_just_computes() -> None:
    out = tc.exp(np.zeros(3))
    assert type(out) is np.ndarray


def test_wrong_shape_from_a_vjp_is_named() -> None:
    broken = op(lambda x: x * 2, name="broken")
    broken.defvjp(lambda g, _y, _x: g[:1])
    del OPS["broken"]
    with pytest.raises(
        tc.ShapeError, match=r"broken: its VJP 0 returned \(1,\) for an input of shape \(2,\)"
    ):
        broken(leaf(1.0, 2.0)).sum().backward()


def test_too_many_arguments() -> None:
    with pytest.raises((TypeError, ValueError)):
        tc.exp(tc.ones(2), 1, 2, 3)


def test_each_thread_has_its_own_grad_mode():
    entered, leave = threading.Event(), threading.Event()

    def evaluate():
        with tc.no_grad():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=evaluate)
    thread.start()
    assert entered.wait(10)
    try:
        assert tc.ones(2, requires_grad=True).sum().requires_grad
    finally:
        leave.set()
        thread.join()


# --- x += y


ASSIGN = [
    (operator.iadd, operator.add),
    (operator.isub, operator.sub),
    (operator.imul, operator.mul),
    (operator.itruediv, operator.truediv),
]


@pytest.mark.parametrize(("assign", "plain"), ASSIGN)
@pytest.mark.parametrize("other", [3.0, tc.tensor([2.0, 4.0])])
def test_augmented_assignment(assign: Any, plain: Any, other: Any) -> None:
    # without gradients: in place, and every view sees it
    x = tc.tensor([1.0, 2.0])
    expected, view, memory = plain(x, other), x[:1], x.array
    assert assign(x, other) is x
    assert x.array is memory
    assert x.tolist() == expected.tolist()
    assert view.item() == expected[0].item()
    # a leaf that requires grad: only under no_grad
    w = leaf(1.0, 2.0)
    with pytest.raises(tc.GraphError, match=r"a leaf that requires grad .*tc.no_grad\(\)"):
        assign(w, other)
    with tc.no_grad():
        assert assign(w, other) is w
    assert w.tolist() == expected.tolist()
    assert w.requires_grad
    # in the graph: the tensor becomes the result, under each of its names
    w = leaf(1.0, 2.0)
    y = before = w * 1
    y = assign(y, other)
    assert y is before
    assert y.tolist() == expected.tolist()
    (found,) = tc.grad((y * y).sum(), w)
    (wanted,) = tc.grad((plain(w, other) * plain(w, other)).sum(), w)
    assert found.tolist() == wanted.tolist()


def test_a_recorded_operand_makes_the_sum_recorded() -> None:
    w, total = leaf(1.0, 2.0), tc.zeros(())
    for _ in range(3):
        total += (w * w).sum()
    total.backward()
    assert w.grad.tolist() == [6.0, 12.0]


def test_a_residual_sum_may_be_written_in_place() -> None:
    x = leaf(1.0, 2.0)
    identity, out = x, x * x
    out += identity
    out *= out
    out.sum().backward()
    assert x.grad.tolist() == [2 * 2 * 3.0, 2 * 6 * 5.0]


def test_training_by_hand() -> None:
    model = tc.nn.Linear(3, 1)
    x, y = tc.randn(8, 3), tc.randn(8, 1)
    losses = []
    for _ in range(20):
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        losses.append(loss.item())
        with tc.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
                p.grad.zero_()
    assert losses[-1] < losses[0]
    assert losses == sorted(losses, reverse=True)


def test_augmented_assignment_is_noticed_by_a_later_backward() -> None:
    w = leaf(1.0, 2.0)
    y = (w * w).sum()
    with tc.no_grad():
        w -= 1
    with pytest.raises(tc.GraphError, match="overwritten in place"):
        y.backward()


def test_sub_and_div() -> None:
    x = tc.tensor([4.0, 8.0])
    assert x.sub_(tc.tensor([1.0, 2.0]), alpha=2).div_(2).tolist() == [1.0, 2.0]
    assert x.div_(tc.tensor(2.0, dtype=tc.float64)).dtype == tc.float32


def test_random_numbers_in_place() -> None:
    w = tc.zeros(1000, requires_grad=True)
    with pytest.raises(tc.GraphError, match=r"normal_.*a leaf that requires grad"):
        w.normal_()
    with tc.no_grad():
        assert w.normal_(3, 0.5) is w
        assert abs(w.mean() - 3) < 0.1
        assert abs(w.std() - 0.5) < 0.1
        w.uniform_(-1, 2)
    assert w.dtype == tc.float32
    assert -1 <= w.min() < -0.9
    assert 1.9 < w.max() < 2


# --- what else PyTorch's users write


def test_retain_grad(no_collector: None) -> None:
    x = leaf(1.0, 2.0)
    y = x * 3
    y.retain_grad()
    y.retain_grad()  # once is enough
    x.retain_grad()  # a leaf's is kept anyway
    z = (y * y).sum()
    z.backward(retain_graph=True)
    assert y.grad.tolist() == [6.0, 12.0]
    z.backward()
    assert y.grad.tolist() == [12.0, 24.0]
    assert x.grad.tolist() == [36.0, 72.0]
    gone = weakref.ref(y)
    del y, z
    assert gone() is None
    with pytest.raises(tc.GraphError, match="does not require grad"):
        tc.zeros(2).retain_grad()


def test_an_argument_without_a_vjp_may_be_the_only_one_that_wants_a_gradient() -> None:
    kept = tc.op(lambda condition, x: x * (condition != 0), name="kept")
    kept.defvjp(None, lambda g, _y, condition, _x: kept(condition, g))
    condition = tc.tensor([1.0, 0.0], requires_grad=True)
    assert kept(condition, tc.ones(2)).tolist() == [1, 0]


def test_an_operation_as_a_vjp_takes_the_gradient_and_the_output() -> None:
    half = tc.op(lambda x: x / 2, name="half")
    with pytest.raises(TypeError, match=r"half: relu cannot be its VJP.*\(g, y\)"):
        half.defvjp(OPS["relu"])
    scaled = tc.op(lambda x, *, k=2.0: k * x, name="scaled")
    with pytest.raises(TypeError, match="scaled: relu_backward cannot be its VJP"):
        scaled.defvjp(OPS["relu_backward"])


def test_set_grad_enabled() -> None:
    with tc.set_grad_enabled(False):
        assert not tc.is_grad_enabled()
        with tc.set_grad_enabled(mode=True):
            assert tc.is_grad_enabled()
    assert tc.is_grad_enabled()
    tc.set_grad_enabled(False)
    assert not tc.is_grad_enabled()
    tc.set_grad_enabled(True)

    @tc.set_grad_enabled(False)
    def enabled() -> bool:
        return tc.is_grad_enabled()

    assert tc.is_grad_enabled()
    assert not enabled()
    with tc.inference_mode():
        assert not (leaf(1.0) * 2).requires_grad
    with tc.inference_mode(False):
        assert (leaf(1.0) * 2).requires_grad


# ------------------------------------------------------------------ whose memory a gradient is


def test_a_gradient_that_nobody_else_refers_to_is_kept_without_a_copy() -> None:
    addresses = []

    def vjp(g: Any, _y: Any, _x: Any) -> Any:
        share = (2 * g).reshape(300, 2)  # a view of an array that is this one's alone
        addresses.append(share.ctypes.data)
        return share

    twice = tc.op(lambda x: 2 * x, name="twice")
    twice.defvjp(vjp)
    x = tc.ones(300, 2, requires_grad=True)
    twice(x).sum().backward()
    assert x.grad is not None
    assert x.grad.array.ctypes.data == addresses[0]


def test_a_gradient_never_shares_its_memory() -> None:
    x, y, z = (tc.ones(3, 4, requires_grad=True) for _ in range(3))
    seen: list[tc.Tensor] = []
    seed = tc.ones(3, 4)
    x.register_hook(seen.append)
    z.register_hook(lambda g: seen.append(g.reshape(12)))
    (2 * (x + y) + z).backward(seed)
    leaf = tc.ones(3, 4, requires_grad=True)
    leaf.backward(seed)
    part = tc.ones(3, requires_grad=True)
    part.sum().backward()
    grads = [t.grad.array for t in (x, y, z, leaf, part) if t.grad is not None]
    assert len(grads) == 5
    others = [seed.array, *(t.array for t in seen)]
    for i, g in enumerate(grads):
        assert g.flags.writeable
        assert not any(np.shares_memory(g, other) for other in [*grads[:i], *others])


# ------------------------------------------------------------ sums of gradients, in place or not


@pytest.fixture
def all_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accumulate, "WORTH", 1)
    monkeypatch.setattr(ownership, "MANY", 1)


def fresh_shares(addresses: list[int]) -> Any:
    """An identity whose gradient is in memory of its own, large enough to be lent."""

    def vjp(g: Any, _y: Any, _x: Any) -> Any:
        share = memory.empty(g.shape, g.dtype)
        share[...] = g
        addresses.append(share.ctypes.data)
        return share

    made = tc.op(lambda x: 1 * x, name="fresh")
    made.defvjp(vjp)
    return made


@pytest.mark.parametrize("shape", [(3, 5), (300, 400)], ids=str)
def test_a_share_that_nobody_else_refers_to_takes_the_others_in(
    shape: Any, all_in_place: None
) -> None:
    addresses: list[int] = []
    fresh = fresh_shares(addresses)
    x = tc.ones(*shape, requires_grad=True)
    y = 2 * x
    (fresh(y) + fresh(y) * 3 + fresh(y)).sum().backward()
    np.testing.assert_array_equal(x.grad.array, 10)
    seen: list[int] = []
    z = tc.ones(*shape, requires_grad=True)
    z.register_hook(lambda g: seen.append(g.array.ctypes.data))
    addresses.clear()
    (fresh(z) + fresh(z)).sum().backward()
    assert seen == addresses[:1]
    assert len(addresses) == 2


def kept_elsewhere(kind: str) -> tuple[Any, list[np.ndarray]]:
    """An identity whose gradient somebody else keeps or sees, and what is kept."""
    kept: list[np.ndarray] = []

    def vjp(g: Any, _y: Any, _x: Any) -> Any:
        g = 1 * g
        if kind == "itself":
            kept.append(g)
            return g
        if kind == "a view of it":
            kept.append(g[1:])
            return g
        if kind == "what it is a view of":
            kept.append(g)
            return g.reshape(-1).reshape(g.shape)
        if kind == "a memoryview":
            kept.append(memoryview(g))
            return g
        if kind == "foreign memory":
            kept.append(bytearray(g.tobytes()))
            return np.frombuffer(kept[0], g.dtype).reshape(g.shape)
        assert kind == "a lent one"
        lent = memory.empty(g.shape, g.dtype)
        lent[...] = g
        kept.append(lent.T)
        return lent

    made = tc.op(lambda x: 1 * x, name="kept")
    made.defvjp(vjp)
    return made, kept


@pytest.mark.parametrize(
    "kind",
    ["itself", "a view of it", "what it is a view of", "a memoryview", "foreign memory",
     "a lent one"],
)  # fmt: skip
def test_a_share_that_somebody_keeps_stays_as_it_is(kind: str, all_in_place: None) -> None:
    keeps, kept = kept_elsewhere(kind)
    x = tc.ones(300, 400, requires_grad=True)
    y = x * 2
    (y * 5 + keeps(y)).sum().backward()  # the younger one's share comes first
    np.testing.assert_array_equal(x.grad.array, 12)
    np.testing.assert_array_equal(np.frombuffer(np.asarray(kept[0]).tobytes(), np.float32), 1)


GRAPHS: dict[str, Any] = {
    "twice": lambda x: x + x,
    "thrice": lambda x: (x + x) + x,
    "views": lambda x: x.reshape(6, 2).T.reshape(3, 4) + x.T.T * x + x,
    "parts": lambda x: x[:2].sum() + x[1:] * x[0] + x[2],
    "itself": lambda x: x * x + (x + 1) * (x + x),
    "diamonds": lambda x: (lambda y: (y + y) * y + y.relu() + (y - y.exp()))(x * 2),
    "broadcast": lambda x: x.mean() + x + x.sum(0) * x,
}


@pytest.mark.parametrize("how", ["plain", "retained", "created", "hooked", "taped"])
@pytest.mark.parametrize("name", GRAPHS)
def test_gradients_are_those_of_sums_in_new_memory(
    name: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradients() -> list[np.ndarray]:
        x = tc.tensor(np.linspace(-1, 1, 12).reshape(3, 4), requires_grad=True)
        seen: list[tc.Tensor] = []
        y = x * 1.5
        if how == "hooked":
            for tensor in (x, y):
                tensor.register_hook(seen.append)
        out = GRAPHS[name](y)
        if how == "hooked":
            out.register_hook(seen.append)
        seed = tc.full(out.shape, 0.5, dtype=out.dtype)
        if how == "taped":
            with tc.record({"x": x}) as tape:
                out.backward(seed)
            seen += [tc.tensor([(one.norm, one.total) for one in tape])]
        elif how == "created":
            (g,) = tc.grad(out, x, seed, create_graph=True)
            seen += [g, *tc.grad((g * g).sum() + (g + g).sum() + (y * x).sum(), (x, y))]
        else:
            out.backward(seed, retain_graph=how == "retained")
            if how == "retained":
                seen += [x.grad.clone(), *tc.grad(out, (x, y), seed)]
        assert (seed.array == 0.5).all()
        return [t.array for t in (x, y, *seen, *([x.grad] if x.grad is not None else []))]

    expected = gradients()
    monkeypatch.setattr(accumulate, "WORTH", 1)
    monkeypatch.setattr(ownership, "MANY", 1)
    for actual, right in zip(gradients(), expected, strict=True):
        np.testing.assert_array_equal(actual, right)
