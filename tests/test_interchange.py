"""Other libraries' arrays without a copy, on the CPU; tests/test_cuda.py has the GPU's side."""

from typing import Any

import numpy as np
import pytest

import tinyconv as tc

try:
    import torch
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed")


def test_numpy_lends_its_memory() -> None:
    array = np.zeros((2, 3), np.float32)
    for t in (tc.from_dlpack(array), tc.as_tensor(array), tc.from_numpy(array)):
        assert np.shares_memory(t.array, array)
        t.add_(1.0)
    assert array.tolist() == [[3.0] * 3] * 2
    assert tc.from_dlpack(array[:, ::2]).array.strides == array[:, ::2].strides


def test_numpy_borrows_a_tensor() -> None:
    t = tc.zeros(2, 3)
    assert np.shares_memory(np.from_dlpack(t), t.array)
    assert t.__dlpack_device__() == (1, 0)
    assert not hasattr(t, "__cuda_array_interface__")


@needs_torch
def test_torch_in_both_directions() -> None:
    theirs = torch.zeros(2, 3)
    ours = tc.from_dlpack(theirs)
    theirs[0, 0] = 5.0
    assert ours[0, 0].item() == 5.0
    ours.add_(1.0)
    assert theirs[1, 2].item() == 1.0
    again = torch.from_dlpack(ours)
    assert again.data_ptr() == theirs.data_ptr()
    assert tc.as_tensor(theirs).array.ctypes.data == theirs.data_ptr()


def test_as_tensor_copies_only_what_must_change() -> None:
    t = tc.ones(3)
    assert tc.as_tensor(t) is t
    assert tc.as_tensor(t, dtype=tc.float64).dtype == tc.float64
    assert tc.as_tensor([1, 2.5]).tolist() == [1.0, 2.5]
    assert tc.as_tensor(3).shape == ()


def test_the_graph_is_not_lost() -> None:
    t = tc.ones(3, requires_grad=True)
    with pytest.raises(tc.GraphError, match=r"x\.detach\(\)"):
        np.from_dlpack(t)
    assert np.from_dlpack(t.detach()).tolist() == [1.0] * 3
    assert not tc.from_dlpack(t).requires_grad


class Elsewhere:
    """An array on a device that nobody here knows."""

    def __dlpack__(self, **_: Any) -> Any:
        raise AssertionError

    def __dlpack_device__(self) -> tuple[int, int]:
        return 8, 0  # Metal


def test_what_cannot_be_lent() -> None:
    with pytest.raises(tc.DTypeError, match=r"neither __dlpack__ nor .*; tc\.tensor\(x\)"):
        tc.from_dlpack([1, 2])
    with pytest.raises(tc.DeviceError, match="device type 8"):
        tc.from_dlpack(Elsewhere())
    with pytest.raises(tc.DTypeError, match="complex"):
        tc.from_dlpack(np.ones(2, complex))
