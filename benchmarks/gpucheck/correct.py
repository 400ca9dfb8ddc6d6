"""Is it right?  The registry against NumPy, the same bits twice, no hidden waits, few launches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from networks import tinyconv_model, tinyconv_training

import tinyconv as tc
from gpucheck import ours, peers
from gpucheck.device import (
    PRECISIONS,
    Side,
    cupy,
    elapsed,
    paths,
    poisoned,
    precision,
    using,
)
from gpucheck.parts import Context, Missing, Row, Rows, part, reason
from gpucheck.verdict import TOLERANCES
from tinyconv.autograd import OPS
from tinyconv.backend import CPU
from tinyconv.samples import FUNCTIONS, Sample

RANDOM = "dropout"  # in names of functions that NumPy cannot repeat


@part(share=100)
def operations(context: Context) -> Rows:
    """Every operation, forward, backward and double backward, against NumPy in float64"""
    cupy()  # connected before the CPU's choice changes, which is its first choice, too
    CPU.use("reference")
    wanted = context.sizes.operations
    return {
        name: partial(against_numpy, function, samples)
        for name, function, samples in registry()
        if wanted is None or name in wanted
    }


def registry() -> Iterator[tuple[str, Callable[..., Any], list[Sample]]]:
    yield from ((name, op, op.samples) for name, op in OPS.items())
    for name, (function, samples) in FUNCTIONS.items():
        if RANDOM not in name:
            yield name, function, samples


def against_numpy(function: Any, samples: list[Sample]) -> Row:
    """The largest ||error|| / ||reference|| of the samples, by path, precision and order."""
    worst: dict[str, dict[str, dict[str, float]]] = {}
    wrong = []
    for i, sample in enumerate(samples):
        for path, name, found in tried(function, sample):
            where = f"sample {i}, {path}, {name}"
            if isinstance(found, str):
                wrong.append(f"{where}: {found}")
                continue
            seen = worst.setdefault(path, {}).setdefault(name, {})
            for order, error in found.items():
                seen[order] = larger(seen.get(order, 0.0), error)
                if not error <= TOLERANCES[name]:
                    wrong.append(f"{where}, {order}: {error:.1e}")
    return {"worst": worst, "ok": not wrong, "why": "; ".join(wrong[:5]), "wrong": wrong}


def tried(function: Any, sample: Sample) -> Iterator[tuple[str, str, dict[str, float] | str]]:
    """Path, precision, and the error of each order, or why there is none."""
    references = {
        dtype: outcome(function, sample, dtype, exact=True) for dtype in set(PRECISIONS.values())
    }
    for name, dtype in PRECISIONS.items():
        for path in paths():
            try:
                with using(path), precision(name), poisoned():
                    found = outcome(function, sample, dtype, exact=False)
                result: dict[str, float] | str = compared(found, references[dtype])
            except Exception as error:
                result = reason(error)
            yield path, name, result


def larger(a: float, b: float) -> float:
    """NaN is larger than any number."""
    return b if b > a or b != b else a


def outcome(
    function: Any, sample: Sample, dtype: str, exact: bool
) -> dict[str, list[np.ndarray[Any, Any] | None]]:
    """Outputs, gradients and second gradients, by order.

    exact: on the CPU in float64, from the same numbers, which have been rounded to dtype
    """
    from calls import ORDERS, Call, by_order

    drawn = Call(function, sample, dtype, "cuda")
    call, wide = drawn, np.dtype(dtype)
    if exact:
        call, wide = Call(function, sample, np.float64), np.dtype(np.float64)
        call.arrays = [a.astype(wide) if a.dtype.kind == "f" else a for a in drawn.arrays]

    def direction(array: Any) -> Any:
        return tc.tensor(array.astype(dtype).astype(wide), device=call.device)

    orders = by_order(call.on, call.tensors(), tc.grad, direction)
    return {
        name: [None if t is None else t.detach().cpu().numpy() for t in tensors]
        for name, tensors in zip(ORDERS, orders, strict=False)  # not all of them have gradients
    }


def compared(found: dict[str, list[Any]], expected: dict[str, list[Any]]) -> dict[str, float]:
    """The largest relative error of each order; where zero is expected, the error itself."""
    if {k: len(v) for k, v in found.items()} != {k: len(v) for k, v in expected.items()}:
        raise AssertionError("another number of results")
    return {
        order: max_of(relative(a, b) for a, b in zip(arrays, expected[order], strict=True))
        for order, arrays in found.items()
    }


def max_of(errors: Iterator[float]) -> float:
    largest = 0.0
    for error in errors:
        largest = larger(largest, error)
    return largest


def relative(found: Any, expected: Any) -> float:
    """||found - expected|| / ||expected||; None is zero, and integers have no error."""
    if found is None or expected is None:
        other = expected if found is None else found
        return 0.0 if other is None or not other.any() else float("inf")
    if found.shape != expected.shape:
        raise AssertionError(f"shape {found.shape}, expected {expected.shape}")
    if expected.dtype.kind != "f":
        return 0.0 if np.array_equal(found, expected) else float("inf")
    error = float(np.linalg.norm((found.astype(np.float64) - expected).ravel()))
    norm = float(np.linalg.norm(expected.ravel()))
    return error / norm if norm else error


# ---------------------------------------------------------------------------------- equal bits


@part(share=30)
def determinism(context: Context) -> Rows:
    """Train steps twice in deterministic mode: the same bits in losses, parameters, statistics"""
    found = list(paths())
    rows: Rows = {path: partial(twice, path, context) for path in found}
    if "own" in found:
        rows[ours.GRAPH] = partial(twice, found[-1], context, ours.captured)
    return rows


def twice(path: str, context: Context, change: Callable[[Any], Any] = lambda step: step) -> Row:
    """change: of the step, before it is used"""
    before = tc.are_deterministic_algorithms_enabled()
    tc.use_deterministic_algorithms(True)
    try:
        with using(path):
            (losses, first), (again, second) = (
                trained(context.sizes.batches[0], context.sizes.steps, change) for _ in range(2)
            )
    finally:
        tc.use_deterministic_algorithms(before)
    differing = [name for name in first if not same_bits(first[name], second[name])]
    differing += [] if same_bits(losses, again) else ["losses"]
    finite = bool(np.isfinite(losses).all())
    return {
        "steps": context.sizes.steps,
        "losses": [float(losses[0]), float(losses[-1])],
        "differing": differing,
        "ok": finite and not differing,
        "why": ", ".join(differing[:5]) if finite else "the loss is not finite",
    }


def trained(n: int, steps: int, change: Callable[[Any], Any]) -> tuple[Any, dict[str, Any]]:
    """Losses and state after so many steps from the same weights."""
    model = tinyconv_model().to("cuda")
    step = change(tinyconv_training(n, device="cuda", model=model))
    losses = tc.stack([step().detach() for _ in range(steps)]).cpu().numpy()
    return losses, {name: t.cpu().numpy() for name, t in model.state_dict().items()}


def same_bits(a: Any, b: Any) -> bool:
    return a.tobytes() == b.tobytes()


# --------------------------------------------------------------------------- waits and launches


@part(share=32)
def audit(context: Context) -> Rows:
    """A train step: does the host wait for the device in it, and how many launches does it take?

    The launches are those that PyTorch's profiler sees, which are all of the process.
    """
    rows: Rows = {}
    n = context.sizes.batches[0]
    for path, make in {**ours.steps(n), **ours.graphs(n)}.items():
        rows[f"{path}: waits"] = partial(of_a_step, path, make, partial(hidden_wait, context))
        rows[f"{path}: launches"] = partial(of_a_step, path, make, peers.launches)
    if why := peers.missing():  # CuPy has nothing that counts the launches of a process
        rows |= {name: lambda: {"missing": why} for name in rows if name.endswith("launches")}
    return rows


def of_a_step(path: str, make: Callable[[], Side], measure: Callable[[Any], Row]) -> Row:
    try:
        side = make()
    except Missing as error:
        return {"path": path, "missing": str(error)}
    side.before()
    for _ in range(3):
        side.work()
    return {"path": path, **measure(side.work)}


def hidden_wait(context: Context, step: Callable[[], Any]) -> Row:
    """Does the step return while the device is still busy with what it was given before?

    If it does, nothing in it has waited, and its time is what the host needs for it.  Kept busy the
    device is with matrix products.
    """
    a = cupy().zeros((context.sizes.matrix,) * 2, "float32")
    products = max(1, round(context.sizes.busy / elapsed(lambda: a @ a)))
    event = cupy().cuda.Event()
    for _ in range(2):  # the first round fills the memory pool: to ask the driver may wait
        tc.cuda.synchronize()
        for _ in range(products):
            a @ a
        event.record()
        began = time.perf_counter()
        step()
        seconds, waited = time.perf_counter() - began, event.done
    tc.cuda.synchronize()
    return {
        "waited": waited,
        "host_seconds": seconds,
        "ok": not waited,
        "why": "the host waited for the device within the step" if waited else "",
    }
