"""Whose memory is a result's?  That of the input where PyTorch returns a view, its own elsewhere.

Every operation and function of the registry on its samples, beside its twin in PyTorch: a view
where PyTorch has none lets a write through, a copy where PyTorch promises a view loses one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from calls import Call

import tinyconv as tc
from tinyconv.autograd import OPS
from tinyconv.nn import functional as F
from tinyconv.samples import FUNCTIONS

torch = pytest.importorskip("torch")
from torch_twins import function_twin, to_torch, twin  # noqa: E402

# Where PyTorch gives its input back, or a view, only because there was nothing to do.
COPIED = {"sum_to", "to_dtype", "einsum"}


def torch_shares(y: Any, xs: list[Any]) -> bool:
    memory = y.untyped_storage().data_ptr()
    return bool(y.numel()) and any(x.untyped_storage().data_ptr() == memory for x in xs)


def shares(y: Any, xs: list[Any]) -> bool:
    return any(np.shares_memory(y.array, x.array) for x in xs)


CASES = [
    pytest.param(name, op, s, twin(name), id=f"{name}-{i}")
    for name, op in sorted(OPS.items())
    for i, s in enumerate(op.samples)
] + [
    pytest.param(name, f, s, function_twin(name), id=f"F.{name}-{i}")
    for name, (f, samples) in sorted(FUNCTIONS.items())
    for i, s in enumerate(samples)
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "function", "sample", "other"), CASES)
def test_memory_is_shared_where_pytorch_shares_it(
    name: str, function: Any, sample: Any, other: Any
) -> None:
    call = Call(function, sample, np.float32)
    with tc.no_grad():
        mine, theirs = call.tensors(), [to_torch(a) for a in call.arrays]
        found, expected = call.on(mine), call.on(theirs, other, to_torch)
    for y, z in zip(found, expected, strict=True):
        if not isinstance(z, torch.Tensor):
            continue
        shared = torch_shares(z, theirs)
        assert shares(y, mine) == (shared and name not in COPIED)
        assert shared or y.array.flags.writeable


X = np.arange(1.0, 17.0, dtype=np.float32).reshape(1, 4, 2, 2)

NEUTRAL = {
    "flip of nothing": lambda m, f, x: m.flip(x, ()),
    "flip of one": lambda m, f, x: m.flip(x, (0,)),
    "roll by 0": lambda m, f, x: m.roll(x, 0, 2),
    "roll by 0, flat": lambda m, f, x: m.roll(x, 0),
    "tril": lambda m, f, x: m.tril(x, 5),
    "triu": lambda m, f, x: m.triu(x, -5),
    "clamp": lambda m, f, x: x.clamp(-100.0, 100.0),
    "clamp by tensors": lambda m, f, x: x.clamp(min=m.zeros(1), max=m.full((1,), 99.0)),
    "to the same dtype": lambda m, f, x: x.to(m.float32),
    "float": lambda m, f, x: x.float(),
    "to another dtype": lambda m, f, x: x.double(),
    "contiguous": lambda m, f, x: x.contiguous(),
    "contiguous of a permuted one": lambda m, f, x: x.permute(0, 2, 3, 1).contiguous(),
    "clone": lambda m, f, x: x.clone(),
    "detach": lambda m, f, x: x.detach(),
    "data": lambda m, f, x: x.data,
    "dropout without chance": lambda m, f, x: f.dropout(x, 0.0, True),
    "dropout in evaluation": lambda m, f, x: f.dropout(x, 0.5, False),
    "dropout2d in evaluation": lambda m, f, x: f.dropout2d(x, 0.5, False),
    "max_pool2d of 1": lambda m, f, x: f.max_pool2d(x, 1),
    "avg_pool2d of 1": lambda m, f, x: f.avg_pool2d(x, 1),
    "adaptive_avg_pool2d to the same": lambda m, f, x: f.adaptive_avg_pool2d(x, 2),
    "adaptive_max_pool2d to the same": lambda m, f, x: f.adaptive_max_pool2d(x, 2),
    "adaptive_avg_pool2d of a pixel": lambda m, f, x: f.adaptive_avg_pool2d(x[..., :1, :1], 1),
    "lp_pool2d of 1": lambda m, f, x: f.lp_pool2d(x, 1.0, 1),
    "pixel_shuffle by 1": lambda m, f, x: f.pixel_shuffle(x, 1),
    "pixel_unshuffle by 1": lambda m, f, x: f.pixel_unshuffle(x, 1),
    "nearest, same size": lambda m, f, x: f.interpolate(x, size=(2, 2)),
    "nearest by 1": lambda m, f, x: f.interpolate(x, scale_factor=1),
    "nearest": lambda m, f, x: f.interpolate(x, scale_factor=2),
    "nearest of a pixel": lambda m, f, x: f.interpolate(x[..., :1, :1], size=(4, 4)),
    "bilinear, same size": lambda m, f, x: f.interpolate(x, size=(2, 2), mode="bilinear"),
    "bilinear": lambda m, f, x: f.interpolate(x, size=(4, 4), mode="bilinear"),
    "pad by 0": lambda m, f, x: f.pad(x, (0, 0, 0, 0)),
    "pad cuts": lambda m, f, x: f.pad(x, (-1, 0)),
    "reflect by 0": lambda m, f, x: f.pad(x, (0, 0, 0, 0), "reflect"),
    "replicate by 0": lambda m, f, x: f.pad(x, (0, 0, 0, 0), "replicate"),
    "repeat": lambda m, f, x: x.repeat(2, 1, 1, 1),
    "repeat once": lambda m, f, x: x.repeat(1, 1, 1, 1),
    "tile": lambda m, f, x: m.tile(x, (1, 3)),
    "repeat of a row": lambda m, f, x: x[:, :1, :1, :1].repeat(5, 1, 1, 1),
    "cat of one": lambda m, f, x: m.cat([x]),
    "stack of one": lambda m, f, x: m.stack([x]),
    "unfold of 1": lambda m, f, x: f.unfold(x, 1),
    "fold of 1": lambda m, f, x: f.fold(x.reshape(1, 4, 4), (2, 2), 1),
    "sum of one": lambda m, f, x: x.sum(0),
    "mean of one": lambda m, f, x: x.mean(0),
    "amax of one": lambda m, f, x: x.amax(0),
    "max of one": lambda m, f, x: x.max(0)[0],
    "prod of one": lambda m, f, x: x.prod(0),
    "cumsum of one": lambda m, f, x: x.cumsum(0),
    "sort of one": lambda m, f, x: x.sort(0)[0],
    "add 0": lambda m, f, x: x + 0,
    "mul 1": lambda m, f, x: x * 1,
    "pow 1": lambda m, f, x: x**1,
    "abs": lambda m, f, x: x.abs(),
    "relu": lambda m, f, x: f.relu(x),
    "maximum": lambda m, f, x: m.maximum(x, x),
    "where": lambda m, f, x: m.where(x > 0, x, x),
    "masked_fill": lambda m, f, x: x.masked_fill(x < 0, 0.0),
    "index of all": lambda m, f, x: x[[0]],
    "mask": lambda m, f, x: x[x > 0],
    "index_select": lambda m, f, x: m.index_select(x, 0, m.tensor([0])),
    "gather": lambda m, f, x: m.gather(x, 0, m.zeros(1, 4, 2, 2).long()),
    "softmax": lambda m, f, x: f.softmax(x, 0),
    "leaky_relu": lambda m, f, x: f.leaky_relu(x),
    "relu6": lambda m, f, x: f.relu6(x),
    "conv2d by ones": lambda m, f, x: f.conv2d(x, m.ones(4, 1, 1, 1), groups=4),
    # views
    "reshape": lambda m, f, x: x.reshape(4, 4),
    "reshape to the same": lambda m, f, x: x.reshape(1, 4, 2, 2),
    "view": lambda m, f, x: x.view(16),
    "permute": lambda m, f, x: x.permute(0, 2, 3, 1),
    "transpose": lambda m, f, x: x.transpose(0, 1),
    "T": lambda m, f, x: x[0, 0].T,
    "expand": lambda m, f, x: x.expand(3, 4, 2, 2),
    "squeeze": lambda m, f, x: x.squeeze(0),
    "squeeze of a permuted one": lambda m, f, x: x.permute(2, 0, 1, 3).squeeze(1),
    "squeeze of nothing": lambda m, f, x: x.squeeze(1),
    "unsqueeze": lambda m, f, x: x.unsqueeze(0),
    "unsqueeze of a permuted one": lambda m, f, x: x.permute(2, 0, 1, 3).unsqueeze(1),
    "flatten": lambda m, f, x: x.flatten(1),
    "flatten of a permuted one": lambda m, f, x: x.permute(2, 0, 1, 3).flatten(),
    "split": lambda m, f, x: m.split(x, 2, 1)[1],
    "chunk": lambda m, f, x: m.chunk(x, 2, 1)[1],
    "unbind": lambda m, f, x: m.unbind(x, 1)[3],
    "x[0]": lambda m, f, x: x[0],
    "x[0, 1, 1, 1]": lambda m, f, x: x[0, 1, 1, 1],
    "x[..., None]": lambda m, f, x: x[..., None],
    "x[:, 1:3]": lambda m, f, x: x[:, 1:3],
}  # fmt: skip


def written(name: str, m: Any, f: Any, x: Any) -> tuple[list[Any], str]:
    """What is in x after one was added to the result in place."""
    with m.no_grad():
        y = NEUTRAL[name](m, f, x)
        try:
            y += 1
        except Exception as error:
            return x.flatten().tolist(), type(error).__name__
        return x.flatten().tolist(), ""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NEUTRAL)
def test_a_write_is_seen_where_pytorch_sees_it(name: str) -> None:
    found, refused = written(name, tc, F, tc.tensor(X))
    expected, theirs = written(name, torch, torch.nn.functional, torch.tensor(X))
    assert found == expected
    assert bool(refused) == bool(theirs)
