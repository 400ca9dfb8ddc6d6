"""The fake CuPy is itself tested: mistakes made on purpose must be caught, right code must pass."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import cuda_on_cpu
import fake_cupy
import numpy as np
import pytest
from fake_cupy import API, Synchronised, Undefined, cupy as cp, measured, no_synchronisation


def x() -> Any:
    return cp.asarray(np.arange(12, dtype=np.float32).reshape(3, 4))


def overlap() -> None:
    a = cp.zeros(5, np.float32)
    a[1:] += a[:-1]


def assign(a: Any, index: Any, value: Any) -> None:
    a[index] = value


# What CuPy refuses, or goes wrong with: each line is a bug that a GPU test would have to find.
MISTAKES: dict[str, tuple[Callable[[], Any], type[Exception] | tuple[type[Exception], ...]]] = {
    # host memory in the place of the device's
    "a NumPy operand": (lambda: x() + np.ones((3, 4), np.float32), TypeError),
    "a NumPy operand on the left": (lambda: np.ones((3, 4), np.float32) + x(), TypeError),
    "a 0-d NumPy operand": (lambda: x() * np.array(2.0, np.float32), TypeError),
    "a list operand": (lambda: x() * [1, 2, 3, 4], TypeError),
    "a NumPy operand of a function": (lambda: cp.where(x() > 0, np.ones(4), 0), TypeError),
    "a NumPy operand of @": (lambda: x() @ np.ones((4, 2), np.float32), TypeError),
    "a NumPy piece": (lambda: cp.concatenate([x(), np.ones((1, 4))]), TypeError),
    "a NumPy index": (lambda: x()[np.array([0, 1])], TypeError),
    "a list index": (lambda: x()[[0, 1]], TypeError),
    "a NumPy value": (lambda: assign(x(), 0, np.ones(4)), (TypeError, ValueError)),
    "a NumPy ufunc's out": (lambda: np.add(x(), 1, out=np.empty((3, 4))), TypeError),
    "np.asarray": (lambda: np.asarray(x()), TypeError),
    "np.array in a list": (lambda: np.array([x()[0, 0], x()[0, 1]]), TypeError),
    # names and keywords that are not there
    "where= in a ufunc": (lambda: cp.add(x(), x(), where=x() > 0), TypeError),
    "order= in a ufunc": (lambda: cp.add(x(), x(), order="K"), TypeError),
    "initial= in a reduction": (lambda: x().max(initial=0.0), TypeError),
    "where= in a reduction": (lambda: cp.sum(x(), where=x() > 0), TypeError),
    "device= at creation": (lambda: cp.zeros(3, device="cuda"), TypeError),
    "errstate": (lambda: cp.errstate(all="ignore"), AttributeError),
    "nditer": (lambda: cp.nditer(x()), AttributeError),
    "block": (lambda: cp.block([x()]), AttributeError),
    "insert": (lambda: cp.insert(x(), 0, 0), AttributeError),
    "vecdot": (lambda: cp.vecdot(x(), x()), AttributeError),
    "flags.writeable": (lambda: x().flags.writeable, AttributeError),
    "setflags": (lambda: x().setflags(write=False), AttributeError),
    "ctypes": (lambda: x().ctypes, AttributeError),
    "__index__": (lambda: operator.index(cp.asarray(3)), TypeError),
    "a size from the device": (lambda: cp.zeros(cp.asarray(3)), TypeError),
    "a slice from the device": (lambda: x()[: cp.asarray(2)], TypeError),
    "multiply.at": (lambda: cp.multiply.at(x(), cp.asarray([0]), 2.0), NotImplementedError),
    "subtract.reduce": (lambda: cp.subtract.reduce(x()), NotImplementedError),
    "quicksort": (lambda: cp.argsort(x(), kind="quicksort"), ValueError),
    "add.at of int8": (lambda: cp.add.at(cp.zeros(3, "i1"), cp.asarray([0]), 1), TypeError),
    # dtypes without a loop
    "minus of booleans": (lambda: -(x() > 0), TypeError),
    "bits of floats": (lambda: x() & x(), TypeError),
    "float64 into float32": (
        lambda: cp.add(x(), x(), cp.zeros((3, 4), np.int32)), TypeError,
    ),
    "a number that does not fit": (lambda: cp.zeros(3, np.uint8) + 300, OverflowError),
    # undefined results, without a word from CuPy
    "an index out of range": (lambda: x()[cp.asarray([0, 3])], Undefined),
    "take out of range": (lambda: cp.take(x(), cp.asarray([4]), 1), Undefined),
    "take_along_axis out of range": (
        lambda: cp.take_along_axis(x(), cp.asarray([[9]] * 3), 1), Undefined,
    ),
    "add.at out of range": (lambda: cp.add.at(x(), cp.asarray([3]), 1.0), Undefined),
    "a place written twice": (lambda: assign(x(), cp.asarray([0, 0]), x()[:2]), Undefined),
    "written where broadcast": (lambda: assign(cp.broadcast_to(x(), (2, 3, 4)), 0, 1), Undefined),
    "as_strided too far": (
        lambda: cp.lib.stride_tricks.as_strided(x(), (3, 5), (16, 4)), Undefined,
    ),
    "overlapping operands": (overlap, Undefined),
    # waits and copies that are easily overlooked
    "sliding_window_view": (
        lambda: cp.lib.stride_tricks.sliding_window_view(x(), (2, 2)), NotImplementedError,
    ),
    "float()": (lambda: float(x()[0, 0]), Synchronised),
    "int()": (lambda: int(x()[0, 0]), Synchronised),
    "bool()": (lambda: bool(x()[0, 0] > 0), Synchronised),
    "if x > 0": (lambda: 1 if x().sum() > 0 else 0, Synchronised),
    "x in y": (lambda: 3 in x().ravel(), Synchronised),
    "item()": (lambda: x().sum().item(), Synchronised),
    "tolist()": (lambda: x().tolist(), Synchronised),
    "get()": (lambda: x().get(), Synchronised),
    "asnumpy()": (lambda: cp.asnumpy(x()), Synchronised),
    "print": (lambda: str(x()), Synchronised),
    "a boolean mask": (lambda: x()[x() > 3], Synchronised),
    "nonzero": (lambda: x().nonzero(), Synchronised),
    "where with one argument": (lambda: cp.where(x() > 0), Synchronised),
    "synchronize": (lambda: cp.cuda.Device().synchronize(), Synchronised),
}  # fmt: skip


@pytest.mark.parametrize(("mistake", "error"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_caught(mistake: Callable[[], Any], error: type[Exception]) -> None:
    with no_synchronisation(), pytest.raises(error):
        mistake()


RIGHT: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    name: (function, function)
    for name, function in {
        "numbers": lambda a: 2 * a + np.float32(1) - a / 2,
        "broadcasting": lambda a: a * a[0] + a[:, :1],
        "in place": lambda a: operator.iadd(a, a),
        "a view's sum": lambda a: a.T[1:].sum(0),
        "to a scalar": lambda a: a.sum(),
        "booleans": lambda a: (a > 3) & (a < 7) | ~(a == 5),
        "powers": lambda a: a**2 + 2.0**a,
        "shapes": lambda a: a.reshape(2, 6).transpose(1, 0)[None, ::2],
        "slices": lambda a: a[..., None, ::-1, 1:3],
        "a product": lambda a: a @ a.T,
        "argmax": lambda a: a.argmax(1),
    }.items()
}


@pytest.mark.parametrize(("on_device", "on_host"), RIGHT.values(), ids=RIGHT)
def test_right_code_agrees_with_numpy(on_device: Any, on_host: Any) -> None:
    with no_synchronisation():
        found = on_device(x())
    expected = np.asarray(on_host(x().get()))
    assert type(found) is fake_cupy.ndarray
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(found.get(), expected)


def test_reductions_give_arrays_and_elements_too() -> None:
    for made in (x().sum(), x()[1, 2], cp.sqrt(x()[0, 0]), x().mean(), x().max()):
        assert type(made) is fake_cupy.ndarray
        assert made.shape == ()


def test_ufunc_results_are_c_ordered_whatever_the_operands() -> None:
    a = cp.zeros((2, 3, 4, 5), np.float32).transpose(0, 3, 1, 2)
    assert not a.flags.c_contiguous
    assert (a + a).flags.c_contiguous
    assert cp.maximum(a, 0).flags.c_contiguous
    assert a.copy("K").strides == a.strides


def test_views_share_memory_and_name_their_base() -> None:
    a = x()
    part = a[1:].T
    part += 1
    assert a[1, 0].item() == 5.0
    assert part.base is a
    assert (a + 0).base is None


def test_promotion_follows_nep_50() -> None:
    half, one = cp.ones(2, np.float16), cp.ones(2, np.float32)
    assert (half * 2.5).dtype == np.float16
    assert (half * one).dtype == np.float32
    assert (one * np.float64(2)).dtype == np.float64  # a NumPy scalar has a dtype of its own
    assert (cp.arange(3) / 2).dtype == np.float64
    assert cp.where(one > 0, one, 0).dtype == np.float32


def test_new_memory_is_poisoned() -> None:
    assert np.isnan(cp.empty(3).get()).all()
    assert np.isnan(cp.empty_like(x()).get()).all()
    assert (cp.empty(2, np.int64).get() == np.iinfo(np.int64).max).all()


def test_what_is_counted() -> None:
    a = x()
    with measured() as meter:
        b = a * 2 + a  # two launches
        b.T[1:].reshape(-1)  # a copy
        b.reshape(-1)[2:]  # views
        float(b.sum())  # a reduction; four bytes come back
        cp.add.at(b, cp.asarray([0, 0]), 1.0)
    assert meter.launches == 6
    assert meter.synchronisations == 1
    assert meter.device_to_host == 4
    assert meter.host_to_device == 16
    assert meter.atomics == 1
    assert meter.kernels["multiply"] == 1


def test_nobody_knows_of_an_event_before_the_host_has_waited() -> None:
    start, end = cp.cuda.Event(), cp.cuda.Event()
    start.record()
    x() + 1
    end.record()
    assert not end.done
    with pytest.raises(RuntimeError, match="cudaErrorNotReady"):
        cp.cuda.get_elapsed_time(start, end)
    with measured() as meter:
        end.synchronize()
    assert meter.synchronisations == 1
    assert end.done
    assert cp.cuda.get_elapsed_time(start, end) > 0


def test_a_product_copies_what_is_not_contiguous() -> None:
    a = cp.ones((8, 8))
    for operand, launches in ((a, 1), (a.T, 1), (a[:, ::2].T, 2)):
        with measured() as meter:
            operand @ a
        assert meter.launches == launches


def test_a_captured_graph_computes_again_from_the_same_memory() -> None:
    a, total = x(), cp.zeros((), np.float32)
    with capturing() as graphs:
        total[...] = (a * 2).sum()
        assert total._a == 0  # nothing is computed yet
    a.fill(1.0)
    with measured() as meter:
        graphs[0].launch()
    assert total.item() == 24.0
    assert meter.launches == 1
    total += 1
    graphs[0].launch()
    assert total.item() == 24.0


@contextmanager
def capturing() -> Iterator[list[Any]]:
    """What is in the list at the end: the graph, and the pool that it computes in."""
    stream, pool, made = cp.cuda.Stream(non_blocking=True), cp.cuda.MemoryPool(), []
    with stream, cp.cuda.using_allocator(pool.malloc):
        stream.begin_capture()
        assert stream.is_capturing()
        try:
            yield made
        finally:
            made += [stream.end_capture(), pool]


def test_results_of_a_capture_are_poisoned_until_the_launch() -> None:
    a = x()
    with capturing() as graphs:
        b = a + 1
        b *= 2
    assert np.isnan(b.get()).all()
    graphs[0].launch()
    assert b.tolist() == ((a + 1) * 2).tolist()


def test_memory_of_a_capture_is_its_own_and_has_to_be_kept() -> None:
    a, stream = x(), cp.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        for allocate in (lambda: a + 1, lambda: cp.empty(3), lambda: cp.zeros(2)):
            with pytest.raises(Undefined, match="default pool"):
                allocate()
        stream.end_capture()
    with capturing() as graphs:
        a + 1
    graph, pool = graphs
    assert pool.used_bytes() == a.nbytes
    graph.launch()
    graphs.clear()
    del pool
    with pytest.raises(Undefined, match="pool"):
        graph.launch()


def test_a_launch_beside_the_capture_is_caught() -> None:
    a = x()
    with capturing(), cp.cuda.Stream.null, pytest.raises(Undefined, match="another stream"):
        a + 1


def test_a_capture_that_waited_is_lost() -> None:
    stream = cp.cuda.Stream(non_blocking=True)
    stream.begin_capture()
    with pytest.raises(RuntimeError, match="StreamCaptureUnsupported"):
        cp.cuda.runtime.deviceSynchronize()
    with pytest.raises(RuntimeError, match="StreamCaptureInvalidated"):
        stream.end_capture()


@pytest.mark.parametrize(
    "forbidden",
    [lambda a: a.get(), lambda a: a @ a.T, lambda a: cp.asarray(np.ones(3)), lambda a: a[a > 0]],
    ids=["to the host", "cuBLAS", "from the host", "a mask"],
)
def test_a_capture_forbids(forbidden: Callable[[Any], Any]) -> None:
    a, stream, pool = x(), cp.cuda.Stream(non_blocking=True), cp.cuda.MemoryPool()
    with stream, cp.cuda.using_allocator(pool.malloc):
        stream.begin_capture()
        try:
            with pytest.raises(RuntimeError, match="captur"):
                forbidden(a)
        finally:
            with suppress(RuntimeError):  # the capture may be lost
                stream.end_capture()
    with pytest.raises(RuntimeError, match="default"):
        cp.cuda.Stream.null.begin_capture()


def test_the_fake_has_no_name_that_the_wheel_has_not() -> None:
    own = {name for name in vars(fake_cupy.ndarray) if not name.startswith("__")}
    assert own - {"_a"} <= set(API["ndarray"])
    assert set(fake_cupy.IMPLEMENTED) <= set(API["functions"])
    known = {*API["functions"], *API["ufuncs"], *API["classes"], *API["modules"],
             *API["aliases_of_numpy"]}
    public = {name for name in vars(cp) if not name.startswith("_")}
    assert public <= known


def test_what_only_the_fake_lacks_says_so() -> None:
    with pytest.raises(NotImplementedError, match="add it to tests/fake_cupy"):
        cp.histogram(x())


def test_installed_is_undone() -> None:
    import sys

    before = sys.modules.get("cupy")
    with fake_cupy.installed():
        import cupy

        assert cupy is cp
    assert sys.modules.get("cupy") is before


# ------------------------------------------------------------------------------- raw kernels

TWICE = """
typedef float real;
extern "C" __global__ void twice(real* x, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) x[i] *= 2;
}
"""


def test_raw_kernels_are_launched_on_memory_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := cuda_on_cpu.missing():
        pytest.skip(reason)
    with pytest.raises(RuntimeError, match=r"set RawModule\.compiler"):
        cp.RawModule(code=TWICE)
    monkeypatch.setattr(fake_cupy.RawModule, "compiler", cuda_on_cpu.compile_kernels)
    module = cp.RawModule(code=TWICE, options=())
    with pytest.raises(AttributeError, match="no kernel 'thrice'"):
        module.get_function("thrice")
    twice, a = module.get_function("twice"), x()
    with measured() as meter, no_synchronisation():
        twice((1,), (4,), (a, np.int32(3)))
    assert meter.kernels == {"twice": 1}
    assert a.get().ravel()[:5].tolist() == [0, 2, 4, 3, 4]
    with pytest.raises(TypeError, match="an array of the host"):
        twice((1,), (4,), (np.ones(3, np.float32), np.int32(3)))
    with pytest.raises(TypeError, match="is int64, the kernel takes int32"):
        twice((1,), (4,), (a, 3))
