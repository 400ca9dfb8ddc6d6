"""The same code on a GPU, proven without one: everything runs on the strict fake of CuPy."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import fake_cupy
import pytest
from fake_cupy import measured, no_synchronisation
from test_ops import CASES, FIXED, Call, assert_all_close, ours

from tinyconv.autograd import Op
from tinyconv.samples import Sample

pytestmark = pytest.mark.usefixtures("gpu")


def waits(name: str, sample: Sample) -> bool:
    """Does a shape depend on values, for which the host has to wait?

    So do a boolean index, and `one_hot` that is to find out the number of classes.
    """
    index = sample.params.get("index", ())
    parts = index if isinstance(index, tuple) else (index,)
    masks = any(getattr(part, "dtype", None) == bool for part in parts)
    return masks or (name == "one_hot" and len(sample.args) == 1)


def on_both(name: str, function: Any, sample: Sample, dtype: str = "float64") -> None:
    """Outputs, gradients and second gradients on the fake, and on the CPU."""
    here = {key: "cuda" for key in ("device", "source") if key in sample.params}
    call = Call(function, Sample(sample.args, {**sample.params, **here}), dtype, "cuda")
    with nullcontext() if waits(name, sample) else no_synchronisation():
        found = ours(call)
    assert all(t is None or type(t.data) is fake_cupy.ndarray for t in found)
    assert_all_close(found, ours(Call(function, sample, dtype)), 1e-12)


@pytest.mark.parametrize(("op", "sample"), CASES)
def test_operation(op: Op, sample: Sample) -> None:
    on_both(op.name, op, sample)


@pytest.mark.parametrize(("name", "function", "sample"), FIXED)
def test_function(name: str, function: Any, sample: Sample) -> None:
    on_both(name, function, sample)
