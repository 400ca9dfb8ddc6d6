"""The walk, on drawn graphs, and the call, of every operation, against `autograd.naive`."""

from functools import partial
from typing import Any

import numpy as np
import pytest
from calls import Call
from hypothesis import given, settings, strategies as st

import tinyconv as tc
from tinyconv.autograd import OPS, Op, walk as walk_room
from tinyconv.autograd.naive import naive_call, naive_walk

sincos = Op(
    lambda x: (np.sin(x), np.cos(x)), "sincos",
    same=None, differentiable=True, samples=(), outputs=2,
)  # fmt: skip
sincos.defvjp(lambda g, s, c, _x: g[0] * c - g[1] * s)

UNARY = (
    tc.tanh, tc.exp, tc.sigmoid, lambda x: x.T, lambda x: x * 0.5, lambda x: x.sum(0),
    lambda x: sincos(x)[1], lambda x: tc.mul(*sincos(x)),
)  # fmt: skip
BINARY = (tc.add, tc.sub, tc.mul, tc.matmul, tc.maximum)


@st.composite
def graphs(draw: Any) -> tuple[list[tc.Tensor], list[tc.Tensor]]:
    """Leaves of 3x3 numbers, and outputs: any of what is computed from them, used or not."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    leaves = [tc.tensor(rng.uniform(-1, 1, (3, 3)), requires_grad=True) for _ in range(3)]
    made = list(leaves)
    for _ in range(draw(st.integers(1, 12))):
        x, y = (made[draw(st.integers(0, len(made) - 1))] for _ in range(2))
        f = draw(st.sampled_from(UNARY + BINARY))
        z = f(x) if f in UNARY else f(x, y)
        made.append(tc.tanh(z).broadcast_to((3, 3)))
    nodes = made[3:]
    return leaves, [nodes[draw(st.integers(0, len(nodes) - 1))] for _ in range(2)]


def definition(outputs: Any, inputs: Any, create_graph: bool) -> list[Any]:
    roots: dict[Any, Any] = {}
    for y in outputs:
        seed = tc.ones_like(y) if create_graph else np.ones(y.shape)
        roots[y.node] = roots[y.node] + seed if y.node in roots else seed
    found = naive_walk(roots, create_graph)
    return [found.get(x.node or x) for x in inputs]


def agree(ours: Any, theirs: Any) -> None:
    for g, expected in zip(ours, theirs, strict=True):
        assert (g is None) == (expected is None)
        if g is not None:
            expected = getattr(expected, "array", expected)
            np.testing.assert_allclose(g.array, expected, rtol=1e-12, atol=1e-12)


@given(graphs(), st.integers(0, 7))
@settings(max_examples=150, deadline=None)
def test_the_walk_is_its_definition(graph: Any, chosen: int) -> None:
    leaves, outputs = graph
    inputs = [x for i, x in enumerate(leaves) if chosen >> i & 1] or [outputs[0]]
    expected = definition(outputs, inputs, False)
    seeds = [tc.ones_like(y) for y in outputs]
    agree(tc.grad(outputs, inputs, seeds, retain_graph=True, allow_unused=True), expected)
    first = tc.grad(outputs, leaves, seeds, create_graph=True, allow_unused=True)
    naive = definition(outputs, leaves, True)
    agree(first, naive)
    for x in leaves:
        assert x.grad is None
    for g, other in zip(first, naive, strict=True):
        if g is not None and g.requires_grad:
            agree(
                tc.grad([g], leaves, [tc.ones_like(g)], retain_graph=True, allow_unused=True),
                definition([other], leaves, False),
            )


def test_a_walk_in_the_wrong_order_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    x = tc.tensor([[0.5]], requires_grad=True)
    y = x * 2.0
    z = (y + tc.tanh(y * y)) * y
    expected = definition([z], [x], False)
    oldest = lambda heap: heap.pop(max(range(len(heap)), key=lambda i: heap[i][0]))  # noqa: E731
    monkeypatch.setattr(walk_room, "heappop", oldest)
    with pytest.raises((AssertionError, KeyError, tc.errors.GraphError)):
        agree(tc.grad(z, [x]), expected)


def test_an_output_of_the_walk_may_be_on_the_way_to_another() -> None:
    x = tc.tensor(0.5, requires_grad=True)
    y = tc.exp(x)
    z = y * y
    assert [g.item() for g in tc.grad([z, y], [y, x], [tc.ones(()), tc.ones(())])] == pytest.approx(
        [2 * np.exp(0.5) + 1, (2 * np.exp(0.5) + 1) * np.exp(0.5)]
    )


# --- the call

SINGLE = [
    (name, sample)
    for name, op in OPS.items() if op.outputs == 1 and op.vjps and not op.fused
    for sample in op.samples[:2]
]  # fmt: skip


@pytest.mark.parametrize(("name", "sample"), SINGLE, ids=[name for name, _ in SINGLE])
def test_a_call_is_its_definition(name: str, sample: Any) -> None:
    call = Call(OPS[name], sample)
    leaves = call.tensors()
    (y,) = call.on(leaves)
    (z,) = call.on(leaves, partial(naive_call, OPS[name]), call.placed)
    np.testing.assert_array_equal(y.detach().numpy(), z.detach().numpy())
    assert (y.node is None) == (z.node is None)
    if y.node is not None:
        assert y.node.inputs == z.node.inputs
        assert y.node.reads.wanted == z.node.reads.wanted
        grads = [x for x in leaves if x.requires_grad]
        seed = tc.ones_like(y)
        found = [tc.grad(t, grads, seed, allow_unused=True) for t in (y, z)]
        for g, h in zip(*found, strict=True):
            assert (g is None) == (h is None)
            if g is not None:
                np.testing.assert_array_equal(g.numpy(), h.numpy())
